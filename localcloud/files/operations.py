"""The table of operations, with the headers and parameters that each supports.

Only what is in the table is emulated. Anything else is rejected: 501 for what Azure supports, 400 or 405 for
what it does not. Unsupported `x-ms-` headers and parameters are rejected too, so that nothing is silently
ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from localcloud.files import (
    copy_operations,
    directory_operations,
    file_operations,
    lease_operations,
    range_operations,
    share_operations,
)
from localcloud.files.entries import SMB_HEADERS
from localcloud.files.errors import (
    StorageError,
    invalid_parameter,
    missing_header,
    not_emulated,
    storage_error,
    unsupported_header,
    unsupported_parameter,
)
from localcloud.files.headers import MAX_RANGE_BYTES
from localcloud.files.request import FileRequest, FileResponse, HttpRequest
from localcloud.files.sas import PARAMETERS as SAS_PARAMETERS

Handler = Callable[[FileRequest], FileResponse]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of Azure Files.

    Attributes:
        handler: The function that performs it.
        resource: What it acts on, as in an account SAS: `s` the account, `c` a share, `o` an entry.
        permissions: The SAS permissions, at least one of which it needs.
        headers: The `x-ms-` headers that it supports besides those of every request.
        parameters: The query parameters that it supports besides those of every request.
        has_metadata: Whether it supports `x-ms-meta-` headers.
        max_body_bytes: The longest body that it allows.
    """

    handler: Handler
    resource: str
    permissions: str
    headers: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    has_metadata: bool = False
    max_body_bytes: int = 0


_EVERY_HEADER: Final = frozenset(
    {
        "x-ms-date",
        "x-ms-version",
        "x-ms-client-request-id",
        "x-ms-return-client-request-id",
        "x-ms-file-request-intent",
        "x-ms-allow-trailing-dot",
    }
)
_EVERY_PARAMETER: Final = frozenset({"restype", "comp", "timeout"}) | SAS_PARAMETERS
_CONDITIONS: Final = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
#: The `x-ms-` headers that Azure supports and the local cloud does not, with the text for the error.
_HEADERS_NOT_EMULATED: Final = {
    "x-ms-structured-body": "structured bodies (CRC64 checksums)",
    "x-ms-structured-content-length": "structured bodies (CRC64 checksums)",
    "x-ms-source-content-crc64": "CRC64 checksums",
    "x-ms-source-if-match-crc64": "CRC64 checksums",
    "x-ms-source-if-none-match-crc64": "CRC64 checksums",
    "x-ms-copy-source-authorization": "OAuth for the source of a copy",
    "x-ms-file-permission-format": "file permissions (SDDL) other than the inherited one",
    "x-ms-file-permission-copy-mode": "file permissions (SDDL) other than the inherited one",
    "x-ms-owner": "NFS shares",
    "x-ms-group": "NFS shares",
    "x-ms-mode": "NFS shares",
    "x-ms-file-file-type": "NFS shares",
    "x-ms-file-mode-copy-mode": "NFS shares",
    "x-ms-file-owner-copy-mode": "NFS shares",
    "x-ms-root-squash": "NFS shares",
    "x-ms-enable-snapshot-virtual-directory-access": "share snapshots",
    "x-ms-share-paid-bursting-enabled": "provisioned shares",
    "x-ms-share-paid-bursting-max-bandwidth-mibps": "provisioned shares",
    "x-ms-share-paid-bursting-max-iops": "provisioned shares",
    "x-ms-share-provisioned-iops": "provisioned shares",
    "x-ms-share-provisioned-bandwidth-mibps": "provisioned shares",
    "x-ms-enable-smb-directory-lease": "SMB directory leases",
}
_NOT_EMULATED: Final = {
    ("service", "properties"): "File service properties",
    ("service", "userdelegationkey"): "user delegation keys",
    ("share", "acl"): "stored access policies",
    ("share", "snapshot"): "share snapshots",
    ("share", "filepermission"): "file permissions (SDDL)",
    ("share", "undelete"): "share soft delete",
    ("symboliclink", ""): "NFS shares",
    ("hardlink", ""): "NFS shares",
}

_LEASE: Final = frozenset({"x-ms-lease-id"})
_LEASE_ACTION: Final = _LEASE | {
    "x-ms-lease-action",
    "x-ms-lease-duration",
    "x-ms-proposed-lease-id",
    "x-ms-lease-break-period",
}
_SHARE_SETTINGS: Final = frozenset({"x-ms-share-quota", "x-ms-access-tier"})
_CONTENT: Final = frozenset(
    {
        "x-ms-content-length",
        "x-ms-content-type",
        "x-ms-content-encoding",
        "x-ms-content-language",
        "x-ms-content-md5",
        "x-ms-content-disposition",
        "x-ms-cache-control",
    }
)
_PAGE: Final = frozenset({"prefix", "marker", "maxresults", "include"})
_RENAME: Final = SMB_HEADERS | {
    "x-ms-file-rename-source",
    "x-ms-file-rename-replace-if-exists",
    "x-ms-file-rename-ignore-readonly",
    "x-ms-source-lease-id",
    "x-ms-destination-lease-id",
    "x-ms-source-allow-trailing-dot",
    "x-ms-content-type",
}
_COPY: Final = SMB_HEADERS | {
    "x-ms-copy-source",
    "x-ms-source-allow-trailing-dot",
    "x-ms-file-copy-ignore-readonly",
    "x-ms-file-copy-set-archive",
    "x-ms-lease-id",
}
_RANGE: Final = frozenset({"x-ms-range", "x-ms-write", "x-ms-lease-id", "x-ms-file-last-write-time"})
_FROM_URL: Final = _RANGE | {"x-ms-copy-source", "x-ms-source-range", "x-ms-source-allow-trailing-dot"}

_Key = tuple[str, str, str, str]


def _both(
    verbs: tuple[str, ...], level: str, restype: str, comp: str, operation: Operation
) -> dict[_Key, Operation]:
    return {(level, verb, restype, comp): operation for verb in verbs}


_READ: Final = ("GET", "HEAD")
_LISTED: Final = Operation(
    directory_operations.list_directory, "c", "l", frozenset({"x-ms-file-extended-info"}), _PAGE
)
_DIRECTORY: Final = Operation(directory_operations.directory_properties, "o", "r")
_HANDLES: Final = Operation(
    directory_operations.list_handles,
    "o",
    "r",
    frozenset({"x-ms-recursive"}),
    frozenset({"marker", "maxresults"}),
)
_CLOSED: Final = Operation(
    directory_operations.close_handles,
    "o",
    "w",
    frozenset({"x-ms-recursive", "x-ms-handle-id"}),
    frozenset({"marker"}),
)
_CREATED_FILE: Final = Operation(
    file_operations.create_file,
    "o",
    "cw",
    _CONTENT | SMB_HEADERS | _LEASE | {"x-ms-type", "x-ms-file-property-semantics"},
    has_metadata=True,
    max_body_bytes=MAX_RANGE_BYTES,
)
_COPIED_FILE: Final = Operation(copy_operations.copy_file, "o", "cw", _COPY, has_metadata=True)
_PUT_RANGE: Final = Operation(range_operations.put_range, "o", "w", _RANGE, max_body_bytes=MAX_RANGE_BYTES)
_PUT_RANGE_FROM_URL: Final = Operation(range_operations.put_range_from_url, "o", "w", _FROM_URL)

#: Level (account, share, path), method, restype, comp -> operation. The root directory of a share is on its
#: level.
_OPERATIONS: Final[Mapping[_Key, Operation]] = {
    ("account", "GET", "", "list"): Operation(share_operations.list_shares, "s", "l", parameters=_PAGE),
    ("share", "PUT", "share", ""): Operation(
        share_operations.create_share,
        "c",
        "cw",
        _SHARE_SETTINGS | {"x-ms-enabled-protocols"},
        has_metadata=True,
    ),
    **_both(_READ, "share", "share", "", Operation(share_operations.share_properties, "c", "r", _LEASE)),
    ("share", "DELETE", "share", ""): Operation(
        share_operations.delete_share, "c", "d", _LEASE | {"x-ms-delete-snapshots"}
    ),
    ("share", "PUT", "share", "properties"): Operation(
        share_operations.set_share_properties, "c", "w", _SHARE_SETTINGS | _LEASE
    ),
    ("share", "PUT", "share", "metadata"): Operation(
        share_operations.set_share_metadata, "c", "w", _LEASE, has_metadata=True
    ),
    ("share", "PUT", "share", "lease"): Operation(lease_operations.lease_share, "c", "wd", _LEASE_ACTION),
    ("share", "GET", "share", "stats"): Operation(share_operations.share_statistics, "c", "r", _LEASE),
    ("share", "GET", "directory", "list"): _LISTED,
    **_both(_READ, "share", "directory", "", _DIRECTORY),
    ("share", "PUT", "directory", "metadata"): Operation(
        directory_operations.set_directory_metadata, "o", "w", has_metadata=True
    ),
    ("share", "PUT", "directory", "properties"): Operation(
        directory_operations.set_directory_properties, "o", "w", SMB_HEADERS
    ),
    ("share", "DELETE", "directory", ""): Operation(directory_operations.delete_directory, "o", "d"),
    ("share", "GET", "", "listhandles"): _HANDLES,
    ("share", "PUT", "", "forceclosehandles"): _CLOSED,
    ("path", "GET", "directory", "list"): _LISTED,
    ("path", "PUT", "directory", ""): Operation(
        directory_operations.create_directory,
        "o",
        "cw",
        SMB_HEADERS | {"x-ms-file-property-semantics"},
        has_metadata=True,
    ),
    **_both(_READ, "path", "directory", "", _DIRECTORY),
    ("path", "DELETE", "directory", ""): Operation(directory_operations.delete_directory, "o", "d"),
    ("path", "PUT", "directory", "metadata"): Operation(
        directory_operations.set_directory_metadata, "o", "w", has_metadata=True
    ),
    ("path", "PUT", "directory", "properties"): Operation(
        directory_operations.set_directory_properties, "o", "w", SMB_HEADERS
    ),
    ("path", "PUT", "directory", "rename"): Operation(
        copy_operations.rename_directory, "o", "w", _RENAME, has_metadata=True
    ),
    ("path", "PUT", "", ""): _CREATED_FILE,
    ("path", "PUT", "", "range"): _PUT_RANGE,
    ("path", "GET", "", ""): Operation(
        file_operations.download_file, "o", "r", _LEASE | {"x-ms-range", "x-ms-range-get-content-md5"}
    ),
    ("path", "HEAD", "", ""): Operation(file_operations.file_properties, "o", "r", _LEASE),
    ("path", "DELETE", "", ""): Operation(file_operations.delete_file, "o", "d", _LEASE),
    ("path", "PUT", "", "properties"): Operation(
        file_operations.set_file_properties, "o", "w", _CONTENT | SMB_HEADERS | _LEASE
    ),
    ("path", "PUT", "", "metadata"): Operation(
        file_operations.set_file_metadata, "o", "w", _LEASE, has_metadata=True
    ),
    ("path", "PUT", "", "lease"): Operation(lease_operations.lease_file, "o", "wd", _LEASE_ACTION),
    ("path", "GET", "", "rangelist"): Operation(
        range_operations.list_ranges, "o", "r", _LEASE | {"x-ms-range", "x-ms-file-support-rename"}
    ),
    ("path", "PUT", "", "rename"): Operation(
        copy_operations.rename_file, "o", "w", _RENAME, has_metadata=True
    ),
    ("path", "PUT", "", "copy"): Operation(
        copy_operations.abort_copy, "o", "w", _LEASE | {"x-ms-copy-action"}, frozenset({"copyid"})
    ),
    ("path", "GET", "", "listhandles"): _HANDLES,
    ("path", "PUT", "", "forceclosehandles"): _CLOSED,
}


def find_operation(request: HttpRequest) -> Operation:
    """Return the operation for a request.

    Raises:
        StorageError: NotImplementedByLocalCloud, UnsupportedHttpVerb, or InvalidQueryParameterValue.
    """
    level = ("account", "share", "path")[min(len(request.names), 2)]
    restype = request.query.get("restype", "").lower()
    comp = request.query.get("comp", "").lower()
    if (restype, comp) in _NOT_EMULATED:
        raise not_emulated(_NOT_EMULATED[restype, comp])
    if level == "path" and request.method == "PUT" and not restype:
        overloaded = _find_put(request, comp)
        if overloaded is not None:
            return overloaded
    operation = _OPERATIONS.get((level, request.method, restype, comp))
    if operation is None:
        raise _unknown(level, request.method, restype, comp)
    return operation


def check_request(request: HttpRequest, operation: Operation) -> None:
    """Check that an operation supports the headers and parameters of a request.

    Raises:
        StorageError: UnsupportedHeader, UnsupportedQueryParameter, NotImplementedByLocalCloud and the like.
    """
    for name in request.query:
        if name in {"sharesnapshot", "prevsharesnapshot"}:
            raise not_emulated("share snapshots")
        if name not in _EVERY_PARAMETER and name not in operation.parameters:
            raise unsupported_parameter(name)
    timeout = request.query.get("timeout", "0")
    if not (timeout.isascii() and timeout.isdigit()):
        raise invalid_parameter("timeout", timeout, "It is not a number of seconds.")
    for name in request.headers:
        _check_header(name.lower(), operation)


def _check_header(name: str, operation: Operation) -> None:
    if name in _CONDITIONS:
        raise StorageError(400, "ConditionHeadersNotSupported", "Condition headers are not supported.")
    if not name.startswith("x-ms-") or name in _EVERY_HEADER or name in operation.headers:
        return
    if operation.has_metadata and (name == "x-ms-meta" or name.startswith("x-ms-meta-")):
        return
    if name in _HEADERS_NOT_EMULATED:
        raise not_emulated(_HEADERS_NOT_EMULATED[name])
    raise unsupported_header(name)


def _find_put(request: HttpRequest, comp: str) -> Operation | None:
    """Return the operation for a PUT that only a header determines."""
    copies = "x-ms-copy-source" in request.headers
    if comp == "range":
        return _PUT_RANGE_FROM_URL if copies else _PUT_RANGE
    if comp:
        return None
    if copies:
        return _COPIED_FILE
    if "x-ms-type" not in request.headers:
        raise missing_header("x-ms-type")
    return _CREATED_FILE


def _unknown(level: str, method: str, restype: str, comp: str) -> StorageError:
    verbs = {key[1] for key in _OPERATIONS if (key[0], key[2], key[3]) == (level, restype, comp)}
    if verbs:
        return StorageError(
            405,
            "UnsupportedHttpVerb",
            "The resource doesn't support specified Http Verb.",
            headers=(("Allow", ",".join(sorted(verbs))),),
        )
    if comp:
        return invalid_parameter("comp", comp, f"There is no such operation on this resource for {method}.")
    if restype:
        return invalid_parameter(
            "restype", restype, f"There is no such operation on this resource for {method}."
        )
    return storage_error("InvalidUri")

"""The check of shared access signatures for an account, a share or a file.

Pure: the time is an argument.

Source: "Create an account SAS" and "Create a service SAS" (File service, version 2015-04-05 and later; the
account SAS has one more line since 2020-12-06).
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from localcloud.files import shared_key
from localcloud.files.errors import StorageError, authentication_failed, not_emulated, storage_error
from localcloud.files.request import Grant, HttpRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The query parameters that belong to a SAS.
PARAMETERS: Final = frozenset(
    {
        "sv", "ss", "srt", "sp", "st", "se", "sip", "spr", "sig", "sr", "si", "ses",
        "rscc", "rscd", "rsce", "rscl", "rsct",
    }
)  # fmt: skip
_DELEGATION: Final = ("skoid", "sktid", "skt", "ske", "sks", "skv", "skdutid", "sduoid", "srh", "srq")
_OLDEST_VERSION: Final = "2015-04-05"
_SCOPE_VERSION: Final = "2020-12-06"


def check_sas(request: HttpRequest, keys: Sequence[str], resource: str, now: datetime) -> Grant:
    """Return the permissions of a request's SAS.

    Args:
        request: The request, with the SAS in its query.
        keys: The account's keys.
        resource: What the operation acts on: `s` (the account), `c` (a share) or `o` (a file or directory).
        now: The time.

    Raises:
        StorageError: AuthenticationFailed for an invalid signature or time, an Authorization…Mismatch for a
            SAS that does not cover this request, NotImplementedByLocalCloud for kinds that are not emulated.
    """
    query = request.query
    if any(name in query for name in _DELEGATION):
        raise not_emulated("user delegation SAS")
    if "si" in query:
        raise not_emulated("stored access policies (the SAS parameter 'si')")
    version = query.get("sv", "")
    if version < _OLDEST_VERSION:
        raise not_emulated(f"SAS of version '{version}', before {_OLDEST_VERSION}")
    grant, text = _account(request, version, resource) if "ss" in query else _service(request, resource)
    if not shared_key.is_signed_by(keys, text, query.get("sig", "")):
        raise authentication_failed(f"Signature did not match. String to sign used was {text}")
    _check_time(query, now)
    _check_origin(request)
    if "ss" in query:
        _check_coverage(query, resource)
    return grant


def _account(request: HttpRequest, version: str, resource: str) -> tuple[Grant, str]:
    del resource
    query = request.query
    names = ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"]
    if version >= _SCOPE_VERSION:
        names.append("ses")
    lines = [request.account, *(query.get(name, "") for name in names)]
    return Grant(query.get("sp", "")), "".join(f"{line}\n" for line in lines)


def _service(request: HttpRequest, resource: str) -> tuple[Grant, str]:
    query = request.query
    kind = query.get("sr", "")
    if kind not in {"s", "f"} or not request.names:
        raise authentication_failed(f"The signed resource '{kind}' is not one of a share (s) or a file (f).")
    signed_path = request.names[:1] if kind == "s" else request.names
    lines = [
        *(query.get(name, "") for name in ("sp", "st", "se")),
        "/".join(("/file", request.account, *signed_path)),
        *(query.get(name, "") for name in ("si", "sip", "spr", "sv", "rscc", "rscd", "rsce", "rscl", "rsct")),
    ]
    lists = resource == "c" and query.get("comp") == "list"
    allowed = query.get("sp", "") if resource == "o" or (lists and kind == "s") else ""
    return Grant(allowed, is_service_sas=True), "\n".join(lines)


def _check_time(query: Mapping[str, str], now: datetime) -> None:
    start = _read_time(query["st"]) if "st" in query else None
    if "se" not in query:
        raise authentication_failed("se is mandatory. Cannot be empty")
    expiry = _read_time(query["se"])
    if now >= expiry or (start is not None and now < start):
        began = "" if start is None else f"Start [{start:%a, %d %b %Y %H:%M:%S GMT}] - "
        raise authentication_failed(
            f"Signature not valid in the specified time frame: {began}"
            f"Expiry [{expiry:%a, %d %b %Y %H:%M:%S GMT}] - Current [{now:%a, %d %b %Y %H:%M:%S GMT}]"
        )


def _check_origin(request: HttpRequest) -> None:
    query = request.query
    if request.scheme not in query.get("spr", "https,http").split(","):
        raise storage_error("AuthorizationProtocolMismatch")
    if "sip" in query and not _is_within(request.remote, query["sip"]):
        raise StorageError(
            403,
            "AuthorizationSourceIPMismatch",
            "This request is not authorized to perform this operation "
            f"using this source IP {request.remote}.",
        )


def _check_coverage(query: Mapping[str, str], resource: str) -> None:
    if "f" not in query["ss"]:
        raise storage_error("AuthorizationServiceMismatch")
    if resource not in query.get("srt", ""):
        raise storage_error("AuthorizationResourceTypeMismatch")


def _is_within(remote: str | None, allowed: str) -> bool:
    first, _, last = allowed.partition("-")
    try:
        low, high = ipaddress.ip_address(first), ipaddress.ip_address(last or first)
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return False
    return low.version == address.version == high.version and int(low) <= int(address) <= int(high)


def _read_time(value: str) -> datetime:
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise authentication_failed(f"'{value}' is not a time in the format of ISO 8601.") from None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)

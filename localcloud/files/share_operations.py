"""Operations on the account and on shares.

Source: "List Shares", "Create Share", "Get Share Properties", "Set Share Properties", "Set Share Metadata",
"Delete Share", "Get Share Stats".
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from localcloud.files import leases
from localcloud.files.documents import add, document
from localcloud.files.entries import lease_id
from localcloud.files.errors import invalid_header, not_emulated, storage_error
from localcloud.files.headers import read_integer, read_metadata, write_http_time, write_metadata
from localcloud.files.names import check_share_name
from localcloud.files.paging import Page, read_include, read_page
from localcloud.files.request import FileRequest, FileResponse, Headers
from localcloud.files.shares import MAX_QUOTA_GIB, Share

if TYPE_CHECKING:
    from collections.abc import Callable

_TIERS: Final = frozenset({"TransactionOptimized", "Hot", "Cool"})
_LIST_INCLUDES: Final = frozenset({"metadata", "snapshots", "deleted"})
NOUN: Final = "file share"


def list_shares(request: FileRequest) -> FileResponse:
    """List the account's shares; there are no snapshots and no deleted shares."""
    page = read_page(request)
    include = read_include(request, _LIST_INCLUDES)
    names = [name for name in request.shares.names(request.account) if name.startswith(page.prefix)]
    chosen, next_marker = page.slice(names, key=str)
    root = _list_head(request, page)
    shares = add(root, "Shares")
    for name in chosen:
        _add_share(
            shares,
            name,
            request.shares.read(request.account, name),
            request.now_ns,
            with_metadata="metadata" in include,
        )
    add(root, "NextMarker", next_marker)
    return FileResponse(200, (("Content-Type", "application/xml"),), document(root))


def create_share(request: FileRequest) -> FileResponse:
    """Create a share."""
    check_share_name(request.share)
    if (request.header("x-ms-enabled-protocols") or "SMB").upper() != "SMB":
        raise not_emulated("NFS shares")
    with request.shares.locks.hold(request.key(())):
        if request.shares.exists(request.account, request.share):
            raise storage_error("ShareAlreadyExists")
        made = _with_settings(
            request, Share(request.now_ns, request.now_ns, metadata=read_metadata(request.http.headers))
        )
        stored = request.shares.write(request.account, request.share, made, request.now_ns)
    return FileResponse(201, _version(stored))


def share_properties(request: FileRequest) -> FileResponse:
    """Return a share's properties."""
    found = request.share_properties()
    leases.check_read(found.lease, lease_id(request), request.now_ns, NOUN)
    return FileResponse(
        200,
        (
            *_version(found),
            ("x-ms-share-quota", str(found.quota_gib)),
            ("x-ms-access-tier", found.access_tier),
            ("x-ms-enabled-protocols", "SMB"),
            *leases.headers(found.lease, request.now_ns),
            *write_metadata(found.metadata),
        ),
    )


def set_share_properties(request: FileRequest) -> FileResponse:
    """Change a share's quota or tier."""
    return _change(request, lambda found: _with_settings(request, found))


def set_share_metadata(request: FileRequest) -> FileResponse:
    """Replace a share's metadata."""
    metadata = read_metadata(request.http.headers)
    return _change(request, lambda found: replace(found, metadata=metadata))


def delete_share(request: FileRequest) -> FileResponse:
    """Delete a share with its content, immediately."""
    with request.shares.locks.hold(request.key(())):
        found = request.share_properties()
        leases.check_write(found.lease, lease_id(request), request.now_ns, NOUN)
        request.shares.remove(request.account, request.share)
    return FileResponse(202)


def share_statistics(request: FileRequest) -> FileResponse:
    """Return the total size of a share's files."""
    found = request.share_properties()
    total = 0
    for folder, _, names in os.walk(request.root, followlinks=False):
        total += sum(_size(Path(folder, name)) for name in names)
    root = ET.Element("ShareStats")
    add(root, "ShareUsageBytes", str(total))
    return FileResponse(200, (*_version(found), ("Content-Type", "application/xml")), document(root))


def _change(request: FileRequest, change: Callable[[Share], Share]) -> FileResponse:
    with request.shares.locks.hold(request.key(())):
        found = request.share_properties()
        leases.check_write(found.lease, lease_id(request), request.now_ns, NOUN)
        stored = request.shares.write(request.account, request.share, change(found), request.now_ns)
    return FileResponse(200, _version(stored))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _with_settings(request: FileRequest, share: Share) -> Share:
    headers = request.http.headers
    if "x-ms-share-quota" in headers:
        quota = read_integer(headers, "x-ms-share-quota", maximum=MAX_QUOTA_GIB)
        if quota == 0:
            raise invalid_header("x-ms-share-quota", "0")
        share = replace(share, quota_gib=quota)
    tier = headers.get("x-ms-access-tier", share.access_tier)
    if tier not in _TIERS:
        raise invalid_header("x-ms-access-tier", tier)
    return replace(share, access_tier=tier)


def _version(share: Share) -> Headers:
    return (("ETag", share.etag), ("Last-Modified", write_http_time(share.changed_ns)))


def _list_head(request: FileRequest, page: Page) -> ET.Element:
    root = ET.Element("EnumerationResults", ServiceEndpoint=request.http.endpoint)
    page.echo(root)
    return root


def _add_share(parent: ET.Element, name: str, share: Share, now_ns: int, *, with_metadata: bool) -> None:
    item = add(parent, "Share")
    add(item, "Name", name)
    properties = add(item, "Properties")
    add(properties, "Last-Modified", write_http_time(share.changed_ns))
    add(properties, "Etag", share.etag)
    add(properties, "Quota", str(share.quota_gib))
    add(properties, "AccessTier", share.access_tier)
    add(properties, "EnabledProtocols", "SMB")
    for header, value in leases.headers(share.lease, now_ns):
        add(properties, _LEASE_ELEMENTS[header], value)
    if with_metadata and share.metadata:
        metadata = add(item, "Metadata")
        for key, value in share.metadata:
            add(metadata, key, value)


_LEASE_ELEMENTS: Final = {
    "x-ms-lease-status": "LeaseStatus",
    "x-ms-lease-state": "LeaseState",
    "x-ms-lease-duration": "LeaseDuration",
}

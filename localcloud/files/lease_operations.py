"""Operations on leases of files and shares: acquire, renew, change, release and break.

Source: "Lease File" (infinite leases, no renew) and "Lease Share".
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final

from localcloud.files import leases
from localcloud.files.entries import existing, lease_id, locked_location, store, version_headers
from localcloud.files.errors import invalid_header, missing_header, storage_error
from localcloud.files.headers import write_http_time
from localcloud.files.leases import INFINITE, Lease
from localcloud.files.request import FileRequest, FileResponse, Headers
from localcloud.files.share_operations import NOUN

_FINITE_S: Final = range(15, 61)
_BREAK_S: Final = range(61)


def lease_file(request: FileRequest) -> FileResponse:
    """Perform an action on a file's lease."""
    action = _read_action(request, {"acquire", "change", "release", "break"})
    with locked_location(request) as location:
        entry = existing(request, location, directory=False)
        if location.is_link:
            raise storage_error("ResourceTypeMismatch")
        lease, status, headers = _perform(request, action, entry.record.lease, "file")
        stored = store(request, entry, replace(entry.record, lease=lease), entry.status)
    return FileResponse(status, (*version_headers(stored), *headers))


def lease_share(request: FileRequest) -> FileResponse:
    """Perform an action on a share's lease."""
    action = _read_action(request, {"acquire", "renew", "change", "release", "break"})
    with request.shares.locks.hold(request.key(())):
        found = request.share_properties()
        lease, status, headers = _perform(request, action, found.lease, NOUN)
        stored = request.shares.write(
            request.account, request.share, replace(found, lease=lease), request.now_ns
        )
    version: Headers = (("ETag", stored.etag), ("Last-Modified", write_http_time(stored.changed_ns)))
    return FileResponse(status, (*version, *headers))


def _perform(
    request: FileRequest, action: str, lease: Lease | None, noun: str
) -> tuple[Lease | None, int, Headers]:
    """Return the lease after an action, with the status and headers of the response."""
    if action == "acquire":
        wanted = lease_id(request, "x-ms-proposed-lease-id") or str(uuid.uuid4())
        held = leases.acquire(
            lease, _guid("x-ms-proposed-lease-id", wanted), _read_duration(request, noun), request.now_ns
        )
        return held, 201, (("x-ms-lease-id", held.id),)
    if action == "break":
        broken, wait_s = leases.break_lease(lease, _read_period(request), request.now_ns, noun)
        return broken, 202, (("x-ms-lease-time", str(wait_s)),) if noun == NOUN else ()
    own = lease_id(request)
    if own is None:
        raise missing_header("x-ms-lease-id")
    if action == "release":
        leases.release(lease, own, noun)
        return None, 200, ()
    if action == "renew":
        renewed = leases.renew(lease, own, request.now_ns, noun)
        return renewed, 200, (("x-ms-lease-id", renewed.id),)
    proposed = lease_id(request, "x-ms-proposed-lease-id")
    if proposed is None:
        raise missing_header("x-ms-proposed-lease-id")
    changed = leases.change(lease, own, _guid("x-ms-proposed-lease-id", proposed), request.now_ns, noun)
    return changed, 200, (("x-ms-lease-id", changed.id),)


def _read_action(request: FileRequest, allowed: set[str]) -> str:
    action = request.header("x-ms-lease-action")
    if action is None:
        raise missing_header("x-ms-lease-action")
    if action.lower() not in allowed:
        raise invalid_header("x-ms-lease-action", action)
    return action.lower()


def _read_duration(request: FileRequest, noun: str) -> int:
    value = request.header("x-ms-lease-duration")
    if value is None:
        raise missing_header("x-ms-lease-duration")
    if value == str(INFINITE):
        return INFINITE
    if noun == NOUN and value.isascii() and value.isdigit() and int(value) in _FINITE_S:
        return int(value)
    raise invalid_header("x-ms-lease-duration", value)


def _read_period(request: FileRequest) -> int | None:
    value = request.header("x-ms-lease-break-period")
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and int(value) in _BREAK_S):
        raise invalid_header("x-ms-lease-break-period", value)
    return int(value)


def _guid(name: str, value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError:
        raise invalid_header(name, value) from None

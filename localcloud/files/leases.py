"""Leases on files and shares. Pure: the time is an argument, in nanoseconds since the epoch.

A file's lease is always infinite; a share's lasts 15 to 60 seconds or is infinite.

Source: "Lease File" (2019-02-02 and later) and "Lease Share" (2020-02-10 and later); the codes and messages
are those of recorded responses of the real service.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from localcloud.files.errors import StorageError, storage_error

#: The duration of a lease that lasts until it is released or broken.
INFINITE: Final = -1
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease on a resource.

    Attributes:
        id: The lease id, a GUID in lower case.
        duration_s: Its length in seconds, or `INFINITE`.
        expires_ns: When a finite lease expires, or None.
        broken_ns: When it becomes broken, or None if it was not broken.
    """

    id: str
    duration_s: int
    expires_ns: int | None = None
    broken_ns: int | None = None


def state(lease: Lease | None, now_ns: int) -> str:
    """Return the current state of a lease, in Azure's terms."""
    if lease is None:
        return "available"
    if lease.broken_ns is not None:
        return "broken" if now_ns >= lease.broken_ns else "breaking"
    if lease.expires_ns is not None and now_ns >= lease.expires_ns:
        return "expired"
    return "leased"


def headers(lease: Lease | None, now_ns: int) -> tuple[tuple[str, str], ...]:
    """Return the headers that describe a lease."""
    word = state(lease, now_ns)
    status = "locked" if word in {"leased", "breaking"} else "unlocked"
    found = (("x-ms-lease-status", status), ("x-ms-lease-state", word))
    if lease is None or word != "leased":
        return found
    length = "infinite" if lease.duration_s == INFINITE else "fixed"
    return (*found, ("x-ms-lease-duration", length))


def acquire(lease: Lease | None, lease_id: str, duration_s: int, now_ns: int) -> Lease:
    """Acquire a lease; its holder may acquire it again.

    Raises:
        StorageError: LeaseAlreadyPresent, if another id holds it; LeaseIsBreakingAndCannotBeAcquired.
    """
    word = state(lease, now_ns)
    if word == "breaking":
        raise _conflict(
            "LeaseIsBreakingAndCannotBeAcquired",
            "The lease is currently in breaking state and cannot be acquired until it's broken.",
        )
    if lease is not None and word == "leased" and lease.id != lease_id:
        raise storage_error("LeaseAlreadyPresent")
    return Lease(lease_id, duration_s, _expiry(duration_s, now_ns))


def renew(lease: Lease | None, lease_id: str, now_ns: int, noun: str) -> Lease:
    """Renew a lease with the same id, also an expired one.

    Raises:
        StorageError: LeaseNotPresentWithLeaseOperation, LeaseIdMismatchWithLeaseOperation or
            LeaseIsBrokenAndCannotBeRenewed.
    """
    held = _held_by(lease, lease_id, noun)
    if held.broken_ns is not None:
        raise _conflict(
            "LeaseIsBrokenAndCannotBeRenewed",
            "The lease ID matched, but the lease has been broken explicitly and cannot be renewed.",
        )
    return replace(held, expires_ns=_expiry(held.duration_s, now_ns))


def change(lease: Lease | None, lease_id: str, proposed_id: str, now_ns: int, noun: str) -> Lease:
    """Change the id of an active lease.

    Raises:
        StorageError: LeaseNotPresentWithLeaseOperation, LeaseIdMismatchWithLeaseOperation or
            LeaseIsBreakingAndCannotBeChanged.
    """
    word = state(lease, now_ns)
    if lease is None or word in {"expired", "broken"}:
        raise _not_present(noun)
    if lease.id not in {lease_id, proposed_id}:
        raise _mismatch("LeaseOperation", 409, noun)
    if word == "breaking":
        raise _conflict(
            "LeaseIsBreakingAndCannotBeChanged",
            "The lease ID matched, but the lease is currently in breaking state and cannot be changed.",
        )
    return replace(lease, id=proposed_id)


def release(lease: Lease | None, lease_id: str, noun: str) -> None:
    """Check that this id may release a lease.

    Raises:
        StorageError: LeaseNotPresentWithLeaseOperation or LeaseIdMismatchWithLeaseOperation.
    """
    _held_by(lease, lease_id, noun)


def break_lease(lease: Lease | None, period_s: int | None, now_ns: int, noun: str) -> tuple[Lease, int]:
    """Break a lease; return it, and the seconds until it is broken.

    Args:
        lease: The current lease.
        period_s: The requested maximum wait, or None for the rest of the lease.
        now_ns: The time.
        noun: `file` or `file share`, for the message.

    Raises:
        StorageError: LeaseNotPresentWithLeaseOperation.
    """
    if lease is None:
        raise _not_present(noun)
    if lease.broken_ns is not None and now_ns >= lease.broken_ns:
        return lease, 0
    ends_ns = lease.expires_ns if lease.broken_ns is None else lease.broken_ns
    rest_s = period_s or 0 if ends_ns is None else max(0, -(-(ends_ns - now_ns) // _SECOND_NS))
    wait_s = rest_s if period_s is None else min(rest_s, period_s)
    return replace(lease, broken_ns=now_ns + wait_s * _SECOND_NS), wait_s


def check_write(lease: Lease | None, given_id: str | None, now_ns: int, noun: str) -> None:
    """Check that a leased resource is changed by the holder of the lease.

    Raises:
        StorageError: LeaseIdMissing, and those of `check_read`, all 412.
    """
    if given_id is None and state(lease, now_ns) in {"leased", "breaking"}:
        raise StorageError(
            412,
            "LeaseIdMissing",
            f"There is currently a lease on the {noun} and no lease ID was specified in the request.",
        )
    check_read(lease, given_id, now_ns, noun)


def check_read(lease: Lease | None, given_id: str | None, now_ns: int, noun: str) -> None:
    """Check that a lease id, if given, is the resource's.

    Raises:
        StorageError: LeaseNotPresentWith…Operation, LeaseIdMismatchWith…Operation or LeaseLost, all 412.
    """
    if given_id is None:
        return
    operation = "FileOperation" if noun == "file" else "ShareOperation"
    if lease is None:
        raise StorageError(
            412, f"LeaseNotPresentWith{operation}", f"There is currently no lease on the {noun}."
        )
    if lease.id != given_id:
        raise _mismatch(operation, 412, noun)
    if state(lease, now_ns) in {"expired", "broken"}:
        raise StorageError(
            412, "LeaseLost", f"A lease ID was specified, but the lease for the {noun} has expired."
        )


def _expiry(duration_s: int, now_ns: int) -> int | None:
    return None if duration_s == INFINITE else now_ns + duration_s * _SECOND_NS


def _held_by(lease: Lease | None, lease_id: str, noun: str) -> Lease:
    if lease is None:
        raise _not_present(noun)
    if lease.id != lease_id:
        raise _mismatch("LeaseOperation", 409, noun)
    return lease


def _not_present(noun: str) -> StorageError:
    return _conflict("LeaseNotPresentWithLeaseOperation", f"There is currently no lease on the {noun}.")


def _mismatch(operation: str, status: int, noun: str) -> StorageError:
    return StorageError(
        status,
        f"LeaseIdMismatchWith{operation}",
        f"The lease ID specified did not match the lease ID for the {noun}.",
    )


def _conflict(code: str, message: str) -> StorageError:
    return StorageError(409, code, message)

"""The deploy lock of a share, so that one deployment at a time changes it.

The lock is the file `.lock`, created atomically: of two concurrent deployments exactly one gets it. It
records who holds it, on which machine, since when and what for. It expires unless its holder renews it, so
that a killed process does not lock the share for good. On the holder's machine, a lock whose process is gone
is broken at once.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import psutil

from infra.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from infra.clock import Clock
    from infra.share.protocol import Share

LOCK_PATH: Final = ".lock"
LIFETIME: Final = timedelta(minutes=10)
"""How long a lock lasts without renewal: longer than any single step and than any difference of clocks."""

_RENEW_AFTER: Final = LIFETIME / 3
_BREAK_HINT: Final = "wait for it; or, if you know that it is dead, run the same command with --break-lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on a machine. `started` distinguishes it from a later process with the same pid."""

    owner: str
    host: str
    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class LockRecord:
    """The content of the lock file. `token` is unique to each acquisition of the lock."""

    holder: Holder
    message: str
    since: datetime
    expires: datetime
    token: str

    def describe(self) -> str:
        """Return who holds the lock, for what and since when, as one line."""
        holder = self.holder
        since = self.since.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        return f"{holder.owner} on {holder.host} (process {holder.pid}): {self.message}, since {since}"


class HeldLock:
    """A lock that this process holds. Safe to use from several threads."""

    def __init__(self, share: Share, clock: Clock, record: LockRecord) -> None:
        self._renewing = threading.Lock()
        self._share = share
        self._clock = clock
        self.record = record

    def renew(self) -> None:
        """Renew the lock if a third of its lifetime has passed; otherwise make no request.

        Raises:
            RemoteError: Another process has broken it.
        """
        if self.record.expires - self._clock.now() > LIFETIME - _RENEW_AFTER:
            return
        if not self._renewing.acquire(blocking=False):
            return  # another thread is renewing it
        try:
            self.check()
            self.record = replace(self.record, expires=self._clock.now() + LIFETIME)
            self._share.write(LOCK_PATH, _render(self.record))
        finally:
            self._renewing.release()

    def check(self) -> None:
        """Check that this process still holds the lock, before a step that must not run twice.

        Raises:
            RemoteError: Another process has broken it.
        """
        found = _read(self._share)
        if found is None or found.token != self.record.token:
            taker = "nobody holds it now" if found is None else f"held by {found.describe()}"
            raise RemoteError(
                f"the deploy lock was taken from this process ({taker})",
                hint="nothing more was changed; look at invoke status, and deploy again",
            )

    def release(self) -> None:
        """Release the lock, unless another process holds it by now."""
        found = _read(self._share)
        if found is not None and found.token == self.record.token:
            self._share.delete(LOCK_PATH)


def is_process_alive(holder: Holder) -> bool:
    """Return whether a process of this machine still runs."""
    try:
        # Not exact: create times are derived from the boot time, which corrections of the clock move.
        return abs(psutil.Process(holder.pid).create_time() - holder.started) < 2  # noqa: PLR2004  # seconds
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def this_process() -> Holder:
    """Return this process as a holder of locks."""
    pid = os.getpid()
    return Holder(getpass.getuser(), socket.gethostname(), pid, psutil.Process(pid).create_time())


@dataclass(frozen=True, slots=True)
class DeployLock:
    """The lock of one share, as one process takes it.

    Attributes:
        warn: Called with a message when a stale lock is broken.
        is_alive: Returns whether a holder on this machine still runs.
    """

    share: Share
    clock: Clock
    holder: Holder
    warn: Callable[[str], None]
    is_alive: Callable[[Holder], bool] = is_process_alive

    @contextmanager
    def hold(self, message: str, *, break_lock: bool = False) -> Iterator[HeldLock]:
        """Hold the lock while a `with` block runs.

        A lock that has expired, or whose process on this same machine is gone, is broken with a warning;
        `break_lock` breaks any lock.

        Raises:
            RemoteError: Another process holds it.
        """
        held = HeldLock(self.share, self.clock, self._take(message, break_lock=break_lock))
        try:
            yield held
        finally:
            held.release()

    def _take(self, message: str, *, break_lock: bool) -> LockRecord:
        now = self.clock.now()
        record = LockRecord(
            self.holder, message, since=now, expires=now + LIFETIME, token=secrets.token_hex(8)
        )
        if _create(self.share, record):
            return record
        found = _read(self.share)
        if found is not None:
            reason = "--break-lock was given" if break_lock else self._why_stale(found, now)
            if reason is None:
                raise _held_error(found)
            self.warn(f"breaking the deploy lock of {found.describe()}: {reason}")
            _remove_stale(self.share, found, record.token)
        if _create(self.share, record):
            return record
        raise _held_error(_read(self.share))

    def _why_stale(self, found: LockRecord, now: datetime) -> str | None:
        if found.expires < now:
            return f"it ran out at {found.expires.astimezone():%H:%M:%S}"
        if found.holder.host == self.holder.host and not self.is_alive(found.holder):
            return "that process is gone"
        return None


def _create(share: Share, record: LockRecord) -> bool:
    if share.create(LOCK_PATH, _render(record)):
        return True
    # The response to a successful create may have been lost, and the retry rejected.
    found = _read(share)
    return found is not None and found.token == record.token


def _remove_stale(share: Share, stale: LockRecord, token: str) -> None:
    """Remove a stale lock, and only that one.

    Only one process can rename it. If that process finds that it renamed a lock that was acquired in between,
    it puts the lock back.
    """
    aside = f"{LOCK_PATH}.broken-{token}"
    if not share.move(LOCK_PATH, aside, replace=True):
        return
    caught = share.read(aside)
    if caught is not None and _parse(caught).token != stale.token:
        share.move(aside, LOCK_PATH, replace=False)
        return
    share.delete(aside)


def _held_error(found: LockRecord | None) -> RemoteError:
    who = "somebody" if found is None else found.describe()
    return RemoteError(f"another deployment holds this share's lock: {who}", hint=_BREAK_HINT)


def _read(share: Share) -> LockRecord | None:
    content = share.read(LOCK_PATH)
    return None if content is None else _parse(content)


def _render(record: LockRecord) -> bytes:
    document = asdict(record) | {"since": record.since.isoformat(), "expires": record.expires.isoformat()}
    return json.dumps(document, indent=1).encode()


def _parse(content: bytes) -> LockRecord:
    try:
        document = json.loads(content)
        times = {name: datetime.fromisoformat(document[name]) for name in ("since", "expires")}
        return LockRecord(**(document | times | {"holder": Holder(**document["holder"])}))
    except (ValueError, TypeError, KeyError) as error:
        raise RemoteError(
            f"{LOCK_PATH} on the share cannot be read: {error}",
            hint="remove that file from the share, then retry",
        ) from error

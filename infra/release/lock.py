"""Let one deployment at a time change a share.

The lock is the file `.lock`, made in one step, so that of two deployers at once exactly one gets it. It says
who holds it, where, since when and what for. It runs out unless its holder renews it, so that a tool that was
killed does not lock the share for good; on the machine where it was killed it need not even run out.
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
"""How long a lock lasts that nobody renews. Longer than any single step, and than clocks disagree."""

_RENEW_AFTER: Final = LIFETIME / 3
_BREAK_HINT: Final = "wait for it; or, if you know that it is dead, run the same command with --break-lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """Name a process on a machine. `started` tells it from a later process that was given the same pid."""

    owner: str
    host: str
    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class LockRecord:
    """Say what the lock's file says. `token` tells one taking of the lock from every other."""

    holder: Holder
    message: str
    since: datetime
    expires: datetime
    token: str

    def describe(self) -> str:
        """Say who holds the lock, for what, since when."""
        holder = self.holder
        since = self.since.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        return f"{holder.owner} on {holder.host} (process {holder.pid}): {self.message}, since {since}"


class HeldLock:
    """Stand for the lock while it is ours. Safe to use from several threads."""

    def __init__(self, share: Share, clock: Clock, record: LockRecord) -> None:
        self._renewing = threading.Lock()
        self._share = share
        self._clock = clock
        self.record = record

    def renew(self) -> None:
        """Renew the lock if a good part of its time is up. Cheap enough to be called at every step.

        Raises:
            RemoteError: Somebody else has broken it.
        """
        if self.record.expires - self._clock.now() > LIFETIME - _RENEW_AFTER:
            return
        if not self._renewing.acquire(blocking=False):
            return  # another thread of ours is at it
        try:
            self.check()
            self.record = replace(self.record, expires=self._clock.now() + LIFETIME)
            self._share.write(LOCK_PATH, _render(self.record))
        finally:
            self._renewing.release()

    def check(self) -> None:
        """Make sure, before a step that cannot be shared, that the lock is still ours.

        Raises:
            RemoteError: Somebody else has broken it.
        """
        found = _read(self._share)
        if found is None or found.token != self.record.token:
            taker = "nobody holds it now" if found is None else f"held by {found.describe()}"
            raise RemoteError(
                f"the deploy lock was taken from this process ({taker})",
                hint="nothing more was changed; look at invoke status, and deploy again",
            )

    def release(self) -> None:
        """Give the lock back, unless somebody else has it by now."""
        found = _read(self._share)
        if found is not None and found.token == self.record.token:
            self._share.delete(LOCK_PATH)


def is_process_alive(holder: Holder) -> bool:
    """Tell whether a process of this machine still runs."""
    try:
        # Compared loosely: create times are derived from the boot time, which corrections of the clock move.
        return abs(psutil.Process(holder.pid).create_time() - holder.started) < 2  # noqa: PLR2004  # seconds
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def this_process() -> Holder:
    """Name this process as a holder of locks."""
    pid = os.getpid()
    return Holder(getpass.getuser(), socket.gethostname(), pid, psutil.Process(pid).create_time())


@dataclass(frozen=True, slots=True)
class DeployLock:
    """Take the lock of one share, on behalf of one process.

    Attributes:
        warn: Told when a stale lock is broken.
        is_alive: Asked about holders on this machine.
    """

    share: Share
    clock: Clock
    holder: Holder
    warn: Callable[[str], None]
    is_alive: Callable[[Holder], bool] = is_process_alive

    @contextmanager
    def hold(self, message: str, *, break_lock: bool = False) -> Iterator[HeldLock]:
        """Hold the lock for the length of a `with` block.

        A lock that has run out, or whose process on this same machine is gone, is broken with a warning;
        `break_lock` breaks any.

        Raises:
            RemoteError: Somebody else holds it.
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
    # The answer to a create that worked may have been lost on the way, and the retry refused.
    found = _read(share)
    return found is not None and found.token == record.token


def _remove_stale(share: Share, stale: LockRecord, token: str) -> None:
    """Remove a stale lock, and only that one.

    Renaming takes one process only; should that process find that it caught a lock taken in between, it puts
    it back.
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

"""The deploy lock of a share, so that one deployment at a time changes it.

The lock is the file `.lock`, created atomically: of two concurrent deployments exactly one gets it. It
records who holds it, on which machine, since when and what for. It expires unless its holder renews it, so
that a killed process does not lock the share for good. On the holder's machine, a lock whose process is gone
is broken at once. A person can hold it too, until they release it: `invoke lock`.

When it is released, the file is renamed to the audit's entry about the change.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from infra.concurrency import DaemonExecutor
from infra.document import load_json
from infra.errors import FjarrError, RemoteError, UsageError, WaitTimeoutError
from infra.interrupts import add_note
from infra.release.audit import Outcome, entry_path
from infra.release.holder import Holder, is_process_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from infra.clock import Clock
    from infra.share.protocol import Share

LOCK_PATH: Final = ".lock"
LIFETIME: Final = timedelta(minutes=10)
"""How long a lock lasts without renewal: longer than any single step and than any difference of clocks."""

FRESH: Final = timedelta(seconds=10)
"""How long a lock that was just taken or checked is not checked again."""

_RENEW_AFTER: Final = LIFETIME / 3
_POLL_S: Final = 2.0
_RELEASE_S: Final = 1.0
"""How long a release may take after Ctrl-C."""

_BREAK_HINT: Final = (
    "wait for it, with --wait; or, if you know that it is dead, run the same command with --break-lock"
)
_KEPT_NOTE: Final = (
    "the deploy lock could not be released: the next command on this machine takes it over, on another one"
    " --break-lock does"
)
_PERSON_HINT: Final = "ask them; or invoke unlock"


@dataclass(frozen=True, slots=True)
class LockRecord:
    """The content of the lock file.

    Attributes:
        holder: The process that holds it; its pid is 0 if a person does.
        message: What it is held for.
        since: When it was taken.
        expires: When it expires unless it is renewed; None for that of a person.
        token: Unique to each acquisition.
    """

    holder: Holder
    message: str
    since: datetime
    expires: datetime | None
    token: str

    @property
    def is_of_a_person(self) -> bool:
        """Return whether a person took it with `invoke lock`, so that no process will release it."""
        return self.expires is None

    def describe(self) -> str:
        """Return who holds the lock, for what and since when, as one line."""
        holder = self.holder
        since = self.since.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        process = "" if self.is_of_a_person else f" (process {holder.pid})"
        return f"{holder.owner} on {holder.host}{process}: {self.message}, since {since}"


@dataclass(slots=True)
class Ending:
    """How a change ended, for its entry in the audit.

    Attributes:
        release: The release that it was about, if any.
        outcome: Whether the release was seen to serve, if the change did not fail.
        reason: Why it failed.
    """

    release: str | None = None
    outcome: Outcome = "done"
    reason: str = ""


class HeldLock:
    """A lock that this process holds. Safe to use from several threads.

    Attributes:
        record: What is on the share.
        ending: How the change ended, as far as that is known.
        was_broken: Whether another holder's lock was broken to take it.
    """

    def __init__(self, share: Share, clock: Clock, record: LockRecord, *, was_broken: bool = False) -> None:
        self._renewing = threading.Lock()
        self._share = share
        self._clock = clock
        self._checked = self._renewed = record.since
        self.record = record
        self.ending = Ending()
        self.was_broken = was_broken

    def renew(self) -> None:
        """Renew the lock if a third of its lifetime has passed; otherwise make no request.

        Raises:
            RemoteError: Another process has broken it.
        """
        if self._clock.now() - self._renewed < _RENEW_AFTER:
            return
        if not self._renewing.acquire(blocking=False):
            return  # another thread is renewing it
        try:
            self.check()
            self._renewed = self._clock.now()
            self.record = replace(self.record, expires=self._renewed + LIFETIME)
            self._share.write(LOCK_PATH, _render(self.record))
        finally:
            self._renewing.release()

    def check(self) -> None:
        """Check that this process still holds the lock, before a step that must not run twice.

        A lock that was taken or checked a moment ago is not checked again: nobody breaks one so young.

        Raises:
            RemoteError: Another process has broken it.
        """
        now = self._clock.now()
        if now - self._checked < FRESH:
            return
        found = read_lock(self._share)
        if found is None or found.token != self.record.token:
            taker = "nobody holds it now" if found is None else f"held by {found.describe()}"
            raise _TakenError(
                f"the deploy lock was taken from this process ({taker})",
                hint="nothing more was changed; look at invoke status, and deploy again",
            )
        self._checked = now

    def release(self) -> None:
        """Release the lock, which becomes the audit's entry, unless another process holds it by now."""
        try:
            self.check()
        except _TakenError:
            return
        path = entry_path(
            self._clock.now(), _verb(self.record), self.ending.outcome, self.ending.release, self.record.token
        )
        if self.ending.reason:
            # A share that is full still renames: the entry's name says enough.
            with suppress(RemoteError):
                self._share.put(LOCK_PATH, _render(self.record, self.ending.reason))
        self._share.move(LOCK_PATH, path, replace=True)


@dataclass(frozen=True, slots=True)
class LockAccess:
    """How to treat the lock of another holder.

    Attributes:
        breaks: Take it from them.
        wait_s: How long to wait until they release it, in seconds.
    """

    breaks: bool = False
    wait_s: float = 0.0


TAKES_FREE_LOCK: Final = LockAccess()
WAIT_S: Final = 3600.0
"""How long `--wait` without a number waits."""


def parse_access(*, wait: str | bool | None, breaks: bool) -> LockAccess:
    """Return the access for the flags of a verb.

    Args:
        wait: The value of `--wait`: a number of seconds, True without one, None without the flag.
        breaks: Whether `--break-lock` was given.

    Raises:
        UsageError: `--wait` is not a number.
    """
    if wait is None or isinstance(wait, bool):
        return LockAccess(breaks, WAIT_S if wait else 0.0)
    try:
        wait_s = float(wait)
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s < math.inf:
        raise UsageError(f"--wait {wait} is not a number of seconds", hint="such as --wait 600")
    return LockAccess(breaks, wait_s)


@dataclass(frozen=True, slots=True)
class DeployLock:
    """The lock of one share, as one process takes it.

    Attributes:
        warn: Called with a message when a stale lock is broken, or a lock is waited for.
        is_alive: Returns whether a holder on this machine still runs.
        access: How `hold` treats the lock of another holder.
    """

    share: Share
    clock: Clock
    holder: Holder
    warn: Callable[[str], None]
    is_alive: Callable[[Holder], bool] = is_process_alive
    access: LockAccess = TAKES_FREE_LOCK

    @contextmanager
    def hold(self, message: str) -> Iterator[HeldLock]:
        """Hold the lock while a `with` block runs.

        A lock that has expired, or whose process on this same machine is gone, is broken with a warning;
        `access` can allow to break any lock.

        Raises:
            RemoteError: Another process holds it.
            WaitTimeoutError: Another process has not released it in the time to wait for it.
        """
        held = self._take(message)
        try:
            yield held
        except KeyboardInterrupt as interrupt:
            held.ending = replace(held.ending, outcome="interrupted", reason=type(interrupt).__name__)
            if not _ends_soon(lambda: self._release(held)):
                add_note(interrupt, _KEPT_NOTE)
            raise
        except BaseException as error:
            is_known = isinstance(error, FjarrError)
            held.ending.outcome = "failed" if is_known else "interrupted"
            held.ending.reason = error.message if isinstance(error, FjarrError) else type(error).__name__
            self._release(held)
            raise
        self._release(held)

    def take_for_a_person(self, message: str) -> LockRecord:
        """Take the lock until a person releases it.

        Raises:
            RemoteError: Somebody holds it.
        """
        holder = replace(self.holder, pid=0, started=0.0)
        return self._acquire(LockRecord(holder, message, self.clock.now(), None, secrets.token_hex(8))).record

    def release_for_a_person(self, *, break_lock: bool) -> LockRecord | None:
        """Release the lock of a person, and return it; None if nobody holds the lock.

        Args:
            break_lock: Also release the lock of a process that runs.

        Raises:
            UsageError: A process holds it.
        """
        found = read_lock(self.share)
        if found is None:
            return None
        if not found.is_of_a_person and not break_lock and self._why_stale(found, self.clock.now()) is None:
            hint = "wait until it ends; or, if you know that it is dead, add --break-lock"
            raise UsageError(f"a command that runs holds the lock: {found.describe()}", hint=hint)
        _remove_stale(self.share, found, secrets.token_hex(8), self.clock.now())
        return found

    def _take(self, message: str) -> HeldLock:
        """Take the lock, and wait for it as long as `access` allows."""
        end_s = self.clock.elapsed_s() + self.access.wait_s
        is_waiting = False
        while True:
            now = self.clock.now()
            record = LockRecord(
                self.holder, message, since=now, expires=now + LIFETIME, token=secrets.token_hex(8)
            )
            try:
                return self._acquire(record, break_lock=self.access.breaks)
            except _HeldError as error:
                if self.clock.elapsed_s() >= end_s:
                    if not self.access.wait_s:
                        raise
                    what = f"{error.message}, and did not release it within {self.access.wait_s:.0f} s"
                    raise WaitTimeoutError(what, hint=error.hint) from error
                if not is_waiting:
                    self.warn(f"{error.message}; waiting for it")
                    is_waiting = True
            self.clock.sleep(_POLL_S)

    def _release(self, held: HeldLock) -> None:
        """Release the lock. A share that fails now must not hide how the change has ended."""
        try:
            held.release()
        except FjarrError as error:
            expires = held.record.expires
            until = "" if expires is None else f" at {expires.astimezone():%H:%M:%S}"
            self.warn(
                f"the deploy lock could not be released: {error.message}; it runs out{until}, and the next "
                f"command on this machine breaks it"
            )

    def _acquire(self, record: LockRecord, *, break_lock: bool = False) -> HeldLock:
        if _create(self.share, record):
            return HeldLock(self.share, self.clock, record)
        found = read_lock(self.share)
        if found is not None:
            reason = "--break-lock was given" if break_lock else self._why_stale(found, record.since)
            if reason is None:
                raise _held_error(found)
            self.warn(f"breaking the deploy lock of {found.describe()}: {reason}")
            _remove_stale(self.share, found, record.token, record.since)
        if _create(self.share, record):
            return HeldLock(self.share, self.clock, record, was_broken=True)
        raise _held_error(read_lock(self.share))

    def _why_stale(self, found: LockRecord, now: datetime) -> str | None:
        if found.expires is None:
            return None
        if found.expires < now:
            return f"it ran out at {found.expires.astimezone():%H:%M:%S}"
        if found.holder.is_on_the_machine_of(self.holder) and not self.is_alive(found.holder):
            return "that process is gone"
        return None


class _TakenError(RemoteError):
    """A lock that another process has taken from this one."""


class _HeldError(RemoteError):
    """A lock that another holder has."""


def read_lock(share: Share) -> LockRecord | None:
    """Return the lock as it is on the share, or None if nobody holds it."""
    content = share.read(LOCK_PATH)
    return None if content is None else _parse(content)


def _ends_soon(release: Callable[[], None]) -> bool:
    """Release a lock, unless the share does not answer: the user has pressed Ctrl-C and waits."""
    executor = DaemonExecutor(1, "release")
    releasing = executor.submit(release)
    try:
        releasing.result(_RELEASE_S)
    except TimeoutError:
        return False
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    return True


def _create(share: Share, record: LockRecord) -> bool:
    if share.create(LOCK_PATH, _render(record)):
        return True
    # The response to a successful create may have been lost, and the retry rejected.
    found = read_lock(share)
    return found is not None and found.token == record.token


def _remove_stale(share: Share, stale: LockRecord, token: str, now: datetime) -> None:
    """Remove a stale lock, and only that one. It becomes an entry of the audit.

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
    outcome: Outcome = "done" if stale.is_of_a_person else "interrupted"
    share.move(aside, entry_path(now, _verb(stale), outcome, None, stale.token), replace=True)


def _held_error(found: LockRecord | None) -> _HeldError:
    if found is not None and found.is_of_a_person:
        return _HeldError(f"this share is locked: {found.describe()}", hint=_PERSON_HINT)
    who = "somebody" if found is None else found.describe()
    return _HeldError(f"another deployment holds this share's lock: {who}", hint=_BREAK_HINT)


def _verb(record: LockRecord) -> str:
    """Return the verb of the audit's entry: what a process holds the lock for, or `lock`."""
    return "lock" if record.is_of_a_person else record.message


def _render(record: LockRecord, reason: str = "") -> bytes:
    expires = None if record.expires is None else record.expires.isoformat()
    document = asdict(record) | {"since": record.since.isoformat(), "expires": expires}
    return json.dumps(document | ({"reason": reason} if reason else {}), indent=1).encode()


def _parse(content: bytes) -> LockRecord:
    try:
        document = load_json(content)
        expires = document["expires"]
        return LockRecord(
            holder=Holder(**document["holder"]),
            message=document["message"],
            since=datetime.fromisoformat(document["since"]),
            expires=None if expires is None else datetime.fromisoformat(expires),
            token=document["token"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise RemoteError(
            f"{LOCK_PATH} on the share cannot be read: {error}",
            hint="remove that file from the share, then retry",
        ) from error

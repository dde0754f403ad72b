"""Hold the deploy lock of a stage for a person, who releases it when the stage may be changed again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.clock import SystemClock
from infra.release.holder import this_process
from infra.release.lock import DeployLock, LockRecord
from infra.resources.file_share import open_share

if TYPE_CHECKING:
    from infra.session import Session


@dataclass(frozen=True, slots=True)
class LockResult:
    """A lock that was taken or released; None if there was none to release."""

    record: LockRecord | None
    is_held: bool

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        if self.record is None:
            return {"locked": False, "by": None, "message": None, "since": None}
        return {
            "locked": self.is_held,
            "by": f"{self.record.holder.owner}@{self.record.holder.host}",
            "message": self.record.message,
            "since": self.record.since.isoformat(timespec="seconds"),
        }

    def to_text(self) -> str:
        """Return the line to print without `--json`."""
        if self.record is None:
            return "nobody held the lock"
        verb = "locked by" if self.is_held else "released the lock of"
        return f"{verb} {self.record.describe()}"


def take_lock(session: Session, message: str) -> LockResult:
    """Take the deploy lock until `release_lock`: no deploy, push or rollback changes the stage meanwhile.

    Raises:
        RemoteError: Somebody holds it.
    """
    session.require_cloud()
    with open_share(session) as share:
        lock = DeployLock(share, SystemClock(), this_process(), session.console.warn)
        return LockResult(lock.take_for_a_person(message), is_held=True)


def release_lock(session: Session, *, break_lock: bool = False) -> LockResult:
    """Release the lock that somebody took with `take_lock`.

    Args:
        session: The opened stage.
        break_lock: Also release the lock of a command that runs.

    Raises:
        UsageError: A command that runs holds it.
    """
    session.require_cloud()
    with open_share(session) as share:
        lock = DeployLock(share, SystemClock(), this_process(), session.console.warn)
        return LockResult(lock.release_for_a_person(break_lock=break_lock), is_held=False)

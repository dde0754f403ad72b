"""Make the locks of the server's packages anew, from `inference/requirements*.txt`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from infra.config.package_locks import LockChange, relock

if TYPE_CHECKING:
    from pathlib import Path

    from infra.console import Console
    from infra.process import Runner


@dataclass(frozen=True, slots=True)
class RelockResult:
    """The locks that were made, and what has changed in each."""

    changes: tuple[LockChange, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {"locks": [asdict(change) for change in self.changes]}

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        lines = []
        for change in self.changes:
            lines += [f"inference/{change.lock}:" + ("" if change.added or change.removed else " unchanged")]
            lines += [f"  - {pin}" for pin in change.removed] + [f"  + {pin}" for pin in change.added]
        return "\n".join(lines)


def make_locks(runner: Runner, console: Console, root: Path, *, upgrade: bool = False) -> RelockResult:
    """Make the locks of the server's packages anew. The arguments and errors are `relock`'s."""
    return RelockResult(relock(runner, console, root, upgrade=upgrade))

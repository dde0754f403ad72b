"""The result of a check of a prerequisite: ok, blocked or unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["ok", "blocked", "unknown"]
_LABELS: Final[dict[State, str]] = {"ok": "ok     ", "blocked": "BLOCKED", "unknown": "unknown"}


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        state: `ok`; `blocked` if the prerequisite is not met; `unknown` if that could not be found out.
        found: A description of what was found.
        remedy: The command that fixes the problem, or what else to do; empty if there is nothing to do.
    """

    name: str
    state: State
    found: str
    remedy: str = ""

    @property
    def is_ok(self) -> bool:
        """Return whether nothing is known to be in the way."""
        return self.state != "blocked"

    def to_json(self) -> dict[str, object]:
        """Return the check as `doctor --json` prints it."""
        return {
            "name": self.name,
            "is_ok": self.is_ok,
            "state": self.state,
            "found": self.found,
            "remedy": self.remedy,
        }

    def to_text(self) -> str:
        """Return the check as one line, or two if there is something to do."""
        line = f"{_LABELS[self.state]} {self.name}: {self.found}"
        return f"{line}\n        {self.remedy}" if self.remedy else line


def ok(name: str, found: str) -> Check:
    """Return a check whose prerequisite is met."""
    return Check(name, "ok", found)


def blocked(name: str, found: str, remedy: str) -> Check:
    """Return a check whose prerequisite is not met."""
    return Check(name, "blocked", found, remedy)


def unknown(name: str, found: str, remedy: str = "") -> Check:
    """Return a check whose outcome could not be found out."""
    return Check(name, "unknown", found, remedy)

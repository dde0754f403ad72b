"""What can be seen of replicas while the app does not answer: their reports, and the ends of their logs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from infra.az.revision import NoResponse, VersionResponse, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.az.app import App

ASK_AFTER_S: Final = 2.0
"""After this time without an answer, the replicas are asked on the share, to show what they do."""

_TIME: Final = re.compile(r"^\[?\d{4}-\d\d-\d\d[T ][\d:.,]+(Z|[+-]\d\d:?\d\d)?\]?\s*")
_ACCESS: Final = " inference.access: "


@dataclass(slots=True)
class Silence:
    """The time since the app's last answer.

    Attributes:
        since_s: When its first request failed; None while it answers.
        inside: What the replicas have reported that have not answered since, by their names.
    """

    since_s: float | None = None
    inside: dict[str, VersionResponse] = field(default_factory=dict)

    def record(self, app: App, answer: VersionResponse | NoResponse, now_s: float) -> None:
        """Record the result of a request, and read what the replicas report if there is none for a while."""
        if isinstance(answer, VersionResponse):
            self.since_s = None
            self.inside.pop(answer.replica, None)
            return
        if self.since_s is None:
            self.since_s = now_s
        if now_s - self.since_s >= ASK_AFTER_S and not answer.is_waiting:
            self.ask(app)

    def ask(self, app: App) -> None:
        """Read what the replicas report."""
        self.inside = {report.replica: report for report in app.reports()}

    def phase(self) -> tuple[str, str]:
        """Return what the replica that is furthest behind does, and how far it is; empty without a report."""
        if not self.inside:
            return "", ""
        report = min(self.inside.values(), key=lambda each: (each.is_ready, each.percent))
        return describe(report)


def describe(answer: VersionResponse) -> tuple[str, str]:
    """Return what a replica does, and how far it is, to be shown.

    What follows a colon in its phase changes within the phase, such as the bytes that were read.
    """
    name, colon, detail = (answer.phase or "starting").partition(": ")
    phase = f"replica {shorten(answer.replica)}: {name}"
    return phase, f"{colon}{detail}" if detail else f", {answer.percent} %"


def last_words(log: Sequence[str]) -> str:
    """Return the last line of a log that says something, without its time; empty if there is none.

    The server logs each request, and most of those during a start are the pipeline's own.
    """
    lines = (line for line in reversed(log) if line.strip() and _ACCESS not in line)
    return _TIME.sub("", next(lines, "").strip())

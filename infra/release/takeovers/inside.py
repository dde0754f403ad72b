"""Read what replicas report on the share, where the app's address does not answer from this machine.

    replicas/ASKED          a question: any text that was not asked before
    replicas/<name>.json    a replica's report: its own answer of `/version`, how each model answered a
                            request inside of the container, and the question that it had read

A replica reads the question once a second, and reports while questions come. So a report with one of our own
questions is of a replica that lives, whatever the clocks of two machines say.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from infra.az.app import App, parse_version
from infra.az.revision import NoResponse, VersionResponse
from infra.document import load_json
from infra.errors import FjarrError

if TYPE_CHECKING:
    from infra.az.revision import Replica, Revision, Snapshot
    from infra.clock import Clock
    from infra.network import Unreachable
    from infra.share.protocol import Share

REPORTS_FOLDER: Final = "replicas"
ASKED: Final = f"{REPORTS_FOLDER}/ASKED"

ASK_INTERVAL_S: Final = 5.0
READ_INTERVAL_S: Final = 1.0
ALIVE_S: Final = 20.0
"""For how long the report that answers a question counts: a replica answers within seconds."""

SILENT_S: Final = 3.0
"""After this time without a connection, the replicas are asked on the share."""

_CHECKING: Final = "waiting for an answer of each model"

RETRY_S: Final = 10.0
"""The interval at which the address is tried again meanwhile."""


@dataclass(slots=True)
class ReplicaReports:
    """The reports of the replicas that live, which are asked as often as is needed."""

    share: Share
    clock: Clock
    _asked_s: dict[str, float] = field(default_factory=dict)
    _next_question_s: float = 0.0
    _next_read_s: float = 0.0
    _found: dict[str, tuple[str, VersionResponse]] = field(default_factory=dict)

    def read(self) -> tuple[VersionResponse, ...]:
        """Return the reports that answer one of the last questions, by the names of their replicas.

        A share that cannot be read at the moment changes nothing.
        """
        now_s = self.clock.elapsed_s()
        with suppress(FjarrError):
            self._ask(now_s)
        with suppress(FjarrError):
            self._read(now_s)
        return tuple(
            answer
            for _, (question, answer) in sorted(self._found.items())
            if now_s - self._asked_s.get(question, -ALIVE_S) < ALIVE_S
        )

    def _ask(self, now_s: float) -> None:
        if now_s < self._next_question_s:
            return
        question = secrets.token_hex(8)
        self._next_question_s = now_s + ASK_INTERVAL_S
        self.share.write(ASKED, f"{question}\n".encode())
        self._asked_s[question] = now_s

    def _read(self, now_s: float) -> None:
        if now_s < self._next_read_s:
            return
        self._next_read_s = now_s + READ_INTERVAL_S
        names = [entry.name for entry in self.share.entries(REPORTS_FOLDER) if entry.name.endswith(".json")]
        contents = self.share.read_all([f"{REPORTS_FOLDER}/{name}" for name in names])
        for name, content in zip(names, contents, strict=True):
            parsed = None if content is None else parse_report(content)
            if parsed is not None:
                self._found[name] = parsed


def parse_report(content: bytes) -> tuple[str, VersionResponse] | None:
    """Return the question that a report answers, and what it says; None if it cannot be read.

    A replica counts as ready only when each of its models has answered a request inside of the container. The
    server of an earlier release does not check that, and its word is taken.
    """
    answer = parse_version(content)
    if isinstance(answer, NoResponse):
        return None
    document = load_json(content)
    asked, answers = (document.get(name) for name in ("asked", "answers"))  # an object: it was parsed as one
    if not isinstance(asked, str):
        return None
    if isinstance(answers, dict):
        models = {name for name in (answer.base_model, *answer.adapters) if name}
        failed = [f"{name} does not answer: {reason}" for name, reason in answers.items() if reason]
        is_complete = models <= answers.keys() and not failed
        error = answer.error or "; ".join(failed)
        phase = _CHECKING if answer.is_ready and not is_complete else answer.phase
        answer = replace(answer, is_ready=answer.is_ready and is_complete, error=error, phase=phase)
    return asked, answer


class InsideApp(App):
    """A container app whose replicas are asked on the share while its address does not answer from here.

    Args:
        outside: The app.
        reports: The reports of its replicas.
        clock: The clock.
        blocked: Why the address is known not to answer; None to try it.

    Attributes:
        outside: The app, as its address and the platform show it.
    """

    def __init__(
        self, outside: App, reports: ReplicaReports, clock: Clock, blocked: Unreachable | None = None
    ) -> None:
        self.outside = outside
        self._reports = reports
        self._clock = clock
        self._blocked = blocked
        self._is_lasting = blocked is not None
        self._silent_since_s: float | None = None
        self._next_try_s = 0.0
        self._turn = 0

    def revision(self) -> tuple[Revision, bool]:
        """Return the newest active revision and True, or the latest revision and False if none is active."""
        return self.outside.revision()

    def snapshot(self, revision: str) -> Snapshot:
        """Return the current state of a revision and its replicas."""
        return self.outside.snapshot(revision)

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        """Return the replicas of a revision."""
        return self.outside.replicas(revision)

    def restart(self, revision: str) -> None:
        """Request new replicas."""
        self.outside.restart(revision)

    def activate(self, revision: str) -> None:
        """Activate an inactive revision."""
        self.outside.activate(revision)

    def console_tail(self, replica: str) -> tuple[str, ...]:
        """Return the last lines of a replica's console log."""
        return self.outside.console_tail(replica)

    def is_stopped(self) -> bool:
        """Return whether the app was stopped as a whole."""
        return self.outside.is_stopped()

    def version(self) -> VersionResponse | NoResponse:
        """Return the answer of the app's address; without a connection, the next replica's own report."""
        if self._is_lasting:
            return self._ask_inside()
        if self._blocked is not None and self._clock.elapsed_s() < self._next_try_s:
            return self._ask_inside()
        began_s, answer = self._clock.elapsed_s(), self.outside.version()
        if not isinstance(answer, NoResponse) or answer.unreachable is None:
            self._blocked = self._silent_since_s = None
            return answer
        now_s = self._clock.elapsed_s()
        if self._silent_since_s is None:
            self._silent_since_s = began_s
        if now_s - self._silent_since_s < SILENT_S:
            return answer
        self._blocked, self._next_try_s = answer.unreachable, now_s + RETRY_S
        return self._ask_inside()

    def reports(self) -> tuple[VersionResponse, ...]:
        """Return what the replicas report on the share, once they have answered."""
        return self._reports.read()

    def _ask_inside(self) -> VersionResponse | NoResponse:
        assert self._blocked is not None  # noqa: S101 - the reason to ask inside
        reports = self._reports.read()
        if not reports:
            return NoResponse("no replica reports on the share", unreachable=self._blocked)
        self._turn += 1
        return replace(reports[self._turn % len(reports)], unreached=self._blocked.reason)

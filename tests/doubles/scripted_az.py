"""Stand in for az where there is none: answer commands from a script, and keep what was asked.

For tests, of this project and of those who build on it: a verb runs unchanged, and the exact command lines
that it would have run are there to compare. A command that the script does not foresee is an error, never a
silent success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.az.client import Az
from infra.process import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from infra.document import Json
    from infra.errors import FjarrError
    from infra.process import Command


class ScriptedAz(Az):
    """Answer az commands from a script.

    Args:
        answers: What to answer, by the words that the command begins with, such as `containerapp show`: a
            value,
            an error to raise, or a function that makes the answer. The longest beginning that fits is taken.
        folder: A folder for the runner that is never used.
    """

    def __init__(
        self, answers: Mapping[str, Json | FjarrError | Callable[[Command], Json]], folder: Path
    ) -> None:
        super().__init__(Runner({}, folder))
        self.answers = dict(answers)
        self.asked: list[Command] = []

    @property
    def lines(self) -> list[str]:
        """Return the command lines that were asked for, redacted."""
        return [command.line for command in self.asked]

    def run(self, command: Command) -> Json:
        """Answer a command from the script.

        Raises:
            FjarrError: The script says so.
            LookupError: The script has no answer.
        """
        self.asked.append(command)
        words = " ".join(command.argv[1:])
        fitting = [beginning for beginning in self.answers if words.startswith(beginning)]
        if not fitting:
            raise LookupError(f"the script has no answer to: {command.line}")
        answer = self.answers[max(fitting, key=len)]
        if isinstance(answer, Exception):
            raise answer
        return answer(command) if callable(answer) else answer

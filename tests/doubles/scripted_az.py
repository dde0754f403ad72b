"""A test double for az, which answers commands from a script and records them.

A verb runs unchanged, and the test compares the exact command lines that it would have run. A command without
an answer in the script is an error, never a silent success.
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
    """An az client that answers commands from a script.

    Args:
        answers: The answers, by the words that the command begins with, such as `containerapp show`: a value,
            an error to raise, or a function that returns the answer. The longest matching beginning is used.
        folder: A folder for the runner, which is never used.
    """

    def __init__(
        self, answers: Mapping[str, Json | FjarrError | Callable[[Command], Json]], folder: Path
    ) -> None:
        super().__init__(Runner({}, folder))
        self.answers = dict(answers)
        self.commands: list[Command] = []

    @property
    def lines(self) -> list[str]:
        """Return the command lines that were run, redacted."""
        return [command.line for command in self.commands]

    def run(self, command: Command) -> Json:
        """Return the answer of the script.

        Raises:
            FjarrError: The answer is an error.
            LookupError: The script has no answer.
        """
        self.commands.append(command)
        words = " ".join(command.argv[1:])
        matching = [beginning for beginning in self.answers if words.startswith(beginning)]
        if not matching:
            raise LookupError(f"the script has no answer to: {command.line}")
        answer = self.answers[max(matching, key=len)]
        if isinstance(answer, Exception):
            raise answer
        return answer(command) if callable(answer) else answer

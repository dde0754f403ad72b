"""The pipeline's errors, by who must act.

```
FjarrError            exit code   who must act
├── UsageError                2   the user: a flag, a parameter, a configuration file
├── ToolError                 3   the user's machine: a program is missing or too old
├── RemoteError               4   Azure rejected the request, or the new release failed
└── WaitTimeoutError          5   nothing failed, but it took longer than the time limit
```

Any other exception is a bug in Fjarr and shows its traceback (exit code 70).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class FjarrError(Exception):
    """An error that is shown as a message: what happened, to what, and what to do about it.

    Args:
        message: What happened, to what. One sentence without a full stop.
        command: The command line that failed, already redacted, if there is one.
        hint: What to do next, if it is known.
        details: Further lines to show below the message, such as the last lines of a log.
    """

    exit_code = 70

    def __init__(
        self,
        message: str,
        *,
        command: str | None = None,
        hint: str | None = None,
        details: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.command = command
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        """Return the lines that the terminal shows."""
        lines = [f"error: {self.message}"]
        lines += [f"  {line}" for line in self.details]
        if self.command is not None:
            lines.append(f"command: {self.command}")
        if self.hint is not None:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class UsageError(FjarrError):
    """A flag, a parameter or a configuration file that the user must correct."""

    exit_code = 2

    @classmethod
    def combined(cls, errors: Sequence[UsageError]) -> UsageError:
        """Return several errors as one, which lists them all; a single one as it is."""
        if len(errors) == 1:
            return errors[0]
        details: list[str] = []
        for error in errors:
            details.append(f"{error.message}:" if error.details else error.message)
            details += [f"  {line}" for line in error.details]
            details += [f"  hint: {error.hint}"] if error.hint else []
        return cls(f"{len(errors)} things have to be corrected", details=tuple(details))


class ToolError(FjarrError):
    """A program that is missing on this machine, or too old."""

    exit_code = 3


class RemoteError(FjarrError):
    """A request that Azure rejected, or a release that failed."""

    exit_code = 4


class WaitTimeoutError(FjarrError):
    """A time limit that was exceeded."""

    exit_code = 5

"""The pipeline's errors, by who must act.

```
FjarrError            exit code   who must act
├── UsageError                2   the user: a flag, a parameter, a configuration file
├── ToolError                 3   the user's machine: a program is missing or too old
├── RemoteError               4   Azure (or the release it runs) said no
└── WaitTimeoutError          5   nobody said no, but nobody said yes in time
```

Anything that is not a `FjarrError` is a bug of ours and shows its traceback (exit code 70).
"""

from __future__ import annotations


class FjarrError(Exception):
    """Say what happened, to what, and what to do about it.

    Args:
        message: What happened, to what. One sentence, no trailing full stop needed.
        command: The command line that failed, already redacted, if there was one.
        hint: What to do next, if we know it.
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
        """Lay the parts out as the terminal shows them."""
        lines = [f"error: {self.message}"]
        lines += [f"  {line}" for line in self.details]
        if self.command is not None:
            lines.append(f"command: {self.command}")
        if self.hint is not None:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class UsageError(FjarrError):
    """Report a flag, a parameter or a configuration file that the user must correct."""

    exit_code = 2


class ToolError(FjarrError):
    """Report a program that this machine lacks, or has in too old a version."""

    exit_code = 3


class RemoteError(FjarrError):
    """Report that Azure, or the release running there, said no."""

    exit_code = 4


class WaitTimeoutError(FjarrError):
    """Report that something did not come true in the time allowed."""

    exit_code = 5

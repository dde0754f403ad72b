"""Start processes: the only module of the pipeline that does.

A `Command` is a value; a `Runner` performs it. Processes get an empty standard input, so none can wait for an
answer from a person. A process that exceeds its time limit, or that is interrupted by Ctrl-C, is ended
together with its children.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.concurrency import check_wanted
from infra.errors import ToolError, WaitTimeoutError
from infra.interrupts import CHILDREN, add_note
from infra.operating_system import end_group, group_options
from infra.wording import last_lines

if TYPE_CHECKING:
    from collections.abc import Mapping

REDACTED: Final = "***"

_GRACE_S: Final = 5.0
"""How long a process may take to end after SIGTERM."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, with the secrets in it and its time limit.

    Attributes:
        argv: The program and its arguments. The program is a bare name, which the runner looks up.
        secrets: Values that are replaced by `***` wherever the command or its output is shown.
        timeout_s: The time limit. The runner ends the process when it is exceeded.
        install_hint: How to install the program; None for a general hint.
        module: The Python module that is the program, where it is installed beside this Python: its launcher
            script does not start from an environment whose path has a space.
        environment: Variables that this command gets besides those of the runner.
        goes_on: Whether Azure goes on with what it asks for when its process is ended.
    """

    argv: tuple[str, ...]
    secrets: tuple[str, ...] = ()
    timeout_s: float = 120.0
    install_hint: str | None = None
    module: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    goes_on: bool = False

    @property
    def line(self) -> str:
        """Return the command line as it can be pasted into a shell, with its secrets redacted."""
        return shlex.join(redact(argument, self.secrets) for argument in self.argv)

    @property
    def name(self) -> str:
        """Return the program and its subcommand, as in `az containerapp show`: the words before the flags."""
        return " ".join(itertools.takewhile(lambda word: not word.startswith("-"), self.argv))

    @property
    def note(self) -> str:
        """Return what to tell the user if the process is ended by Ctrl-C; empty if nothing goes on."""
        return f"Azure may go on with {self.name}; run the same command again to see" if self.goes_on else ""


@dataclass(frozen=True, slots=True)
class Completed:
    """The exit code and the output of a process."""

    exit_code: int
    stdout: str
    stderr: str


class Runner:
    """Starts processes with a given environment, in a given folder.

    Args:
        environment: The whole environment of the processes.
        folder: Their working folder.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment = dict(environment)
        self._folder = folder
        self._running: set[subprocess.Popen[str]] = set()

    def run(self, command: Command) -> Completed:
        """Run a command to its end, whatever its exit code.

        Raises:
            ToolError: The program is not installed.
            WaitTimeoutError: It did not end in `command.timeout_s`.
        """
        argv = (*self.resolve(command), *command.argv[1:])
        process = CHILDREN.start(lambda: self._start(argv, command), command.note)
        self._running.add(process)
        try:
            stdout, stderr = process.communicate(timeout=command.timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            what = f"{command.argv[0]} did not end within {command.timeout_s:g} s"
            raise WaitTimeoutError(what, command=command.line) from None
        except KeyboardInterrupt as interrupt:
            _end(process)
            if command.note:
                add_note(interrupt, command.note)
            raise
        except BaseException:
            _end(process)
            raise
        finally:
            self._running.discard(process)
            CHILDREN.forget(process)
        return Completed(process.returncode, stdout, stderr)

    def _start(self, argv: tuple[str, ...], command: Command) -> subprocess.Popen[str]:
        check_wanted()
        return subprocess.Popen(
            argv,
            cwd=self._folder,
            env=self._environment | dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            **group_options(),
        )

    def interact(self, command: Command) -> int:
        """Run a command on the user's terminal until it ends, and return its exit code.

        It has this process's standard streams, and no time limit. Ctrl-C is the command's.

        Raises:
            ToolError: The program is not installed.
        """
        argv = (*self.resolve(command), *command.argv[1:])
        environment = self._environment | dict(command.environment)
        # A handler that does nothing here is reset to the default in the program; an ignored signal is not.
        before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
        try:
            with subprocess.Popen(argv, cwd=self._folder, env=environment) as child:
                try:
                    return child.wait()
                except BaseException:
                    child.terminate()
                    raise
        finally:
            signal.signal(signal.SIGINT, before)

    def end_all(self) -> None:
        """End the processes that run on other threads, as Ctrl-C does on the main thread."""
        for process in tuple(self._running):
            end_group(process, is_forced=False)

    def check(self, command: Command) -> str:
        """Run a command that must succeed, and return its standard output.

        Raises:
            ToolError: The program is not installed, or it failed.
            WaitTimeoutError: It did not end in time.
        """
        completed = self.run(command)
        if completed.exit_code != 0:
            details = last_lines(redact(completed.stderr or completed.stdout, command.secrets))
            what = f"{Path(command.argv[0]).name} failed with exit code {completed.exit_code}"
            raise ToolError(what, command=command.line, details=details)
        return completed.stdout

    def resolve(self, command: Command) -> tuple[str, ...]:
        """Return what starts a command's program: its module, the program beside this Python, or on PATH.

        Raises:
            ToolError: There is none of these.
        """
        if command.module is not None and _is_installed(command.module):
            return (sys.executable, "-P", "-m", command.module)
        program = command.argv[0]
        beside = shutil.which(program, path=str(Path(sys.executable).parent))
        found = beside or shutil.which(program, path=self._environment.get("PATH"))
        if found is None:
            hint = command.install_hint or f"install {program}, or put it on PATH"
            raise ToolError(f"{program} is not installed", hint=hint)
        return (found,)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """Replace each secret in a text by `***`, the longest first, so that no part of one is left."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, REDACTED)
    return text


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and its children: by request first, by force if that is not enough."""
    for is_forced in (False, True):
        end_group(process, is_forced=is_forced)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_GRACE_S)
            return

"""Start the pipeline's processes: the one place that does.

A `Runner` performs any `Command`; an `Az` performs az commands and returns their JSON. Neither knows what a
command means. No process can wait for an answer from a person: standard input is empty. A process that
outlives its time, or whose user pressed Ctrl-C, is ended together with all that it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.az.commands import MINIMUM_VERSION, Command, redact, version
from infra.az.errors import NotFoundError, classify, last_lines
from infra.errors import RemoteError, ToolError, WaitTimeoutError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.document import Json

_GRACE_S = 5.0

INSTALL_AZ = "pip install azure-cli, into the environment that invoke runs in"


@dataclass(frozen=True, slots=True)
class Completed:
    """Hold how a process ended and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


class Runner:
    """Start processes with one environment, in one folder.

    Args:
        environment: The whole environment of the processes.
        folder: Their working folder.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment = dict(environment)
        self._folder = folder

    def run(self, command: Command) -> Completed:
        """Run a command to its end, whatever its exit code.

        Raises:
            ToolError: There is no such program on this machine.
            WaitTimeoutError: It did not end in `command.timeout_s`.
        """
        argv = (self.find(command.argv[0]), *command.argv[1:])
        process = subprocess.Popen(
            argv,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=command.timeout_s)
        except subprocess.TimeoutExpired:
            _end(process)
            what = f"{command.argv[0]} did not end within {command.timeout_s:g} s"
            raise WaitTimeoutError(what, command=command.line) from None
        except BaseException:
            _end(process)
            raise
        return Completed(process.returncode, stdout, stderr)

    def check(self, command: Command) -> str:
        """Run a command that must succeed and return what it wrote to stdout.

        Raises:
            ToolError: There is no such program, or it failed.
            WaitTimeoutError: It did not end in time.
        """
        completed = self.run(command)
        if completed.exit_code != 0:
            details = last_lines(redact(completed.stderr or completed.stdout, command.secrets))
            what = f"{Path(command.argv[0]).name} failed with exit code {completed.exit_code}"
            raise ToolError(what, command=command.line, details=details)
        return completed.stdout

    def find(self, program: str) -> str:
        """Return the path of a program: beside this Python, else on PATH.

        Raises:
            ToolError: It is in neither place.
        """
        beside = shutil.which(program, path=str(Path(sys.executable).parent))
        found = beside or shutil.which(program, path=self._environment.get("PATH"))
        if found is None:
            hint = INSTALL_AZ if program == "az" else f"install {program}, or put it on PATH"
            raise ToolError(f"{program} is not installed", hint=hint)
        return found


class Az:
    """Perform az commands and return the JSON that they answer with."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._remembered: dict[Command, Json] = {}

    def run(self, command: Command) -> Json:
        """Run an az command and return its answer; None where it has none.

        Raises:
            AzureRefusalError: Azure said no; `NotFoundError` where the thing does not exist.
            UsageError: The user is not signed in.
            ToolError: There is no az, or it does not know the command.
            WaitTimeoutError: It did not end in time.
        """
        completed = self._runner.run(command)
        if completed.exit_code != 0:
            stderr = redact(completed.stderr, command.secrets)
            raise classify(completed.exit_code, stderr, command=command.line)
        return _answer(command, completed.stdout)

    def run_once(self, command: Command) -> Json:
        """Return a command's answer that holds for as long as this process lives; az is asked the first time.

        Raises:
            FjarrError: As for `run`. What failed is asked again.
        """
        if command not in self._remembered:
            self._remembered[command] = self.run(command)
        return self._remembered[command]

    def find(self, command: Command) -> Json:
        """Run an az command that shows something; None where that does not exist."""
        try:
            return self.run(command)
        except NotFoundError:
            return None

    def check_version(self) -> str:
        """Return az's version.

        Raises:
            ToolError: There is no az, or it is older than the pipeline needs.
        """
        answer = self.run(version())
        found = answer.get("azure-cli") if isinstance(answer, dict) else None
        if not isinstance(found, str):
            raise ToolError("az does not tell its version", command=version().line, hint=INSTALL_AZ)
        if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < MINIMUM_VERSION:
            needed = ".".join(map(str, MINIMUM_VERSION))
            raise ToolError(f"az {found} is too old; {needed} or newer is needed", hint=INSTALL_AZ)
        return found


def az_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which az is quiet, plain and never waits for an answer.

    Args:
        base: The environment to start from.
    """
    environment = dict(base)
    environment.update(
        AZURE_CORE_ONLY_SHOW_ERRORS="true",
        AZURE_CORE_NO_COLOR="true",
        AZURE_CORE_DISABLE_CONFIRM_PROMPT="true",
        AZURE_CORE_DISABLE_PROGRESS_BAR="true",
        AZURE_EXTENSION_USE_DYNAMIC_INSTALL="no",
        PYTHONWARNINGS="ignore",
        PYTHONIOENCODING="utf-8",
    )
    if shutil.which("bicep", path=environment.get("PATH")):
        environment.update(AZURE_BICEP_USE_BINARY_FROM_PATH="true", AZURE_BICEP_CHECK_VERSION="false")
    return environment


def _answer(command: Command, stdout: str) -> Json:
    if not stdout.strip():
        return None
    try:
        answer: Json = json.loads(stdout)
    except ValueError:
        details = last_lines(redact(stdout, command.secrets))
        raise RemoteError("az did not answer with JSON", command=command.line, details=details) from None
    return answer


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started, first politely."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal_number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_GRACE_S)
            return

"""Run az commands and return the JSON that they print."""

from __future__ import annotations

import shutil
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from infra.az.commands import INSTALL_HINT, MINIMUM_VERSION, access_token, version
from infra.az.direct import find_direct
from infra.az.errors import NotFoundError, classify
from infra.az.resource_manager import UnreachableError
from infra.document import load_json
from infra.errors import FjarrError, RemoteError, ToolError
from infra.process import redact
from infra.wording import last_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from infra.az.direct import DirectCommand
    from infra.az.resource_manager import ResourceManager
    from infra.console import Console
    from infra.document import Json
    from infra.process import Command, Runner


class Az:
    """Runs az commands and returns the JSON that they print.

    Args:
        runner: Starts the processes.
        console: Shows which command is waited for, where no step does.
        connect: Returns Resource Manager for a function that gets tokens, so that simple commands need no
            process; None if every command is to be run by az.
    """

    def __init__(
        self,
        runner: Runner,
        console: Console | None = None,
        connect: Callable[[Callable[[str], str]], ResourceManager] | None = None,
    ) -> None:
        self._runner = runner
        self._console = console
        self._resource_manager = None if connect is None else connect(self._get_token)
        self._cached: dict[Command, Json] = {}

    def run(self, command: Command) -> Json:
        """Run an az command and return its output; None if there is none.

        Raises:
            AzureRejectedError: Azure rejected the request; `NotFoundError` if the resource does not exist.
            UsageError: The user is not signed in.
            ToolError: az is not installed, or it does not know the command.
            WaitTimeoutError: It did not end in time.
        """
        manager = self._resource_manager
        if manager is not None and (direct := find_direct(command)) is not None:
            with suppress(UnreachableError):
                return _send(manager, direct, command)
        with self._console.waiting(command.name) if self._console else nullcontext():
            completed = self._runner.run(command)
        if completed.exit_code != 0:
            stderr = redact(completed.stderr, command.secrets)
            raise classify(completed.exit_code, stderr, command=command.line)
        return _parse_output(command, completed.stdout)

    def _get_token(self, subscription: str) -> str:
        """Return an access token of Resource Manager. It is kept in this process only."""
        try:
            with self._console.waiting("az account get-access-token") if self._console else nullcontext():
                completed = self._runner.run(access_token(subscription))
            token = load_json(completed.stdout)["accessToken"] if completed.exit_code == 0 else None
        except (ValueError, KeyError, TypeError, FjarrError) as error:
            raise UnreachableError("az gave no token") from error
        if not isinstance(token, str):
            raise UnreachableError("az gave no token")  # the command itself says why
        return token

    def run_once(self, command: Command) -> Json:
        """Run an az command whose output does not change while this process runs, and cache the output.

        Raises:
            FjarrError: As for `run`. A failure is not cached.
        """
        if command not in self._cached:
            self._cached[command] = self.run(command)
        return self._cached[command]

    def find(self, command: Command) -> Json:
        """Run an az command that shows a resource; None if the resource does not exist."""
        try:
            return self.run(command)
        except NotFoundError:
            return None

    def check_version(self) -> str:
        """Return az's version.

        Raises:
            ToolError: az is not installed, or it is too old.
        """
        answer = self.run(version())
        found = answer.get("azure-cli") if isinstance(answer, dict) else None
        if not isinstance(found, str):
            raise ToolError("az does not print its version", command=version().line, hint=INSTALL_HINT)
        if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < MINIMUM_VERSION:
            needed = ".".join(map(str, MINIMUM_VERSION))
            raise ToolError(f"az {found} is too old; {needed} or newer is needed", hint=INSTALL_HINT)
        return found


def az_environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which az prints plain output and never asks questions.

    Args:
        base: The environment to start from.
    """
    environment = dict(base)
    environment.update(
        AZ_INSTALLER="PIP",
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


def _send(manager: ResourceManager, direct: DirectCommand, command: Command) -> Json:
    """Send the requests that the command makes, without a process, and return what it prints."""
    answers = [manager.send(direct.subscription, request, command.line) for request in direct.requests]
    if direct.follow_up is not None:
        answers.append(manager.send(direct.subscription, direct.follow_up(answers[0]), command.line))
    return direct.to_output(answers)


def _parse_output(command: Command, stdout: str) -> Json:
    if not stdout.strip():
        return None
    try:
        answer: Json = load_json(stdout)
    except ValueError:
        details = last_lines(redact(stdout, command.secrets))
        raise RemoteError("az did not answer with JSON", command=command.line, details=details) from None
    return answer

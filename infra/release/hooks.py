"""Hooks: the user's programs in `hooks/`, which run before and after a change of a stage.

`hooks/pre-deploy` runs before a deployment changes anything, and stops it by failing; `hooks/post-deploy`
runs after it, whether it succeeded or not, and its own failure is a warning. The same holds for `push`,
`rollback` and `restart`. The environment says what a hook is about; it has no arguments and no standard
input.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.errors import FjarrError, ToolError, UsageError
from infra.process import Command
from infra.wording import last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from infra.console import Console
    from infra.process import Runner
    from infra.session import Session

FOLDER: Final = "hooks"
TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class HookPrograms:
    """The programs in a project's folder of hooks.

    Attributes:
        folder: The folder.
        runner: Starts them.
        console: Shows them.
        facts: The environment of all of them, besides that of the tool.
    """

    folder: Path
    runner: Runner
    console: Console
    facts: tuple[tuple[str, str], ...]

    def find(self, name: str) -> Path | None:
        """Return the program of a hook; None if there is none.

        Raises:
            UsageError: It is not executable.
        """
        path = self.folder / name
        if not path.is_file():
            return None
        if not os.access(path, os.X_OK):
            raise UsageError(f"{path} is not executable", hint=f"chmod +x {path}")
        return path

    def run(self, path: Path, values: HookFacts) -> None:
        """Run a hook, and show what it prints.

        Raises:
            ToolError: It failed.
        """
        command = Command((str(path),), timeout_s=TIMEOUT_S, environment=(*self.facts, *values.environment))
        with self.console.step(f"{FOLDER}/{path.name}"):
            completed = self.runner.run(command)
            if completed.exit_code:
                what = f"the hook {path.name} failed with exit code {completed.exit_code}"
                raise ToolError(what, details=last_lines(completed.stdout + completed.stderr))
        for line in completed.stdout.splitlines():
            self.console.info(f"  {line}")

    def run_after(self, path: Path | None, values: HookFacts) -> None:
        """Run the hook after a change, if there is one. Its failure is a warning."""
        if path is None:
            return
        try:
            self.run(path, values)
        except FjarrError as error:
            self.console.warn("\n".join((error.message, *error.details)))


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a project; none without `programs`."""

    programs: HookPrograms | None = None

    @contextmanager
    def around(self, verb: str, **facts: str | None) -> Iterator[HookFacts]:
        """Run the hook before a change, the body, and the hook after it.

        Args:
            verb: What changes the stage, such as `deploy`.
            facts: Variables of the hooks without `FJARR_` and in lower case, such as `release`.

        Raises:
            ToolError: The hook before it failed, so that nothing was changed.
            UsageError: A hook cannot be run.
        """
        values = HookFacts({"verb": verb, **{name: value or "" for name, value in facts.items()}})
        programs = self.programs
        if programs is None:
            yield values
            return
        pre, post = programs.find(f"pre-{verb}"), programs.find(f"post-{verb}")
        if pre is not None:
            programs.run(pre, values)
        try:
            yield values
        except FjarrError as error:
            values.set(outcome="failed", reason=error.message)
            programs.run_after(post, values)
            raise
        values.set(outcome="done")
        programs.run_after(post, values)


class HookFacts:
    """The facts about one change, which its hooks get in their environment."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def set(self, **values: str) -> None:
        """Set or replace variables, for the hook after the change."""
        self._values.update(values)

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """Return the variables, such as `FJARR_RELEASE`."""
        return tuple((f"FJARR_{name.upper()}", value) for name, value in self._values.items())


NO_HOOKS: Final = Hooks()


def find_hooks(session: Session) -> Hooks:
    """Return the hooks of the project, for a provisioned stage."""
    folder = session.root / FOLDER
    if not folder.is_dir():
        return NO_HOOKS
    facts = (("FJARR_STAGE", session.stage.name), ("FJARR_ENDPOINT", session.config().endpoint_url))
    return Hooks(HookPrograms(folder, session.runner, session.console, facts))

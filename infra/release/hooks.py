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
from infra.process import Command, Runner
from infra.wording import last_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from infra.console import Console
    from infra.session import Session

FOLDER: Final = "hooks"
TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a project.

    Attributes:
        folder: The folder with the programs; None if there are no hooks.
        runner: Starts them.
        console: Shows them.
        facts: The environment of all of them, besides that of the tool.
    """

    folder: Path | None = None
    runner: Runner | None = None
    console: Console | None = None
    facts: tuple[tuple[str, str], ...] = ()

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
        pre, post = self._find(f"pre-{verb}"), self._find(f"post-{verb}")
        if pre is not None:
            self._run(pre, values)
        try:
            yield values
        except BaseException as error:
            values.set(outcome="failed", reason=error.message if isinstance(error, FjarrError) else "")
            if isinstance(error, FjarrError):
                self._run_after(post, values)
            raise
        values.set(outcome="done")
        self._run_after(post, values)

    def _find(self, name: str) -> Path | None:
        path = None if self.folder is None else self.folder / name
        if path is None or not path.is_file():
            return None
        if not os.access(path, os.X_OK):
            raise UsageError(f"{path} is not executable", hint=f"chmod +x {path}")
        return path

    def _run(self, path: Path, values: HookFacts) -> None:
        assert self.runner is not None  # noqa: S101  # hooks with a folder have both
        assert self.console is not None  # noqa: S101
        command = Command((str(path),), timeout_s=TIMEOUT_S, environment=(*self.facts, *values.environment))
        with self.console.step(f"{FOLDER}/{path.name}"):
            completed = self.runner.run(command)
            if completed.exit_code:
                what = f"the hook {path.name} failed with exit code {completed.exit_code}"
                raise ToolError(what, details=last_lines(completed.stdout + completed.stderr))
        for line in completed.stdout.splitlines():
            self.console.info(f"  {line}")

    def _run_after(self, path: Path | None, values: HookFacts) -> None:
        if path is None:
            return
        try:
            self._run(path, values)
        except FjarrError as error:
            assert self.console is not None  # noqa: S101  # it has just run
            self.console.warn("\n".join((error.message, *error.details)))


class HookFacts:
    """What the hooks of one change are told, in their environment."""

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
    return Hooks(folder, session.runner, session.console, facts)

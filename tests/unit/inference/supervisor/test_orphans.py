"""Orphans: taken in and reaped, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from inference.supervisor.orphans import adopt_orphans

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")

# It leaves an ended orphan behind in a session of its own, and an ended child in this process's session,
# which somebody may wait for.
SCRIPT = """
import os, subprocess, sys, time
from inference.supervisor.orphans import Reaper, adopt_orphans, find_zombies

def until(holds):
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)

assert adopt_orphans()
leaves = "import os; print(os.posix_spawnp('true', ['true'], os.environ))"
left = int(subprocess.check_output([sys.executable, "-c", leaves], start_new_session=True))
waited_for = subprocess.Popen(["false"])
until(lambda: open(f"/proc/{waited_for.pid}/stat").read().rpartition(")")[2].split()[0] == "Z")
until(lambda: find_zombies() == {left})
reaper = Reaper()
assert reaper.reap() == frozenset(), "somebody may be about to wait for it"
assert reaper.reap() == {left}
assert reaper.reap() == frozenset()
assert not os.path.exists(f"/proc/{left}")
assert waited_for.wait() == 1
"""


def test_orphans_that_have_ended_are_reaped_and_awaited_processes_are_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_system_without_subreapers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing:
        pass

    monkeypatch.setattr("ctypes.CDLL", lambda _name: Nothing())
    assert not adopt_orphans()

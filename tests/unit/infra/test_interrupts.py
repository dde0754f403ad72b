"""Signals, in real processes: a verb ends at once, says what goes on, and leaves no process behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import psutil
import pytest

from infra import interrupts
from infra.interrupts import Children, TerminatedError, add_note, exit_code_of, notes_of, noting
from tests.doubles.containers import gone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 30.0
PYTHON = os.path.basename(sys.executable)  # noqa: PTH119 - the name, as on a command line

# A verb that waits for processes on other threads, one of which changes something on Azure. Each writes its
# number to a file and stays, whatever signal it gets.
WAITING = """
import signal
import sys
from pathlib import Path
from invoke import Context, Exit
from infra.command_line import verb
from infra.concurrency import DaemonExecutor
from infra.process import Command, Runner

# Whoever runs the tests may ignore signals, as nohup does, and a process inherits that.
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

NAME, FILE = sys.argv[1:]
STAY = f'''
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open({FILE!r}, "a") as file:
    file.write(str(os.getpid()) + " ")
time.sleep(600)
'''

def run(goes_on):
    Runner({}, Path.cwd()).run(Command((NAME, "-c", STAY), goes_on=goes_on))

@verb(help={"json": "as JSON"})
def wait(_: Context, json: bool = False) -> None:
    with DaemonExecutor(2) as executor:
        calls = [executor.submit(run, goes_on) for goes_on in (False, True)]
        print([call.result() for call in calls])

try:
    wait(Context(), json=True)
except Exit as ended:
    print(ended.message, file=sys.stderr)
    sys.exit(ended.code)
"""
NOTE = f"Azure may go on with {PYTHON}; run the same command again to see"


class Waiting:
    """The program with the verb, once both of its processes run."""

    def __init__(self, folder: Path) -> None:
        file = folder / "numbers"
        self.process = subprocess.Popen(
            [sys.executable, "-c", WAITING, PYTHON, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        pause = threading.Event()
        while self.process.poll() is None and len(self.numbers(file)) < 2:
            pause.wait(0.02)
        self.children = [psutil.Process(number) for number in self.numbers(file)]

    @staticmethod
    def numbers(file: Path) -> list[int]:
        return [int(text) for text in file.read_text("utf-8").split()] if file.exists() else []


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    made = Waiting(tmp_path)
    yield made
    made.process.kill()
    for child in made.children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    made.process.communicate(timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_verb_with_all_its_processes(waiting: Waiting, number: int, code: int) -> None:
    waiting.process.send_signal(number)
    stdout, stderr = waiting.process.communicate(timeout=PATIENCE_S)
    assert waiting.process.returncode == code
    assert stderr == f"interrupted\n  {NOTE}\n"
    assert json.loads(stdout) == {"error": {"message": "interrupted", "details": [NOTE], "exit_code": code}}
    assert len(waiting.children) == 2
    assert gone(*(child.pid for child in waiting.children))


@pytest.mark.quiet
def test_it_ends_within_a_second_and_a_half(waiting: Waiting) -> None:
    waiting.process.send_signal(signal.SIGINT)
    waiting.process.communicate(timeout=1.5)


def test_processes_that_have_ended_are_forgotten() -> None:
    children = Children()
    with subprocess.Popen([sys.executable, "-c", ""], text=True) as ended:
        assert children.start(lambda: ended, "goes on") is ended
        children.forget(ended)
    assert children.end() == ()


def test_notes_are_kept_once_and_say_what_goes_on() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, noting("the outer"), noting("the inner"):
        raise KeyboardInterrupt
    add_note(caught.value, "the inner")
    assert notes_of(caught.value) == ("the inner", "the outer")
    assert (exit_code_of(caught.value), exit_code_of(TerminatedError(15))) == (130, 143)


def test_the_handlers_are_what_they_were_before() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        earlier = signal.getsignal(signal.SIGINT)
        with interrupts.interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN, "as under nohup"
        assert signal.getsignal(signal.SIGINT) is earlier
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_verb_on_another_thread_handles_no_signal() -> None:
    def run() -> None:
        with interrupts.interruptible():
            pass

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_between_the_verbs_a_signal_ends_the_process_without_a_traceback() -> None:
    code = (
        "import os, signal; from infra.interrupts import end_quietly; end_quietly(); os.kill(os.getpid(), 2)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")

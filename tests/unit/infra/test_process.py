"""Real small processes: their end, their timeouts, what is shown of them."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from infra.errors import ToolError, WaitTimeoutError
from infra.process import Command, Runner
from tests.doubles.containers import gone

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(ENVIRONMENT, tmp_path)


def python(code: str, *, timeout_s: float = 60, secrets: tuple[str, ...] = ()) -> Command:
    return Command((sys.executable, "-c", code), timeout_s=timeout_s, secrets=secrets)


def test_what_a_process_wrote_and_how_it_ended(runner: Runner) -> None:
    done = runner.run(python("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"))
    assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_it_runs_in_the_folder_with_only_the_environment_that_was_given(
    runner: Runner, tmp_path: Path
) -> None:
    done = runner.run(python("import os; print(os.getcwd()); print(sorted(os.environ))"))
    folder, names = done.stdout.splitlines()
    assert folder == str(tmp_path)
    assert {"HOME", "PATH"} <= set(eval(names)) <= {"HOME", "LC_CTYPE", "PATH", "__CF_USER_TEXT_ENCODING"}  # noqa: S307


def test_a_question_is_answered_with_the_end_of_input(runner: Runner) -> None:
    assert "EOFError" in runner.run(python("input('Sure? ')")).stderr


def test_a_process_that_outlives_its_time_is_ended_with_its_children(runner: Runner, tmp_path: Path) -> None:
    pid_file = tmp_path / "child"
    # A shell, which starts soon on a busy machine, too.
    script = f"sleep 60 & echo $! > '{pid_file}'; wait"
    with pytest.raises(WaitTimeoutError) as caught:
        runner.run(Command(("sh", "-c", script), timeout_s=1))
    assert caught.value.message == "sh did not end within 1 s"
    assert gone(int(pid_file.read_text()))


def test_a_command_that_must_succeed_shows_its_last_lines_redacted(runner: Runner) -> None:
    with pytest.raises(ToolError) as caught:
        runner.check(python("import sys; sys.exit('the key hunter22 is wrong')", secrets=("hunter22",)))
    assert caught.value.message == f"{os.path.basename(sys.executable)} failed with exit code 1"  # noqa: PTH119
    assert caught.value.details == ("the key *** is wrong",)
    assert "hunter22" not in str(caught.value)


def test_a_missing_program_is_named(runner: Runner) -> None:
    with pytest.raises(ToolError) as caught:
        runner.run(Command(("no-such-program",)))
    assert str(caught.value) == (
        "error: no-such-program is not installed\nhint: install no-such-program, or put it on PATH"
    )


def test_an_installed_module_is_run_by_this_python(runner: Runner) -> None:
    command = Command(("some-tool", "--version"), module="json.tool")
    assert runner.resolve(command) == (sys.executable, "-P", "-m", "json.tool")
    assert command.line == "some-tool --version"


@pytest.mark.parametrize("module", ["json.no_such_module", "no_such_package.cli"])
def test_a_missing_module_leaves_the_program_on_the_path(runner: Runner, module: str) -> None:
    assert runner.resolve(Command(("sh",), module=module))[0].endswith("/sh")


def test_the_processes_of_other_threads_can_be_ended(runner: Runner) -> None:
    outcome: list[int] = []
    begun = threading.Event()

    def run() -> None:
        begun.set()
        outcome.append(runner.run(python("import time; time.sleep(60)")).exit_code)

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait(60)
    deadline = time.monotonic() + 60
    while thread.is_alive() and time.monotonic() < deadline:
        runner.end_all()  # before the process has started there is nothing to end
        thread.join(0.05)
    assert outcome == [-15]
    runner.end_all()

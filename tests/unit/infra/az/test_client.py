"""Real small processes: their end, their timeouts, what is shown of them."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from infra.az.client import Az, az_environment
from infra.errors import ToolError, WaitTimeoutError
from infra.process import Command, Runner
from infra.session import local_environment

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(ENVIRONMENT, tmp_path)


def python(code: str, *, timeout_s: float = 20, secrets: tuple[str, ...] = ()) -> Command:
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
    code = (
        "import subprocess, sys, pathlib;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(child.pid)); child.wait()"
    )
    with pytest.raises(WaitTimeoutError) as caught:
        runner.run(python(code, timeout_s=2))
    assert caught.value.message == f"{sys.executable} did not end within 2 s"
    _wait_until_gone(int(pid_file.read_text()))


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    gone = threading.Event()
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        gone.wait(0.02)


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


class OldAz(Az):
    def run(self, command: Command) -> dict[str, str]:  # type: ignore[override]  # narrower
        assert command.line == "az version --output json"
        return {"azure-cli": "2.30.1"}


def test_an_az_that_is_too_old_is_refused(runner: Runner) -> None:
    with pytest.raises(ToolError, match=r"^error: az 2\.30\.1 is too old; 2\.75\.0 or newer is needed"):
        OldAz(runner).check_version()


def test_az_is_quiet_and_never_asks() -> None:
    environment = az_environment({"PATH": "/nowhere", "AZURE_CONFIG_DIR": "/home/me/.azure"})
    assert environment == {
        "PATH": "/nowhere",
        "AZURE_CONFIG_DIR": "/home/me/.azure",
        "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
        "AZURE_CORE_NO_COLOR": "true",
        "AZURE_CORE_DISABLE_CONFIRM_PROMPT": "true",
        "AZURE_CORE_DISABLE_PROGRESS_BAR": "true",
        "AZURE_EXTENSION_USE_DYNAMIC_INSTALL": "no",
        "PYTHONWARNINGS": "ignore",
        "PYTHONIOENCODING": "utf-8",
    }


def test_a_bicep_on_path_is_used_without_a_look_at_the_network(tmp_path: Path) -> None:
    bicep = tmp_path / "bicep"
    bicep.write_text("#!/bin/sh\n")
    bicep.chmod(0o755)
    environment = az_environment({"PATH": str(tmp_path)})
    assert environment["AZURE_BICEP_USE_BINARY_FROM_PATH"] == "true"
    assert environment["AZURE_BICEP_CHECK_VERSION"] == "false"


def test_nothing_of_the_users_azure_reaches_the_local_one(tmp_path: Path) -> None:
    users = {"PATH": "/bin", "AZURE_DEFAULTS_GROUP": "prod", "AZURE_CLIENT_SECRET": "x", "ARM_TENANT_ID": "y"}
    environment = local_environment(users, tmp_path / "azure", tmp_path / "ca.pem")
    assert not {"AZURE_DEFAULTS_GROUP", "AZURE_CLIENT_SECRET", "ARM_TENANT_ID"} & set(environment)
    assert environment["AZURE_CONFIG_DIR"] == str(tmp_path / "azure")
    assert environment["REQUESTS_CA_BUNDLE"] == str(tmp_path / "ca.pem")
    assert environment["AZURE_CORE_COLLECT_TELEMETRY"] == "false"
    assert environment["AZURE_CORE_INSTANCE_DISCOVERY"] == "false"
    assert environment["NO_PROXY"] == "localhost,127.0.0.1"


@pytest.mark.az
def test_the_real_az_has_a_version_that_will_do(tmp_path: Path) -> None:
    environment = local_environment(
        {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, tmp_path / "azure", None
    )
    assert Az(Runner(environment, tmp_path)).check_version().startswith("2.")
    assert not (tmp_path / ".azure").exists()

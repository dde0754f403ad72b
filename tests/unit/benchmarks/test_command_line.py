"""A benchmark that cannot run ends with a sentence and an exit code, and shows no traceback."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import command_line
from benchmarks.processes import StartError
from inference.errors import LoadError
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

BENCHMARKS = Path(command_line.__file__).parent
NO_MODEL = "there is no config.json in nowhere"


def end(main: Callable[[], int | None]) -> object:
    with pytest.raises(SystemExit) as ended:
        command_line.run(main)
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("no stage is up", hint="invoke up"), 2, "error: no stage is up\nhint: invoke up"),
        (StartError("it ended with 1"), 2, "error: it ended with 1"),
        (LoadError("no weights"), 1, "error: no weights"),
        (FileNotFoundError(2, "No such file", "x.txt"), 2, "error: x.txt: No such file"),
        (ModuleNotFoundError("no", name="mfusepy"), 3, "error: the package mfusepy is not installed"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)  # fmt: skip
def test_what_the_user_can_change_is_a_sentence(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    def fail() -> None:
        raise error

    assert end(fail) == code
    assert capsys.readouterr().err == f"{message}\n"


def test_the_exit_code_is_that_of_the_benchmark() -> None:
    assert end(lambda: None) == 0
    assert end(lambda: 1) == 1


def test_a_bug_shows_its_traceback() -> None:
    def fail() -> None:
        raise OSError("of no file")

    with pytest.raises(OSError, match="of no file"):
        command_line.run(fail)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("crossing", ["--rows", "0"], "argument --rows: 0 is less than 1"),
        ("crossing", ["--steps", "x"], "argument --steps: invalid whole number value: 'x'"),
        ("load", ["http://127.0.0.1:9", "--model", "m", "--clients", "-1"], "-1 is less than 1"),
        ("packages", ["--requirements", "none.txt"], "none.txt: No such file or directory"),
        ("reading", ["--model", "nowhere"], NO_MODEL),
        ("startup", ["--model", "nowhere"], NO_MODEL),
        ("steps", ["--model", "nowhere"], NO_MODEL),
        ("turns", ["--model", "nowhere"], NO_MODEL),
        ("gpu", ["--model", "nowhere"], NO_MODEL),
        ("run", ["--model", "nowhere"], NO_MODEL),
    ],
)
def test_a_wrong_argument_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    assert end(importlib.import_module(f"benchmarks.{name}").main) == 2
    assert message in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["http://127.0.0.1:9", "--model", "m", "--clients", "1", "--requests", "1", "--warm-up", "0"]
    monkeypatch.setattr(sys, "argv", ["load", *arguments])
    assert end(importlib.import_module("benchmarks.load").main) == 3
    shown = capsys.readouterr()
    assert shown.err.startswith("error: no request to http://127.0.0.1:9 succeeded: Client")
    assert '"failures"' in shown.out


def test_every_command_line_of_the_benchmarks_ends_in_this_way() -> None:
    for path in BENCHMARKS.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "ArgumentParser(" in text:
            assert text.endswith('if __name__ == "__main__":\n    command_line.run(main)\n'), path.name

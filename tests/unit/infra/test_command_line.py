"""The command line itself: what is wrong with words and flags, help, errors as text and as JSON."""
# ruff: noqa: ARG001, FBT001, FBT002  # the flags of a verb

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
from invoke import Collection, Context, Exit

from infra.command_line import argument_error, check_arguments, run_script, show, verb
from infra.errors import RemoteError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


class Printed:
    """A result of a verb."""

    def to_json(self) -> dict[str, object]:
        return {"is": "json"}

    def to_text(self) -> str:
        return "a name that is not UTF-8: \udcff"


@verb(help={"stage": "where", "count": "how many", "kind": "which (default: all)", "json": "as JSON"})
def work(_: Context, stage: str = "azure", count: int = 3, kind: str = "all", json: bool = False) -> None:
    """Work."""
    raise ERRORS[stage]


@verb(help={"json": "as JSON"})
def look(_: Context, json: bool = False) -> None:
    """Look, and find something wrong."""
    show(Printed(), json)
    raise RemoteError("something is wrong")


ERRORS: dict[str, BaseException] = {
    "azure": UsageError("wrong", details=("one",), hint="see invoke work"),
    "mine": UsageError("wrong", hint="see invoke work"),
    "unreadable": PermissionError(errno.EACCES, "Permission denied", "/a/\udcff"),
    "bug": LookupError("a bug"),
    "stopped": KeyboardInterrupt(),
}
VERBS = Collection(work, look)


@pytest.fixture(autouse=True)
def no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FJARR_STAGE", raising=False)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("wrok", "'wrok' is no verb; did you mean work?\nhint: invoke --list lists them"),
        ("zzzz", "'zzzz' is no verb\nhint: invoke --list lists them"),
        (
            "work --stag x",
            "--stag is no flag of invoke work; did you mean --stage?\nhint: invoke --help work lists them",
        ),
        (
            "work --stag=x",
            "--stag is no flag of invoke work; did you mean --stage?\nhint: invoke --help work lists them",
        ),
        ("look --stage x", "--stage is no flag of invoke look\nhint: invoke --help look lists them"),
        ("work --stage", "--stage needs a value"),
        ("work --count many", "--count must be a number, and 'many' is none"),
        ("work --count=", "--count must be a number, and '' is none"),
        ("work --count 1.5", "--count must be a whole number, and '1.5' is none"),
        ("work --count 4 look --json", ""),
        ("--help work", ""),
        ("work --help", ""),
        ("--list", ""),
        ("", ""),
    ],
)
def test_what_is_wrong_with_the_arguments(line: str, message: str) -> None:
    assert argument_error(line.split(), VERBS) == message
    help_of_work: Any = VERBS["work"].help
    assert help_of_work["count"] == "how many (default: 3)", "Invoke still has the help"


def test_a_default_is_shown_once() -> None:
    texts: Any = VERBS["work"].help
    assert texts == {
        "stage": "where (default: azure)",
        "count": "how many (default: 3)",
        "kind": "which (default: all)",
        "json": "as JSON",
    }


def test_the_environment_sets_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FJARR_STAGE", "mine")

    @verb(help={"stage": "where"})
    def staged(_: Context, stage: str = "azure") -> None:
        """Do it."""

    made: Any = staged
    assert {argument.name: argument.default for argument in made.get_arguments()} == {"stage": "mine"}


@pytest.mark.usefixtures("signals")
def test_only_invokes_own_command_lines_are_checked() -> None:
    module: ModuleType = __import__("tasks")
    check_arguments(["/usr/bin/pytest", "wrok"], module)
    for program in ("/x/bin/invoke", "/x/bin/inv", "C:/x/invoke.exe", "/x/site-packages/invoke/__main__.py"):
        with pytest.raises(SystemExit) as caught:
            check_arguments([program, "stauts"], module)
        assert caught.value.code == 2


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("line", ["evaluate --help", "secret -h", "secret set --help", "stage list --help"])
def test_help_can_follow_a_verb_with_words_of_its_own(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    with pytest.raises(SystemExit) as caught:
        check_arguments(["invoke", *words], __import__("tasks"))
    assert not caught.value.code
    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: inv[oke] [--core-opts] {words[0]} ")
    assert "--json " in printed


@pytest.mark.usefixtures("signals")
def test_a_wrong_argument_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check_arguments(["invoke", "stauts", "--json"], __import__("tasks"))
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "error": {"message": "'stauts' is no verb; did you mean status?", "exit_code": 2}
    }
    assert printed.err.startswith("error: 'stauts' is no verb")


def run(stage: str, *, is_json: bool = True) -> Exit:
    body: Any = work
    with pytest.raises(Exit) as caught:
        body.body(Context(), stage=stage, json=is_json)
    return caught.value


@pytest.mark.parametrize(
    ("stage", "code", "document"),
    [
        ("azure", 2, {"message": "wrong", "details": ["one"], "command": None, "hint": "see invoke work"}),
        (
            "mine",
            2,
            {"message": "wrong", "details": [], "command": None, "hint": "see invoke work --stage mine"},
        ),
        (
            "unreadable",
            2,
            {
                "message": "/a/\udcff: Permission denied",
                "details": [],
                "command": None,
                "hint": "see that you may read and write it",
            },
        ),
        ("bug", 70, {"message": "this is a bug in Fjarr"}),
        ("stopped", 130, {"message": "interrupted", "details": []}),
    ],
)
def test_an_error_is_a_document_with_json(
    capsys: pytest.CaptureFixture[str], stage: str, code: int, document: dict[str, Any]
) -> None:
    assert run(stage).code == code
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"error": {**document, "exit_code": code}}
    assert run(stage, is_json=False).code == code
    assert capsys.readouterr().out == ""


def test_an_error_after_a_result_leaves_stdout_with_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    body: Any = look
    with pytest.raises(Exit) as caught:
        body.body(Context(), json=True)
    assert (json.loads(capsys.readouterr().out), caught.value.code) == ({"is": "json"}, 4)
    with pytest.raises(Exit):
        body.body(Context(), json=False)
    assert capsys.readouterr().out == "a name that is not UTF-8: \\udcff\n"
    assert "\\udcff: Permission denied" in str(run("unreadable").message)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("no such stage", hint="invoke up"), 2, "error: no such stage\nhint: invoke up\n"),
        (RemoteError("it failed"), 4, "error: it failed\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x\udcff"),
            2,
            "error: /x\\udcff: Permission denied\nhint: see that you may read and write it\n",
        ),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)  # fmt: skip
def test_a_script_ends_as_a_verb_does(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_script(fail)
    assert ended.value.code == code
    assert capsys.readouterr().err == message


def test_a_script_s_bug_shows_its_traceback() -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "of no file")

    with pytest.raises(OSError, match="of no file"):
        run_script(fail)
    run_script(lambda: None)


@pytest.fixture
def signals() -> Iterator[None]:
    """Set the signals' handlers again as they were: the check of a command line sets its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def perform(made: Any, **flags: Any) -> None:
    """Call a verb as Invoke does."""
    made(Context(), **flags)


@verb(help={"count": "how many", "seed": "the seed", "warmth": "how warm"})
def take(_: Context, count: int = 3, seed: int = 0, warmth: float = 1.0, json: bool = False) -> None:
    """Take numbers."""
    show(Printed(), json)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"count": -1}, "error: --count -1 is not a number from 0 on"),
        ({"warmth": float("nan")}, "error: --warmth nan is not a number from 0 on"),
    ],
)
def test_numbers_that_no_verb_takes(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(Exit) as caught:
        perform(take, **flags)
    assert (caught.value.code, caught.value.message) == (2, message)
    perform(take, seed=-1, count=0)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FULL, 3, "error: this machine: No space left on device"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a"),
            3,
            "error: /a: No space left on device",
        ),
    ],
)
def test_a_machine_that_lacks_something_is_no_bug(error: OSError, code: int, message: str) -> None:
    ERRORS["full"] = error
    with pytest.raises(Exit) as caught:
        perform(work, stage="full")
    assert caught.value.code == code
    text = caught.value.message or ""
    assert text.splitlines()[0] == message


class FullStream(io.TextIOWrapper):
    """A stream to a disk that is full."""

    def write(self, _: str) -> int:
        raise FULL


@pytest.mark.parametrize("is_json", [True, False])
def test_a_result_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_json: bool
) -> None:
    with (tmp_path / "out").open("wb", buffering=0) as raw:
        monkeypatch.setattr(sys, "stdout", FullStream(io.BufferedWriter(raw)))
        with pytest.raises(Exit) as caught:
            perform(take, json=is_json)
        monkeypatch.undo()
    assert caught.value.code == 3
    assert caught.value.message == "error: the result cannot be written: No space left on device"


def test_a_terminal_without_the_characters_of_a_result_shows_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with out.open("w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        perform(take)
        monkeypatch.undo()
    assert out.read_text() == "a name that is not UTF-8: \\udcff\n"


@pytest.mark.parametrize("is_json", [True, False])
def test_without_a_standard_output_there_is_no_result(
    monkeypatch: pytest.MonkeyPatch, *, is_json: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(Exit) as caught:
        perform(take, json=is_json)
    assert (caught.value.code, caught.value.message) == (
        3,
        "error: there is no standard output to print the result on",
    )

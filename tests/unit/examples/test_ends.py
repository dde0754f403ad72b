"""The example's scripts end as the verbs do: with a sentence and an exit code, and what was there stays."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.command_line import run_script
from infra.evaluation import evaluation
from infra.evaluation.asking import ask_all
from infra.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from infra.evaluation.evaluation import Work

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "ticket-triage"
sys.path.insert(0, str(EXAMPLE))  # its scripts are run from there, and find each other there

import evaluate  # noqa: E402 - after the line that makes it importable
import train  # noqa: E402 - as above


@pytest.mark.parametrize("has_answers", [True, False])
def test_an_interrupt_is_one_line_that_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, has_answers: bool
) -> None:
    def interrupt(work: Work, _: object) -> None:
        if has_answers:
            work.folder.mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--endpoint", "http://127.0.0.1:9"])
    monkeypatch.setattr(evaluate, "run", interrupt)
    monkeypatch.setattr(evaluate, "REPORTS", tmp_path)
    before = evaluate.RESULTS.read_bytes(), evaluate.README.read_bytes()
    with pytest.raises(SystemExit) as ended:
        evaluate.main()
    assert ended.value.code == INTERRUPTED == 130
    *_, last = capsys.readouterr().err.splitlines()
    (folder,) = tmp_path.iterdir() if has_answers else (None,)
    kept = f"the answers so far are in {folder}" if has_answers else "there are no answers yet"
    assert last == f"interrupted: {kept}; results.json and README.md are unchanged"
    assert (evaluate.RESULTS.read_bytes(), evaluate.README.read_bytes()) == before


@pytest.mark.parametrize(
    ("script", "arguments", "code", "message"),
    [
        (evaluate, ["--endpoint", "here"], 2, "error: 'here' is not the address of a server"),
        (evaluate, ["--stage", "nowhere"], 2, "error: there is no stage 'nowhere'"),
        (evaluate, ["--every", "0"], 2, "argument --every: 0 is less than 1"),
        (train, ["--base", "nowhere"], 2, "argument --base: there is no config.json in nowhere"),
        (train, ["--epochs", "0"], 2, "argument --epochs: 0 is less than 1"),
    ],
)
def test_what_the_user_can_change_is_a_sentence(  # noqa: PLR0913, PLR0917
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: Any,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_script(script.main)
    assert ended.value.code == code
    assert message in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def no_wait(_: float) -> None: ...

    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--endpoint", "http://127.0.0.1:9", "--tuned"])
    monkeypatch.setattr(evaluate, "REPORTS", tmp_path)
    monkeypatch.setattr(evaluation, "ask_all", partial(ask_all, sleep=no_wait))
    before = evaluate.RESULTS.read_bytes(), evaluate.README.read_bytes()
    with pytest.raises(SystemExit) as ended:
        run_script(evaluate.main)
    assert ended.value.code == 4
    shown = capsys.readouterr().err
    assert "error: no request for 'ticket-triage' at http://127.0.0.1:9/v1 succeeded" in shown
    assert "Traceback" not in shown
    assert (evaluate.RESULTS.read_bytes(), evaluate.README.read_bytes()) == before


def test_the_scripts_end_in_this_way_when_they_are_run() -> None:
    for path in EXAMPLE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "ArgumentParser(" in text:
            assert text.endswith("    run_script(main)\n"), path.name

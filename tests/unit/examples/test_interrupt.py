"""A Ctrl-C in the example's evaluation: one line that says what is kept, and the exit code of the verbs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.command_line import INTERRUPTED

if TYPE_CHECKING:
    from infra.evaluation.evaluation import Work

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "ticket-triage"
sys.path.insert(0, str(EXAMPLE))  # its scripts are run from there, and find each other there

import evaluate  # noqa: E402 - after the line that makes it importable


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

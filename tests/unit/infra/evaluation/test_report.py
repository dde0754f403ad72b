"""The report: what it shows, its order, and that text from outside stays text."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.evaluation.asking import Answer, Candidate, Endpoint
from infra.evaluation.examples import Example
from infra.evaluation.metrics import choose_metrics
from infra.evaluation.report import write_report
from infra.evaluation.results import Evaluation, make_row, percentiles, summarize, write_p_value

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
NAMES = ("base", "tuned")


def make_answer(name: str, example: str, text: str | None) -> Answer:
    return Answer(name, example, text or "", "stop", None if text else f"error {EVIL}", 0.1, 0.5, 3, 2)


def make_evaluation(*answers: tuple[str, str | None]) -> Evaluation:
    """Return an evaluation of two models, of which each pair is the answers to an example; None fails."""
    examples = [
        Example(str(index), ({"role": "user", "content": f"question {index} {EVIL}"},), (f"right {index}",))
        for index in range(1, len(answers) + 1)
    ]
    metrics = choose_metrics(examples)
    rows = [
        make_row(
            example,
            [
                Answer(
                    name, example.name, text or "", "stop", None if text else f"error {EVIL}", 0.1, 0.5, 3, 2
                )
                for name, text in zip(NAMES, pair, strict=True)
            ],
            metrics,
        )
        for example, pair in zip(examples, answers, strict=True)
    ]
    candidates = [Candidate(name, name, Endpoint("http://host/v1")) for name in NAMES]
    return summarize("data.jsonl", metrics, candidates, rows, Path("folder"))


def order_of(evaluation: Evaluation) -> list[str]:
    return [row.example.name for row in evaluation.rows]


def test_the_worst_comes_first() -> None:
    evaluation = make_evaluation(
        ("wrong", "right 1"), ("wrong", "wrong"), ("right 3", "wrong"), ("wrong", "right 4 more")
    )
    # A loss against the base before what both get wrong, then what is nearly right, then what is right.
    assert order_of(evaluation) == ["3", "2", "4", "1"]


def test_the_report_has_every_answer_and_needs_nothing_else() -> None:
    page = write_report(
        make_evaluation(("wrong", "right 1"), ("right 2", "wrong"), ("x", None)),
        datetime(2026, 1, 2, tzinfo=UTC),
    )
    assert "2026-01-02 00:00 UTC" in page
    assert re.findall(r"<b>line (\d)</b>", page) == ["2", "3", "1"]
    assert page.count('data-tags="wrong regression"') == 1
    assert page.count('data-tags="right improvement"') == 1
    assert page.count('data-tags="wrong failed"') == 1
    assert not re.search(r"""(src|href)=["']?(http|//)""", page)
    assert "default-src 'none'" in page
    assert page.count("<svg") == 6  # two metrics, their differences, and two times


def test_text_from_outside_stays_text() -> None:
    page = write_report(make_evaluation((EVIL, None)))
    assert EVIL not in page
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in page


def test_a_failure_has_the_score_zero_for_every_metric() -> None:
    evaluation = make_evaluation(("right 1", None))
    scores: Any = evaluation.rows[0].scores
    assert scores == ({"exact_match": 1, "similarity": 1}, {"exact_match": 0, "similarity": 0})
    assert evaluation.models[1].failures == 1
    assert evaluation.models[1].duration_s is None
    assert "-" in evaluation.to_text()


def test_small_p_values_are_written_as_such() -> None:
    assert [write_p_value(value) for value in (0.0001, 0.012, 1.0)] == ["<0.001", "0.012", "1.000"]


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentiles([]) is None
    found = percentiles([float(number) for number in range(1, 101)])
    assert found is not None
    assert (found.p50, found.p95) == (50, 95)

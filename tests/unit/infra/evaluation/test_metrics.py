"""Scores of single answers."""

from __future__ import annotations

from typing import Any

import pytest

from infra.errors import UsageError
from infra.evaluation.examples import Example
from infra.evaluation.metrics import choose_metrics, exact_match, last_number, similarity, valid_json

TICKET = '{"category": "billing", "priority": 2}'


def score(name: str, answer: str, *expected: str, **options: Any) -> float | None:
    """Score with the metrics that are chosen for one example."""
    metrics = choose_metrics([Example("1", (), expected)], **options)
    return next(metric for metric in metrics if metric.name == name).score(expected, answer)


def names(*expected: str, **options: Any) -> list[str]:
    return [metric.name for metric in choose_metrics([Example("1", (), expected)], **options)]


def test_what_is_measured_follows_from_what_is_expected() -> None:
    assert names("yes") == ["exact_match", "similarity"]
    assert names("yes", pattern="y", tolerance=0.1) == ["exact_match", "number", "regex", "similarity"]
    assert names("12.5") == ["exact_match", "number", "similarity"]
    assert names(TICKET) == ["exact_match", "valid_json", "field.category", "field.priority", "similarity"]
    assert names(pattern="y") == ["regex"]
    assert names(has_judge=True) == []


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(UsageError, match="nothing to score"):
        names()


@pytest.mark.parametrize(
    ("expected", "answer", "wanted"),
    [
        ("yes", " yes\n", 1), ("yes", "Yes", 0), (TICKET, '{"priority":2,"category":"billing"}', 1),
        (TICKET, '{"priority":2}', 0), ('{"a": 1}', '{"a": true}', 0), ('{"a": 1}', '{"a": 1.0}', 1),
        ("[1, 2]", "[1,2]", 1), ("[1, 2]", "[2, 1]", 0), ("1", "1.0", 0),
    ],
)  # fmt: skip
def test_exact_match(expected: str, answer: str, wanted: float) -> None:
    assert exact_match((expected,), answer) == wanted


def test_the_best_of_several_accepted_answers_counts() -> None:
    assert exact_match(("four", "4"), "4") == 1
    assert similarity(("a b c d", "a b"), "a b") == 1
    assert exact_match((), "4") is None


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [(TICKET, 1), ("[]", 1), ("Here: {}", 0), ('{"a": NaN}', 0), ("3", 0), ("[" * 100_000, 0), ("", 0)],
)
def test_valid_json(answer: str, wanted: float) -> None:
    assert valid_json((), answer) == wanted


def test_fields_are_compared_one_by_one() -> None:
    answer = '{"category": "network", "priority": 2}'
    assert score("field.category", answer, TICKET) == 0
    assert score("field.priority", answer, TICKET) == 1
    assert score("field.priority", "no JSON", TICKET) == 0


def test_a_field_that_an_example_does_not_have_is_not_scored() -> None:
    examples = [Example("1", (), ('{"a": 1}',)), Example("2", (), ('{"b": 1}',))]
    metric = next(each for each in choose_metrics(examples) if each.name == "field.a")
    assert metric.score(examples[1].expected, '{"b": 1}') is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12", 12), ("It is 3, so 1,250.50 in all.", 1250.5), ("-3e-2", -0.03), (".5", 0.5), ("1,2,3", 3),
        ("nothing", None),
    ],
)  # fmt: skip
def test_the_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


def test_numbers_within_a_tolerance() -> None:
    assert score("number", "about 101", "100", tolerance=0.02) == 1
    assert score("number", "about 103", "100", tolerance=0.02) == 0
    assert score("number", "many", "100") == 0
    assert score("number", "many", "none", tolerance=0.1) is None
    assert score("number", "0", "0") == 1


def test_a_regular_expression() -> None:
    assert score("regex", "ANSWER: 4", "4", pattern=r"ANSWER: (\d+)") == 1
    assert score("regex", "ANSWER: 5", "4", pattern=r"ANSWER: (\d+)") == 0
    assert score("regex", "5", "4", pattern=r"ANSWER: (\d+)") == 0
    assert score("regex", "a 5", pattern=r"\d") == 1
    with pytest.raises(UsageError, match="is invalid: missing"):
        names("x", pattern="(")


def test_similarity_is_of_words_in_order() -> None:
    assert similarity(("a b c d",), "a b c d") == 1
    assert similarity(("a b c d",), "a b x y") == 0.5
    assert similarity(("a b",), "c") == 0

"""Score one answer. A score is between 0 and 1, and None where a metric does not apply. Pure.

Which metrics apply follows from the expected answers: the fields of JSON objects are compared one by one,
and numbers with a tolerance.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from infra.document import load_json
from infra.errors import UsageError

if TYPE_CHECKING:
    from infra.evaluation.examples import Example

MAX_FIELDS: Final = 20
DEFAULT_TOLERANCE: Final = 1e-6
NUMBER: Final = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")

Score = Callable[[tuple[str, ...], str], float | None]
"""Scores an answer, given the accepted ones."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A way to score an answer.

    Attributes:
        name: Its name in results.
        meaning: What it measures, in a few words.
        score: Scores an answer, given the accepted ones.
    """

    name: str
    meaning: str
    score: Score


def choose_metrics(
    examples: Sequence[Example],
    *,
    pattern: str | None = None,
    tolerance: float | None = None,
    has_judge: bool = False,
) -> tuple[Metric, ...]:
    """Return the metrics that apply to the examples, the most important one first.

    Args:
        examples: The examples.
        pattern: A regular expression for answers.
        tolerance: The relative tolerance for numbers.
        has_judge: Whether a judge scores the answers as well, so that nothing else has to.

    Raises:
        UsageError: There is no expected answer and no pattern, or the pattern is invalid.
    """
    metrics: list[Metric] = []
    expected = [text for example in examples for text in example.expected]
    if expected:
        metrics.append(Metric("exact_match", "the answer is an accepted one", exact_match))
        documents = [_parse(text) for text in expected]
        if all(isinstance(document, dict | list) for document in documents):
            metrics.append(Metric("valid_json", "the answer is JSON", valid_json))
            metrics += [_field_metric(name) for name in _fields_of(documents)]
        if tolerance is not None or all(map(_is_number, expected)):
            limit = DEFAULT_TOLERANCE if tolerance is None else tolerance
            metrics.append(
                Metric("number", f"the answer's last number, within {limit:g}", _number_metric(limit))
            )
    if pattern is not None:
        metrics.append(Metric("regex", f"the answer has {pattern}", _regex_metric(pattern)))
    if expected:
        metrics.append(Metric("similarity", "the share of words in common, in order", similarity))
    if not metrics and not has_judge:
        raise UsageError(
            "the examples have no expected answers, so there is nothing to score",
            hint="name the field with --expected, or use --regex or --judge",
        )
    return tuple(metrics)


def exact_match(accepted: tuple[str, ...], answer: str) -> float | None:
    """Compare without white space at the ends; JSON objects and lists are compared as values."""
    return _best(accepted, lambda expected: _is_same(expected, answer))


def valid_json(_accepted: tuple[str, ...], answer: str) -> float:
    """Check that the whole answer is a JSON object or list."""
    return float(isinstance(_parse(answer), dict | list))


def similarity(accepted: tuple[str, ...], answer: str) -> float | None:
    """Return the share of words that are the same, in order: 1 for the same words, 0 for none in common.

    Source: Python's `difflib.SequenceMatcher.ratio`.
    """

    def ratio(expected: str) -> float:
        left, right = expected.split(), answer.split()
        return difflib.SequenceMatcher(None, left, right, autojunk=False).ratio()

    return _best(accepted, ratio)


def last_number(text: str) -> float | None:
    """Return the last number in a text; answers often explain before they conclude."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def _best(accepted: tuple[str, ...], score: Callable[[str], float]) -> float | None:
    return max((float(score(expected)) for expected in accepted), default=None)


def _is_same(expected: str, answer: str) -> bool:
    if expected.strip() == answer.strip():
        return True
    document = _parse(expected)
    return isinstance(document, dict | list) and _equals(document, _parse(answer))


def _equals(left: object, right: object) -> bool:
    """Compare JSON values. Unlike in Python, true is not 1."""
    return _canonical(left) == _canonical(right)


def _canonical(document: object) -> str:
    return json.dumps(document, sort_keys=True)


def _fields_of(documents: Sequence[object]) -> list[str]:
    """Return the fields of the expected objects, in order of appearance."""
    names = {name: None for document in documents if isinstance(document, dict) for name in document}
    return list(names)[:MAX_FIELDS]


def _field_metric(name: str) -> Metric:
    def score(accepted: tuple[str, ...], answer: str) -> float | None:
        wanted = [document for document in map(_parse, accepted) if _has(document, name)]
        found = _parse(answer)
        if not wanted:
            return None
        return float(_has(found, name) and any(_equals(each[name], found[name]) for each in wanted))

    return Metric(f"field.{name}", f"the field {name} is right", score)


def _has(document: Any, name: str) -> bool:  # noqa: ANN401 - JSON is of any type
    return isinstance(document, dict) and name in document


def _number_metric(tolerance: float) -> Score:
    def score(accepted: tuple[str, ...], answer: str) -> float | None:
        wanted = [number for number in map(last_number, accepted) if number is not None]
        found = last_number(answer)
        if not wanted:
            return None
        return float(
            found is not None
            and any(math.isclose(each, found, rel_tol=tolerance, abs_tol=tolerance * 1e-3) for each in wanted)
        )

    return score


def _regex_metric(pattern: str) -> Score:
    """Return the score of a pattern. What its first group matches is compared with the expected answer."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"the regular expression {pattern!r} is invalid: {error}") from error

    def score(accepted: tuple[str, ...], answer: str) -> float | None:
        found = expression.search(answer)
        if expression.groups and accepted:
            return exact_match(accepted, (found.group(1) or "") if found else "") if found else 0.0
        return float(found is not None)

    return score


def _is_number(text: str) -> bool:
    return NUMBER.fullmatch(text.strip()) is not None


def _parse(text: str) -> Any:  # noqa: ANN401 - JSON is of any type
    """Return a text's JSON value, or None. A number that is not finite is no JSON."""

    def reject(constant: str) -> None:
        raise ValueError(constant)

    try:
        return load_json(text, parse_constant=reject, parse_float=_read_float)
    except (ValueError, RecursionError):
        return None


def _read_float(text: str) -> float:
    """Return a number; 1.0 becomes 1, which is the same in JSON."""
    number = float(text)
    return int(number) if number.is_integer() else number

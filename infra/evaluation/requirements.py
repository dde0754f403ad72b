"""What the results of an evaluation must reach, so that a script or a release can depend on it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from infra.evaluation.results import Evaluation


@dataclass(frozen=True, slots=True)
class Minimum:
    """The least mean score of a metric."""

    metric: str
    value: float


def parse_minimums(texts: Sequence[str]) -> tuple[Minimum, ...]:
    """Parse texts such as `exact_match=0.8`.

    Raises:
        UsageError: One of them is not of this form.
    """
    return tuple(map(_parse_minimum, texts))


def require_metrics(minimums: Sequence[Minimum], names: Sequence[str], data: str) -> None:
    """Check that minimums are for metrics that an evaluation has.

    Args:
        minimums: The minimums.
        names: The names of the metrics.
        data: The file with the examples, which decide what is measured.

    Raises:
        UsageError: One is for another metric.
    """
    for minimum in minimums:
        if minimum.metric not in names:
            raise UsageError(
                f"there is no metric {minimum.metric!r}", hint=f"the metrics of {data} are {', '.join(names)}"
            )


def find_unmet(
    evaluation: Evaluation, model: str, minimums: Sequence[Minimum], *, not_worse: bool = False
) -> tuple[str, ...]:
    """Return the requirements that a model does not meet, as sentences.

    Args:
        evaluation: The results.
        model: The model that must meet them.
        minimums: The least mean scores.
        not_worse: Whether the model must not be worse than the baseline: no metric may be lower by more
            than chance explains.
    """
    scores = next(each for each in evaluation.models if each.name == model).scores
    unmet = []
    for minimum in minimums:
        score = scores.get(minimum.metric)
        if score is None or score.mean < minimum.value:
            is_now = "unknown" if score is None else f"{score.mean:.3f}"
            unmet.append(f"{minimum.metric} of {model} is {is_now}, and must be at least {minimum.value:g}")
    for each in evaluation.comparisons if not_worse else ():
        found = each.comparison
        if each.model == model and found.difference < 0 and found.is_significant:
            unmet.append(
                f"{each.metric} of {model} is lower than that of {evaluation.baseline} by"
                f" {-found.difference:.3f} (p = {found.p_value:.2g})"
            )
    return tuple(unmet)


def _parse_minimum(text: str) -> Minimum:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not equals or not 0 <= number <= 1:
        raise UsageError(f"--min {text!r} is not METRIC=NUMBER", hint="such as --min exact_match=0.8")
    return Minimum(name.strip(), number)

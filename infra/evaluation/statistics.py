"""Confidence intervals for scores, and paired comparisons of two models. Pure; computed by SciPy.

All intervals are at 95 %. The models are asked the same examples, so the differences of each example are
what is compared: it needs far fewer examples than comparing two means.
"""
# ruff: noqa: PLC0415 - importing SciPy takes most of a second, and only an evaluation needs it

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE: Final = 0.95
Z: Final = 1.959964
"""The 97.5 % quantile of the normal distribution."""
SMALL: Final = 20
"""With fewer scores, Student's t has the interval: the bootstrap's is too narrow for few scores."""

RESAMPLES: Final = 9999
SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its confidence interval.

    Attributes:
        mean: The mean of the scores.
        low: The lower end of the interval.
        high: Its upper end.
        count: The number of scores.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better a model is than the baseline, example by example.

    Attributes:
        difference: The mean difference of the scores: above 0 the model is better.
        low: The lower end of the confidence interval of the difference.
        high: Its upper end.
        p_value: How likely a difference at least as large is if the two are equally good.
        better: The number of examples that the model answers better.
        worse: The number that it answers worse.
        count: The number of examples.
    """

    difference: float
    low: float
    high: float
    p_value: float
    better: int
    worse: int
    count: int

    @property
    def is_significant(self) -> bool:
        """Return whether chance alone would rarely give such a difference."""
        return self.p_value < 1 - CONFIDENCE


def estimate(scores: Sequence[float]) -> Estimate:
    """Return the mean of at least one score, with its interval.

    Shares get Wilson's interval, other scores the bias-corrected bootstrap, and a few of them Student's t.
    """
    mean = math.fsum(scores) / len(scores)
    if _are_binary(scores):
        from scipy.stats import binomtest

        interval = binomtest(round(math.fsum(scores)), len(scores)).proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(mean, float(interval.low), float(interval.high), len(scores))
    low, high = _interval(scores)
    return Estimate(mean, max(0.0, low), min(1.0, high), len(scores))


def compare(baseline: Sequence[float], model: Sequence[float]) -> Comparison:
    """Compare the scores of two models for the same examples, at least one.

    Right-or-wrong scores get McNemar's exact test, and the interval of Agresti and Min for the difference of
    paired shares, which holds for few examples too; other scores a sign-flip permutation test, and the
    interval of `estimate`.

    Source: A. Agresti, Y. Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24 (2005).
    """
    differences = [new - old for old, new in zip(baseline, model, strict=True)]
    count = len(differences)
    better, worse = sum(each > 0 for each in differences), sum(each < 0 for each in differences)
    mean = math.fsum(differences) / count
    if _are_binary(baseline) and _are_binary(model):
        low, high = _paired_interval(better, worse, count)
        p_value = _mcnemar(better, worse)
    else:
        low, high = _interval(differences)
        p_value = _sign_flip(differences)
    return Comparison(mean, max(-1.0, low), min(1.0, high), p_value, better, worse, count)


def _are_binary(scores: Sequence[float]) -> bool:
    return all(score in {0.0, 1.0} for score in scores)


def _paired_interval(better: int, worse: int, count: int) -> tuple[float, float]:
    b, c, n = better + 0.5, worse + 0.5, count + 2
    middle = (b - c) / n
    half = Z * math.sqrt(max(0.0, b + c - (b - c) ** 2 / n)) / n
    return middle - half, middle + half


def _mcnemar(better: int, worse: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval of the mean of scores that are not only 0 and 1."""
    if len(values) == 1:
        return -math.inf, math.inf
    if min(values) == max(values):
        return values[0], values[0]
    return _student(values) if len(values) < SMALL else _bootstrap(values)


def _student(values: Sequence[float]) -> tuple[float, float]:
    from scipy.stats import t

    mean, count = fmean(values), len(values)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * stdev(values) / math.sqrt(count)
    return mean - half, mean + half


def _bootstrap(values: Sequence[float]) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # The bias correction does not exist for a few values that are nearly the same; then it is left out.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        for method in ("BCa", "percentile"):
            interval = bootstrap(
                (np.asarray(values),), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES,
                method=method, batch=max(1, 1_000_000 // len(values)), rng=np.random.default_rng(SEED),
            ).confidence_interval  # fmt: skip
            if math.isfinite(interval.low) and math.isfinite(interval.high):
                break
    return float(interval.low), float(interval.high)


def _sign_flip(differences: Sequence[float]) -> float:
    import numpy as np
    from scipy.stats import permutation_test

    if len(differences) < 2 or not any(differences):  # noqa: PLR2004 - one example shows nothing
        return 1.0
    values = np.asarray(differences)
    result = permutation_test(
        (values, np.zeros_like(values)), lambda x, y, axis: np.mean(x - y, axis=axis), vectorized=True,
        permutation_type="samples", n_resamples=RESAMPLES, batch=max(1, 1_000_000 // len(values)),
        rng=np.random.default_rng(SEED),
    )  # fmt: skip
    return float(result.pvalue)

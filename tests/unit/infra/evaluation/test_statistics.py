"""Intervals and comparisons, against published numbers and against what must hold for any scores."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from infra.evaluation.statistics import compare, estimate


def test_the_interval_of_a_share_is_wilsons() -> None:
    # E. B. Wilson's interval for 8 of 10, as in R: binom.confint(8, 10, methods = "wilson").
    found = estimate([1.0] * 8 + [0.0] * 2)
    assert (found.mean, found.count) == (0.8, 10)
    assert (found.low, found.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_a_share_without_an_error_is_still_uncertain() -> None:
    assert estimate([1.0] * 10).low == pytest.approx(0.7225, abs=1e-4)


def test_other_scores_have_a_bootstrap_interval_which_is_the_same_each_time() -> None:
    scores = [index / 40 for index in range(40)]
    found = estimate(scores)
    assert found == estimate(scores)
    # The normal approximation: the mean plus and minus 1.96 standard errors.
    assert (found.low, found.high) == pytest.approx((0.398, 0.577), abs=0.015)
    assert estimate([0.5, 0.5]).low == 0.5


def test_few_scores_have_students_interval() -> None:
    scores = [0.2, 0.5, 0.4, 0.9, 0.3]
    found = estimate(scores)
    # SciPy, by hand: the paired t-test's interval of the same numbers.
    by_hand = scipy.stats.ttest_1samp(scores, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high))
    old = [0.1, 0.6, 0.1, 0.5, 0.2]
    by_hand = scipy.stats.ttest_rel(scores, old).confidence_interval(0.95)
    compared = compare(old, scores)
    assert (compared.low, compared.high) == pytest.approx((by_hand.low, by_hand.high))
    # It holds what it says, which the bootstrap does not for so few.
    rng = np.random.default_rng(1)
    samples = rng.beta(2, 2, size=(2000, 5))
    hits = sum((each := estimate(list(row))).low <= 0.5 <= each.high for row in samples)
    assert hits / len(samples) > 0.93


def test_a_single_score_says_nothing_about_the_mean() -> None:
    assert (estimate([0.4]).low, estimate([0.4]).high) == (0, 1)
    found = compare([0.4], [0.6])
    assert (found.low, found.high, found.p_value) == (-1, 1, 1)


@pytest.mark.parametrize(("better", "worse", "ties"), [(0, 0, 5), (1, 0, 0), (5, 1, 3), (12, 4, 100)])
def test_mcnemars_test_counts_only_the_pairs_that_differ(better: int, worse: int, ties: int) -> None:
    old = [0.0] * better + [1.0] * worse + [1.0] * ties
    new = [1.0] * better + [0.0] * worse + [1.0] * ties
    count = better + worse
    # Both tails of the binomial distribution, by hand.
    by_hand = min(1.0, 2 * sum(math.comb(count, k) for k in range(min(better, worse) + 1)) / 2**count)
    found = compare(old, new)
    assert found.p_value == pytest.approx(by_hand)
    assert (found.better, found.worse, found.count) == (better, worse, count + ties)
    assert found.low <= found.difference <= found.high


def test_the_permutation_test_is_that_of_all_signs() -> None:
    differences = np.array([0.3, -0.1, 0.0, 0.4, 0.2, 0.2, -0.05, 0.1])  # with ties
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    sums = signs @ differences
    by_hand = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-12)
    old = np.full(len(differences), 0.5)
    assert compare(list(old), list(old + differences)).p_value == pytest.approx(by_hand)


def test_the_interval_of_many_scores_is_scipys_bootstrap() -> None:
    scores = np.random.default_rng(3).beta(2, 5, 200)
    by_hand = scipy.stats.bootstrap((scores,), np.mean, rng=np.random.default_rng(9)).confidence_interval
    found = estimate(list(scores))
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high), abs=0.003)


def test_the_comparison_of_shares_is_mcnemars_exact_test() -> None:
    # 10 examples better and none worse: 2 / 2**10.
    found = compare([0.0] * 20, [1.0] * 10 + [0.0] * 10)
    assert found.p_value == pytest.approx(2 / 2**10)
    assert (found.difference, found.better, found.worse, found.count) == (0.5, 10, 0, 20)
    assert 0 < found.low < 0.5 < found.high < 1
    assert found.is_significant


def test_equal_models_do_not_differ() -> None:
    for scores in ([1.0, 0.0, 1.0], [0.2, 0.4, 0.9]):
        found = compare(scores, scores)
        assert (found.difference, found.p_value, found.is_significant) == (0, 1, False)
        assert found.low <= 0 <= found.high


def test_a_comparison_of_other_scores_uses_the_pairs() -> None:
    """The scores vary much more between the examples than between the models."""
    old = [index / 50 for index in range(40)]
    new = [score + 0.05 for score in old]
    found = compare(old, new)
    assert found.p_value < 0.001
    assert found.low == pytest.approx(found.high) == pytest.approx(0.05)
    assert compare(new, old).difference == pytest.approx(-0.05)


def test_a_permutation_test_of_few_examples_is_exact() -> None:
    # All 2**3 signs; two of the sums are as far from zero as the one that was found.
    assert compare([0.0, 0.0, 0.0], [0.1, 0.2, 0.3]).p_value == pytest.approx(2 / 8)


def test_one_example_shows_nothing() -> None:
    assert compare([0.5], [0.7]).p_value == 1
    assert compare([0.0], [1.0]).p_value == 1

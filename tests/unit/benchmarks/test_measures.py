from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The benchmarks are run from the repository's root and are no part of the package.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from benchmarks.contest import Entry, Round, make_rows, rotate
from benchmarks.load import Load
from benchmarks.measures import (
    Failure,
    Measurement,
    Percentiles,
    Sample,
    median_of,
    median_ratio,
    percentile,
    percentiles,
    summarize,
)


def measurement(clients: int, tokens_per_s: float, first_s: float = 0.1) -> Measurement:
    spread = Percentiles(first_s, first_s, first_s)
    return Measurement(clients, 4, (), 0, 40, 4.0, tokens_per_s, 1.0, spread, spread, spread, 0.0)


def entry(name: str, *rounds: Measurement | None) -> Entry:
    turns = [
        Round(number, 0.0, 1.0, () if each is None else (each,), "it broke" if each is None else None)
        for number, each in enumerate(rounds, start=1)
    ]
    return Entry(name, name.upper(), tuple(turns))


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1.0), (0.25, 2.0), (0.5, 3.0), (0.95, 4.8), (0.99, 4.96), (1.0, 5.0)]
)
def test_a_percentile_lies_on_the_line_between_its_neighbours(share: float, expected: float) -> None:
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], share) == pytest.approx(expected)


def test_one_value_is_all_its_percentiles() -> None:
    assert percentiles([7.0]) == Percentiles(7.0, 7.0, 7.0)


def test_nothing_has_no_percentiles() -> None:
    assert percentiles([]) is None
    with pytest.raises(ValueError, match=r"^there is no 0\.5 percentile of 0 values$"):
        percentile([], 0.5)


def test_a_share_of_more_than_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^there is no 95 percentile of 1 values$"):
        percentile([1.0], 95)


def test_a_load_is_summed_up_over_its_whole_length() -> None:
    samples = [
        Sample(10.0, 12.0, (10.5, 11.0, 12.0), 3, is_cut=True),
        Sample(11.0, 15.0, (12.0, 15.0), 7, is_cut=False),
    ]
    summed = summarize(samples, clients=2, cpu_s=0.5)
    assert (summed.duration_s, summed.tokens, summed.tokens_per_s) == (5.0, 10, 2.0)
    assert summed.time_to_first_token_s is not None
    assert summed.time_to_first_token_s.p50 == pytest.approx(0.75)
    assert summed.inter_token_s is not None
    assert summed.inter_token_s.p50 == pytest.approx(1.0)  # of 0.5, 1.0 and 3.0
    assert summed.tokens_per_piece == 2.0
    assert summed.ended_early == 1
    assert summed.generator_cpu_share == pytest.approx(0.1)
    assert summed.errors == 0


def test_a_failed_request_counts_as_an_error_and_gives_no_tokens_and_no_times() -> None:
    samples = [
        Sample(0.0, 1.0, (0.5,), 4, is_cut=True),
        Sample(0.0, 2.0, (0.1,), 1, failure="broke"),
        Sample(0.0, 2.0, failure="broke"),
        Sample(0.0, 2.0, failure="refused"),
    ]
    summed = summarize(samples, clients=4, cpu_s=0.0)
    assert summed.failures == (Failure("broke", 2), Failure("refused", 1))
    assert summed.errors == 3
    assert summed.tokens_per_s == 2.0
    assert summed.time_to_first_token_s == Percentiles(0.5, 0.5, 0.5)


def test_a_load_without_one_whole_answer_has_no_times() -> None:
    summed = summarize([Sample(0.0, 2.0, failure="refused")], clients=1, cpu_s=0.0)
    assert summed.time_to_first_token_s is None
    assert summed.inter_token_s is None
    assert summed.tokens_per_s == 0.0


def test_a_ratio_is_made_within_a_round() -> None:
    # The machine got three times slower in round two; both did, so the ratio stays.
    assert median_ratio([20.0, 6.0, 22.0], [10.0, 3.0, 11.0]) == 2.0


def test_a_round_that_one_of_them_missed_has_no_ratio() -> None:
    assert median_ratio([20.0, None, 30.0], [10.0, 10.0, None]) == 2.0
    assert median_ratio([20.0], [10.0, 10.0]) == 2.0
    assert median_ratio([None], [10.0]) is None
    assert median_ratio([1.0], [0.0]) is None


def test_a_median_passes_over_what_is_not_there() -> None:
    assert median_of([None, 3.0, 1.0, None]) == 2.0
    assert median_of([None]) is None


def test_rows_hold_medians_and_ratios_to_the_baseline() -> None:
    base = entry("base", measurement(8, 10.0, 0.1), measurement(8, 20.0, 0.3), measurement(8, 30.0, 0.2))
    fast = entry("fast", measurement(8, 20.0, 0.2), measurement(8, 30.0, 0.4), None)
    rows = make_rows([base, fast], [Load(8, 16)], "base")
    assert [row.name for row in rows] == ["base", "fast"]
    assert (rows[0].tokens_per_s, rows[0].slowest_tokens_per_s, rows[0].fastest_tokens_per_s) == (20, 10, 30)
    assert rows[0].ratio == 1.0
    assert rows[0].first_token_lag_s == 0.0
    assert rows[1].tokens_per_s == 25.0
    assert rows[1].ratio == pytest.approx((2.0 + 1.5) / 2)
    assert rows[1].first_token_lag_s == pytest.approx(0.1)


def test_a_contestant_that_was_not_measured_under_a_load_has_no_row_there() -> None:
    rows = make_rows(
        [entry("base", measurement(1, 10.0)), entry("gone", None)], [Load(1, 4), Load(8, 16)], "base"
    )
    assert [(row.name, row.clients) for row in rows] == [("base", 1)]


def test_a_baseline_that_was_skipped_leaves_rows_without_ratios() -> None:
    rows = make_rows(
        [Entry("base", "", (), "not installed"), entry("own", measurement(1, 5.0))], [Load(1, 4)], "base"
    )
    assert [(row.name, row.ratio, row.first_token_lag_s) for row in rows] == [("own", None, None)]


def test_a_baseline_that_is_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the baseline x did not take part; there are a$"):
        make_rows([entry("a", measurement(1, 5.0))], [Load(1, 4)], "x")


def test_who_begins_moves_on_from_round_to_round() -> None:
    assert ["".join(rotate("abc", number)) for number in range(4)] == ["abc", "bca", "cab", "abc"]  # type: ignore[arg-type]  # letters stand for contestants
    assert rotate([], 2) == []

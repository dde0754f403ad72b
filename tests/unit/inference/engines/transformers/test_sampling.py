from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from inference.engines.protocol import GenerationRequest, Sampling
from inference.engines.transformers.draws import CANDIDATES, Draw, choose_tokens, seeded_noise
from inference.engines.transformers.rows import ROW_KEY, Row
from inference.engines.transformers.sampling import RowSampler
from inference.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

pytestmark = pytest.mark.usefixtures("one_thread")

PROBABILITIES = (0.5, 0.25, 0.15, 0.07, 0.03)
GREEDY = Sampling(0.0)
WAYS = [
    (Sampling(), PROBABILITIES),
    (Sampling(top_k=2), (2 / 3, 1 / 3, 0, 0, 0)),
    (Sampling(top_k=50), PROBABILITIES),
    (Sampling(top_p=0.75), (2 / 3, 1 / 3, 0, 0, 0)),
    (Sampling(top_p=0.76), (0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0)),
    (Sampling(top_p=0.01), (1, 0, 0, 0, 0)),
    (Sampling(top_k=3, top_p=0.5), (1, 0, 0, 0, 0)),
    (Sampling(min_p=0.2), (0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0)),
    (Sampling(min_p=1.0), (1, 0, 0, 0, 0)),
    (Sampling(top_k=4, min_p=0.2), (0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0)),
    (Sampling(temperature=0.5), tuple(p * p / 0.3408 for p in PROBABILITIES)),
]
"""Sampling parameters, and the expected frequency of each token."""


def shares(draws: Sequence[Draw], probabilities: Sequence[float] = PROBABILITIES) -> list[float]:
    torch.manual_seed(0)
    scores = torch.tensor(probabilities).log()
    drawn = choose_tokens(scores.expand(len(draws), -1), draws)
    return (torch.bincount(drawn, minlength=len(scores)) / len(draws)).tolist()


@pytest.mark.parametrize(("sampling", "expected"), WAYS)
def test_tokens_are_drawn_as_often_as_they_should(sampling: Sampling, expected: tuple[float, ...]) -> None:
    assert shares([Draw(sampling, 0)] * 3000) == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize(("sampling", "expected"), WAYS)
def test_so_they_are_over_the_positions_of_a_seed_and_over_seeds(
    sampling: Sampling, expected: tuple[float, ...]
) -> None:
    positions = [Draw(seeded(sampling, 7), position) for position in range(3000)]
    assert shares(positions) == pytest.approx(expected, abs=0.035)
    seeds = [Draw(seeded(sampling, seed), 3) for seed in range(3000)]
    assert shares(seeds) == pytest.approx(expected, abs=0.035)


def seeded(sampling: Sampling, seed: int) -> Sampling:
    return Sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, seed=seed)


def test_rows_that_draw_differently_are_drawn_together() -> None:
    scores = torch.tensor(PROBABILITIES).log().expand(4, -1)
    ways = [Sampling(top_p=0.01), GREEDY, Sampling(min_p=1.0), Sampling(top_k=1)]
    assert choose_tokens(scores, [Draw(sampling, 0) for sampling in ways]).tolist() == [0, 0, 0, 0]
    drawn = [
        choose_tokens(scores, [Draw(Sampling(), 0), *[Draw(Sampling(top_k=2), 0)] * 3]) for _ in range(99)
    ]
    assert set(torch.stack(drawn)[:, 0].tolist()) > {0, 1, 2}
    assert set(torch.stack(drawn)[:, 1:].flatten().tolist()) == {0, 1}


@pytest.mark.parametrize("seed", [None, 5])
def test_a_nucleus_larger_than_the_candidates_is_not_cut(seed: int | None) -> None:
    scores = torch.zeros(2, 3 * CANDIDATES)
    scores[1, :2] = 50.0
    candidates = set(torch.topk(scores[0], CANDIDATES).indices.tolist())
    torch.manual_seed(0)
    ways = Sampling(top_p=0.9, seed=seed), Sampling(top_p=0.9)
    drawn = [choose_tokens(scores, [Draw(way, position) for way in ways]).tolist() for position in range(50)]
    assert {wide for wide, _ in drawn} - candidates
    assert {narrow for _, narrow in drawn} == {0, 1}


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(top_p=0.95), Sampling(top_k=40), Sampling(0.7, min_p=0.01)]
)
def test_a_seed_chooses_the_same_whatever_else_is_drawn(sampling: Sampling) -> None:
    scores = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1)) * 3
    draw = Draw(seeded(sampling, 11), 4)
    (alone,) = choose_tokens(scores[:1], [draw]).tolist()
    others = [Draw(Sampling(top_k=7), 0), Draw(Sampling(0.3, 0.999, seed=11), 4)]
    assert choose_tokens(scores, [draw, *others]).tolist()[0] == alone
    assert choose_tokens(scores.flip(0), [*others, draw]).tolist()[2] == alone
    answers = {choose_tokens(scores[:1], [Draw(seeded(sampling, 11), place)]).item() for place in range(20)}
    assert len(answers) > 1


def test_seeded_noise_is_a_token_s_own_and_exponentially_distributed() -> None:
    keys, token_ids = torch.tensor([[1], [2]]), torch.arange(50_000)
    noise = seeded_noise(keys, token_ids.unsqueeze(0))
    few = torch.tensor([[40_000, 3], [3, 49_999]])
    assert torch.equal(seeded_noise(keys, few), noise.gather(-1, few))
    assert noise.min() > 0
    assert noise.mean(-1).tolist() == pytest.approx([1, 1], abs=0.02)
    assert noise.var(-1).tolist() == pytest.approx([1, 1], abs=0.05)
    for quantile in (0.01, 0.5, 0.99):
        expected = -math.log1p(-quantile)
        assert torch.quantile(noise, quantile, dim=-1).tolist() == pytest.approx([expected] * 2, rel=0.1)
    assert abs(torch.corrcoef(noise)[0, 1]) < 0.02
    assert abs(torch.corrcoef(torch.stack([noise[0, 1:], noise[0, :-1]]))[0, 1]) < 0.02


@pytest.mark.parametrize("way", [GREEDY, *[way for way, _ in WAYS], Sampling(1.0, 0.5, 4, 0.5)])
@pytest.mark.parametrize("seed", [None, 3])
def test_what_is_forbidden_is_never_drawn(way: Sampling, seed: int | None) -> None:
    scores = torch.full((4, 2 * CANDIDATES), -torch.inf)
    scores[0, 9] = -80.0
    scores[1, 9:11] = 0.0
    scores[2, 9:1500] = 1.0
    scores[3, 9] = 1e30
    for position in range(50):
        draws = [Draw(seeded(way, seed) if seed else way, position)] * 4
        chosen = choose_tokens(scores, draws).tolist()
        assert all(scores[row, token] > -torch.inf for row, token in enumerate(chosen))


@pytest.mark.parametrize(
    ("sampling", "is_greedy"),
    [
        (GREEDY, True),
        (Sampling(1.0, top_k=1), True),
        (Sampling(0.1), False),
        (Sampling(top_p=0.1), False),
    ],
)
def test_greedy_is_known(sampling: Sampling, *, is_greedy: bool) -> None:
    assert sampling.is_greedy is is_greedy


class Mask:
    """A constraint that allows the given tokens and records those that were sampled."""

    def __init__(self, *allowed: int) -> None:
        self.allowed_ids = list(allowed)
        self.tokens: list[int] = []

    def allowed(self, width: int) -> NDArray[np.bool_]:
        if not self.allowed_ids:
            raise EngineError("no way on")
        return np.isin(np.arange(width), self.allowed_ids)

    def advance(self, token_id: int) -> None:
        self.tokens.append(token_id)
        if token_id not in self.allowed_ids:
            raise EngineError("a wrong turn")


def row(sampling: Sampling, mask: Mask | None = None, *, prompt: tuple[int, ...] = (0,), **asked: Any) -> Row:
    if mask is not None:
        asked["grammar"] = 'start: "x"'
    constraint: Any = mask
    return Row(GenerationRequest("r", "m", prompt, 8, sampling, **asked), constraint)


def step(sampler: RowSampler, scores: Sequence[Sequence[float]], *rows: Row) -> list[int]:
    """Sample all rows, as the manager does."""
    storage = torch.zeros(0, 4)
    batch = [batch_request(each) for each in rows]
    assert sampler.prepare_tensor_args(batch, storage) is storage
    result = sampler(torch.zeros(len(rows)), torch.tensor(scores), storage)
    return result.argmax(-1).tolist()


def batch_request(each: Row, *, has_new_token: bool = True) -> Any:
    state = SimpleNamespace(logit_processor_kwargs={ROW_KEY: each})
    return SimpleNamespace(state=state, has_new_token=has_new_token)


def test_each_row_gets_its_own_sampling_and_greedy_rows_stay_as_they_are() -> None:
    sampler = RowSampler()
    storage = torch.zeros(0, 4)
    # The second request is still reading its prompt, and has no row.
    requests = [row(GREEDY), row(Sampling()), row(Sampling(top_k=2))]
    batch = [batch_request(each, has_new_token=index != 1) for index, each in enumerate(requests)]
    assert sampler.prepare_tensor_args(batch, storage) is storage
    scores = torch.tensor([[1.0, 2.0, 2.0], [1.0, 5.0, 5.0]])
    chosen = sampler(torch.zeros(2), scores.clone(), storage)
    assert torch.equal(chosen[0], scores[0])
    assert int(chosen[1].argmax()) in {1, 2}
    assert torch.isinf(chosen[1]).sum() == 1
    assert [each.position for each in requests] == [0, 0, 1]


def test_a_batch_of_plain_greedy_rows_is_unchanged() -> None:
    sampler = RowSampler()
    sampler.prepare_tensor_args(
        [batch_request(row(GREEDY)), batch_request(row(Sampling(0.0, seed=1)))], torch.zeros(0, 4)
    )
    scores = torch.randn(2, 9)
    assert sampler(torch.zeros(2), scores, torch.zeros(0, 4)) is scores
    assert not torch.isinf(scores).any()


def test_presence_and_frequency_count_the_answer_alone() -> None:
    sampler, each = (
        RowSampler(),
        row(Sampling(0.0, presence_penalty=1.0, frequency_penalty=0.25), prompt=(0, 1)),
    )
    scores = [[3.0, 2.5, 1.4, 0.0]]
    # 3.0 falls to 1.75, 2.5 to 1.25, 1.75 to 1.5 and again to 1.25, 1.4 to 0.15.
    assert [step(sampler, scores, each)[0] for _ in range(6)] == [0, 1, 0, 0, 2, 0]


def test_repetition_counts_the_prompt_too_and_has_a_sign() -> None:
    sampler, each = RowSampler(), row(Sampling(0.0, repetition_penalty=2.0), prompt=(0, 0, 3))
    # 4 / 2 against 2.5; then 2.5 / 2.
    assert [step(sampler, [[4.0, 2.5, 1.0, -1.0]], each)[0] for _ in range(2)] == [1, 0]
    sampler, each = RowSampler(), row(Sampling(0.0, repetition_penalty=2.0), prompt=(1,))
    assert step(sampler, [[-1.5, -1.0]], each) == [0]


def test_a_bias_moves_the_choice_and_unknown_tokens_are_left_out() -> None:
    bias = ((0, -2.0), (2, 1.0), (99, 100.0), (-1, 100.0))
    assert step(RowSampler(), [[3.0, 1.0, 1.5]], row(Sampling(0.0, logit_bias=bias))) == [2]


def test_a_bias_comes_before_the_temperature() -> None:
    scores = torch.tensor(PROBABILITIES).log().tolist()
    even = tuple((token, -score) for token, score in enumerate(scores))
    sampler = RowSampler()
    torch.manual_seed(0)
    rows = [row(Sampling(0.1, logit_bias=even)) for _ in range(200)]
    drawn = step(sampler, [scores] * 200, *rows)
    assert len(set(drawn)) == len(scores)


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(), Sampling(2.0, 0.9), Sampling(top_k=3), Sampling(min_p=0.5)]
)
def test_a_grammar_has_the_last_word_on_what_may_come(sampling: Sampling) -> None:
    bias = ((0, 100.0), (1, -100.0))
    biased = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, logit_bias=bias)
    mask = Mask(1)
    sampler, each = RowSampler(), row(biased, mask)
    assert [step(sampler, [[9.0, 1.0, 1.0, 1.0]], each) for _ in range(3)] == [[1]] * 3
    assert mask.tokens == [1, 1, 1]
    assert each.error is None


def test_a_grammar_that_fails_ends_only_its_own_row() -> None:
    sampler = RowSampler()
    lost, strayed, well = row(GREEDY, Mask()), row(GREEDY, Mask(2)), row(GREEDY, Mask(1))
    assert strayed.constraint is not None
    scores = [[3.0, 2.0, 1.0]] * 3
    assert step(sampler, scores, lost, strayed, well) == [0, 2, 1]
    assert (str(lost.error), strayed.error, well.error) == ("no way on", None, None)
    strayed.record(0)
    assert str(strayed.error) == "a wrong turn"
    # Until the batcher ends them, their tokens are no longer constrained.
    assert step(sampler, scores, lost, strayed, well) == [0, 0, 1]


def test_logprobs_are_those_before_anything_was_changed() -> None:
    sampling = Sampling(0.0, presence_penalty=2.0, logit_bias=((2, 100.0),))
    asking, silent = row(sampling, top_logprobs=2), row(Sampling())
    other = row(GREEDY, top_logprobs=0)
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    step(RowSampler(), scores.tolist(), asking, silent, other)
    expected = torch.log_softmax(scores, dim=-1)
    (entry,) = asking.logprobs
    assert entry.chosen == pytest.approx(expected[0, 2].item())
    assert [token for token, _ in entry.top] == expected[0].argsort(descending=True)[:2].tolist()
    assert [value for _, value in entry.top] == pytest.approx(
        expected[0].sort(descending=True).values[:2].tolist()
    )
    assert silent.logprobs == []
    (entry,) = other.logprobs
    assert entry.chosen == pytest.approx(expected[2].max().item())
    assert entry.top == ()


def test_more_logprobs_than_tokens_are_all_of_them() -> None:
    each = row(GREEDY, top_logprobs=20)
    step(RowSampler(), [[1.0, 2.0, 3.0]], each)
    assert [token for token, _ in each.logprobs[0].top] == [2, 1, 0]


def test_a_row_is_not_copied_with_the_manager_s_request() -> None:
    each = row(Sampling(seed=1))
    assert copy.deepcopy({ROW_KEY: each})[ROW_KEY] is each


def test_only_our_own_argument_is_taken() -> None:
    with pytest.raises(ValueError, match="'row' alone"):
        RowSampler().check_kwargs({"temperature": 1.0})
    RowSampler().check_kwargs({ROW_KEY: row(GREEDY)})

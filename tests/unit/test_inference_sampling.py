from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from inference.engine import Sampling
from inference.sampling import CANDIDATES, SAMPLING_KEY, RowSampler, choose_token

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("one_thread")

PROBABILITIES = (0.5, 0.25, 0.15, 0.07, 0.03)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tensors this small are slower with more threads, and much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shares(sampling: Sampling, scores: torch.Tensor, draws: int = 3000) -> list[float]:
    torch.manual_seed(0)
    drawn = torch.stack([choose_token(scores, sampling) for _ in range(draws)])
    return (torch.bincount(drawn, minlength=len(scores)) / draws).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), PROBABILITIES),
        (Sampling(top_k=2), (2 / 3, 1 / 3, 0, 0, 0)),
        (Sampling(top_k=50), PROBABILITIES),
        (Sampling(top_p=0.75), (2 / 3, 1 / 3, 0, 0, 0)),
        (Sampling(top_p=0.76), (0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0)),
        (Sampling(top_p=0.01), (1, 0, 0, 0, 0)),
        (Sampling(top_k=3, top_p=0.5), (1, 0, 0, 0, 0)),
        (Sampling(min_p=0.2), (0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0, 0)),
        (Sampling(min_p=1.0), (1, 0, 0, 0, 0)),
        (Sampling(temperature=0.5), tuple(p * p / 0.3408 for p in PROBABILITIES)),
    ],
)
def test_tokens_are_drawn_as_often_as_they_should(sampling: Sampling, expected: tuple[float, ...]) -> None:
    assert shares(sampling, torch.tensor(PROBABILITIES).log()) == pytest.approx(expected, abs=0.035)


def test_a_nucleus_larger_than_the_candidates_is_not_cut() -> None:
    scores = torch.zeros(3 * CANDIDATES)
    candidates = set(torch.topk(scores, CANDIDATES).indices.tolist())
    torch.manual_seed(0)
    drawn = {int(choose_token(scores, Sampling(top_p=0.9))) for _ in range(50)}
    assert drawn - candidates


@pytest.mark.parametrize(
    ("sampling", "is_greedy"),
    [
        (Sampling(0.0), True),
        (Sampling(1.0, top_k=1), True),
        (Sampling(0.1), False),
        (Sampling(top_p=0.1), False),
    ],
)
def test_greedy_is_known(sampling: Sampling, *, is_greedy: bool) -> None:
    assert sampling.is_greedy is is_greedy


def request(sampling: Sampling, *, has_new_token: bool = True) -> Any:
    state = SimpleNamespace(logit_processor_kwargs={SAMPLING_KEY: sampling})
    return SimpleNamespace(state=state, has_new_token=has_new_token)


def test_each_row_gets_its_own_sampling_and_greedy_rows_stay_as_they_are() -> None:
    sampler = RowSampler()
    storage = torch.zeros(0, 4)
    # The second request is still reading its prompt, and has no row.
    batch = [request(Sampling(0.0)), request(Sampling(), has_new_token=False), request(Sampling(top_k=2))]
    assert sampler.prepare_tensor_args(batch, storage) is storage
    scores = torch.tensor([[1.0, 2.0, 2.0], [1.0, 5.0, 5.0]])
    chosen = sampler(torch.zeros(2), scores.clone(), storage)
    assert torch.equal(chosen[0], scores[0])
    assert int(chosen[1].argmax()) in {1, 2}
    assert torch.isinf(chosen[1]).sum() == 1


def test_only_our_own_argument_is_taken() -> None:
    with pytest.raises(ValueError, match="'sampling' alone"):
        RowSampler().check_kwargs({"temperature": 1.0})
    RowSampler().check_kwargs({SAMPLING_KEY: Sampling()})

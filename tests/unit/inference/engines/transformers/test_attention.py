"""Our attention, compared with the plain formula, for all combinations of requests in a step."""

from __future__ import annotations

import math
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, LlamaConfig, MistralConfig, Qwen3Config

from inference.engines.transformers import attention

HEADS, SHARED, WIDTH, SLOTS = 6, 2, 16, 1024


class Cache:
    """One layer's keys and values, as in transformers' paged cache."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.keys = torch.randn(SLOTS, SHARED, WIDTH, generator=generator)
        self.values = torch.randn(SLOTS, SHARED, WIDTH, generator=generator)
        allocator = SimpleNamespace(_kv_token_views={0: (self.keys, self.values)})
        self.layer_to_allocator = {0: allocator}
        self.fjarr_plan: Any = None


def attend(requests: list[tuple[int, int]], cache: Cache) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend for requests of (new tokens, tokens before); return ours, and the plain formula's."""
    generator = torch.Generator().manual_seed(2)
    free = torch.randperm(SLOTS, generator=generator).tolist()
    slots = [[free.pop() for _ in range(new + past)] for new, past in requests]
    total = sum(new for new, _ in requests)
    query = torch.randn(1, HEADS, total, WIDTH, generator=generator)
    key = torch.randn(1, SHARED, total, WIDTH, generator=generator)
    value = torch.randn(1, SHARED, total, WIDTH, generator=generator)
    news = [new for new, _ in requests]
    lengths = [new + past for new, past in requests]
    # Where nothing was in the cache before, the manager lists nothing to be read.
    read = list(chain.from_iterable(slots)) if any(past for _, past in requests) else []
    written = [slot for row, new in zip(slots, news, strict=True) for slot in row[-new:]]
    ours, _ = attention.attend(
        SimpleNamespace(layer_idx=0),  # type: ignore[arg-type]
        query, key, value, None,
        scaling=0.3,
        cache=cache,
        read_index=[torch.tensor(read, dtype=torch.int64)],
        write_index=[torch.tensor(written)],
        cu_seq_lens_q=torch.tensor([0, *news]).cumsum(0),
        cu_seq_lens_k={"full_attention": torch.tensor([0, *lengths]).cumsum(0)},
    )  # fmt: skip
    return ours, plainly(query, cache, slots, news)


def plainly(query: torch.Tensor, cache: Cache, slots: list[list[int]], news: list[int]) -> torch.Tensor:
    """Compute each token's and each head's attention by the formula, one by one."""
    rows, place = [], 0
    for row, new in zip(slots, news, strict=True):
        for position in range(len(row) - new, len(row)):
            seen = row[: position + 1]
            for head in range(HEADS):
                keys = cache.keys[seen, head // (HEADS // SHARED)]
                values = cache.values[seen, head // (HEADS // SHARED)]
                weights = torch.softmax(keys @ query[0, head, place] * 0.3, dim=0)
                rows.append(weights @ values)
            place += 1
    return torch.stack(rows).view(1, place, HEADS, WIDTH)


@pytest.mark.parametrize(
    "requests",
    [
        [(1, 7)],
        [(9, 0)],
        [(1, 0), (1, 0)],
        [(5, 0), (12, 0), (1, 0)],
        [(1, 3), (1, 3), (1, 3)],
        [(1, 3), (1, 200), (1, 40), (1, 90)],
        [(1, 20), (6, 30), (1, 2), (4, 0)],
    ],
    ids=str,
)
def test_every_request_attends_to_its_own_tokens_and_to_none_that_come_later(
    requests: list[tuple[int, int]],
) -> None:
    ours, expected = attend(requests, Cache())

    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [3, 16, 40, 77, 190])
def test_what_a_request_gets_does_not_depend_on_who_is_beside_it(length: int, dtype: torch.dtype) -> None:
    """To the last bit: an answer may hang on it."""
    cache = Cache()
    views = tuple(states.to(dtype) for states in (cache.keys, cache.values))
    cache.layer_to_allocator[0]._kv_token_views = {0: views}
    generator = torch.Generator().manual_seed(3)
    query, key, value = (
        torch.randn(8, heads, WIDTH, generator=generator).to(dtype) for heads in (HEADS, SHARED, SHARED)
    )

    def answer(others: list[int]) -> torch.Tensor:
        lengths = [length, *others]
        ends = torch.tensor([0, *lengths]).cumsum(0)
        slots = torch.arange(int(ends[-1]))
        rows = slice(len(lengths))
        step = {
            "cache": cache,
            "read_index": [slots],
            "write_index": [ends[1:] - 1],
            "cu_seq_lens_q": torch.arange(len(lengths) + 1),
            "cu_seq_lens_k": ends,
        }
        return attention.attend_rows(0, query[rows], key[rows], value[rows], step, 0.3)[0]

    alone = answer([])
    for others in ([length], [length + 1], [length + 9, 2 * length], [5] * 3, [20, 21, 22, 23, 24, 25, 26]):
        assert torch.equal(answer(others), alone)


def test_new_keys_and_values_are_in_the_cache_afterwards() -> None:
    cache = Cache()
    before = cache.keys.clone()

    attend([(2, 3), (1, 4)], cache)

    assert int((cache.keys != before).any(dim=-1).any(dim=-1).sum()) == 3


def test_requests_of_very_different_length_are_not_filled_up_to_the_longest() -> None:
    decodes = [(place, (0, length)) for place, length in enumerate([1900, 100, 30, 128, 129, 260, 300])]

    groups = attention.group_by_length(decodes)

    lengths = [[keys[1] for _, keys in group] for group in groups]
    assert lengths == [[30, 100, 128], [129], [260, 300], [1900]]


def test_a_model_that_needs_more_is_refused() -> None:
    with pytest.raises(ValueError, match="FJARR_ATTENTION=sdpa"):
        attention.attend(
            SimpleNamespace(layer_idx=0),  # type: ignore[arg-type]
            *(torch.zeros(1, 1, 1, 1),) * 3, None, softcap=math.inf,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "is_supported"),
    [
        (LlamaConfig(), True),
        (Qwen3Config(), True),
        (MistralConfig(sliding_window=None), True),
        (MistralConfig(sliding_window=4096), False),
        (Gemma2Config(), False),
    ],
    ids=["llama", "qwen3", "mistral", "mistral with a window", "gemma2"],
)
def test_only_plain_full_attention_is_taken(config: Any, *, is_supported: bool) -> None:
    assert attention.supports(config) == is_supported

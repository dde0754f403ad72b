"""Let each request attend to its own keys, on a CPU.

The continuous batching manager packs all requests of a step into one row. With transformers' own `sdpa` every
token then looks at the keys of all requests, behind a mask that hides the others', and keys are copied for
each head that shares them: with 32 requests that is most of a step. Here the requests that get one token,
which is all of them most of the time, are laid side by side, filled up to the longest of about their length;
the others, whose prompts are read, attend one by one.

Side by side, attention is two products of many small matrices, which the matrix library does in less than
half the time of torch's fused operator, and the same way however many there are: what a request is answered
does not depend on who else is asking.

Source: transformers 5.23, `integrations/sdpa_attention.py` and `generation/continuous_batching/cache.py`. The
part of it that is not public, and that this module relies on, is `_kv_token_views`; the version is pinned,
and the engine's tests hold the answers to plain `generate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.generation.continuous_batching.cache import group_layers_by_attn_type

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "fjarr"
"""What transformers knows this attention by."""

EVEN_SHARE: Final = 2
KEYS_STEP: Final = 16
"""Requests are filled up to a multiple of so many keys: for other numbers the matrix library adds up products
in another order, and the last bits of a sum would depend on the longest request beside it."""

SHORT_TOKENS: Final = 64
"""Requests are laid side by side where the longest has at most so many times the tokens of the shortest, or
of a short one: filling up costs time, and so does one more call."""


@dataclass(frozen=True, slots=True)
class Group:
    """Hold requests that get one token each, and are laid side by side.

    Attributes:
        queries: Their places among the step's tokens, (requests,).
        rows: Where their keys are in the cache of single heads, filled up with any, (requests times heads of
            keys times longest).
        bias: What is added to their scores, minus infinity where filled up, (requests times heads of keys,
            heads that share keys, longest).
    """

    queries: torch.Tensor
    rows: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class Stretch:
    """Hold a request of which several tokens are read.

    Attributes:
        queries: Their places among the step's tokens.
        slots: Where its keys are in the cache, the new ones last, (keys,).
        is_past: Which keys each token may look at, (tokens, keys).
    """

    queries: slice
    slots: torch.Tensor
    is_past: torch.Tensor


@dataclass(frozen=True, slots=True)
class Plan:
    """Say who attends to what in a step; the same for all layers.

    Attributes:
        whole: The group that is all of the step, in its order, if there is one; there are no others then.
    """

    groups: tuple[Group, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    whole: Group | None = None


def register() -> None:
    """Make transformers know this attention by its name. Idempotent."""
    AttentionInterface.register(NAME, attend)


def suits(config: Any) -> bool:  # noqa: ANN401 - a transformers configuration, which has no useful type
    """Return whether a model's layers all attend to all that came before, without anything special."""
    config = config.get_text_config()
    specials = ("attn_logit_softcapping", "attention_chunk_size", "alibi", "use_sinks")
    is_plain = not any(getattr(config, special, None) for special in specials)
    return is_plain and config.model_type != "gpt_oss" and set(_kinds(config)) == {"full_attention"}


def attend(  # noqa: PLR0913 - what transformers calls an attention with
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    **step: Any,  # noqa: ANN401 - the manager's description of the step
) -> tuple[torch.Tensor, None]:
    """Write a layer's new keys and values to the cache, and attend.

    Args:
        module: The layer.
        query: (1, heads, tokens, width).
        key: (1, heads of keys, tokens, width).
        value: The same.
        attention_mask: None.
        scaling: What products are multiplied by; None takes the usual.
        step: `cache`, `read_index`, `write_index`, `cu_seq_lens_q` and `cu_seq_lens_k`.

    Returns:
        (1, tokens, heads, width), and no weights.

    Raises:
        ValueError: For a model that needs more than this attention does.
    """
    if attention_mask is not None or any(step.get(name) is not None for name in ("softcap", "s_aux")):
        raise ValueError("this model needs another attention: set FJARR_ATTENTION=sdpa")
    queries, new_keys, new_values = (states[0].transpose(0, 1) for states in (query, key, value))
    layer: Any = module.layer_idx
    return attend_rows(layer, queries, new_keys, new_values, step, scaling).unsqueeze(0), None


def attend_rows(  # noqa: PLR0913, PLR0917 - the three that belong together, and where and how
    layer: int,
    queries: torch.Tensor,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    step: dict[str, Any],
    scaling: float | None,
) -> torch.Tensor:
    """Write a layer's new keys and values to the cache, and attend.

    Args:
        layer: Its number.
        queries: (tokens, heads, width).
        new_keys: (tokens, heads of keys, width).
        new_values: The same.
        step: See `attend`.
        scaling: What products are multiplied by; None takes the usual.

    Returns:
        (tokens, heads, width), contiguous.
    """
    cache: Any = step["cache"]
    keys, values = cache.layer_to_allocator[layer]._kv_token_views[layer]  # noqa: SLF001 - there is no public way
    keys.index_copy_(0, step["write_index"][0], new_keys)
    values.index_copy_(0, step["write_index"][0], new_values)
    if layer == 0:
        cache.fjarr_plan = make_plan(step, queries, keys)
    plan: Plan = cache.fjarr_plan
    if plan.whole is not None:
        return _attend_group(queries, keys, values, plan.whole, scaling)
    output = torch.empty_like(queries, memory_format=torch.contiguous_format)
    for group in plan.groups:
        output[group.queries] = _attend_group(queries[group.queries], keys, values, group, scaling)
    for stretch in plan.stretches:
        output[stretch.queries] = _attend_stretch(queries[stretch.queries], keys, values, stretch, scaling)
    return output


def make_plan(step: dict[str, Any], queries: torch.Tensor, keys: torch.Tensor) -> Plan:
    """Read off the manager's description of a step who attends to what.

    Args:
        step: See `attend`.
        queries: (tokens, heads, width), of which only the form counts.
        keys: (slots, heads of keys, width), likewise.
    """
    # Where nothing was in the cache before, nothing is listed to be read: all there is was just written.
    slots = step["read_index"][0] if step["read_index"][0].numel() else step["write_index"][0]
    query_ends = step["cu_seq_lens_q"].tolist()
    key_ends = step["cu_seq_lens_k"]
    key_ends = (key_ends["full_attention"] if isinstance(key_ends, dict) else key_ends).tolist()
    requests = list(zip(pairwise(query_ends), pairwise(key_ends), strict=True))
    singles = [(start, keys) for (start, end), keys in requests if end - start == 1]
    stretches = [
        Stretch(slice(*new), slots[slice(*known)], _past(new, known))
        for new, known in requests
        if new[1] - new[0] > 1
    ]
    shared = keys.shape[1]
    # One row for each head of keys, and a score for each head that shares it.
    like = queries.new_empty(shared, queries.shape[1] // shared)
    parts = even_parts(singles)
    if len(parts) == 1 and not stretches:
        return Plan(whole=_make_group(sorted(parts[0]), slots, like))
    return Plan(tuple(_make_group(part, slots, like) for part in parts), tuple(stretches))


def even_parts(singles: Sequence[tuple[int, tuple[int, int]]]) -> list[list[tuple[int, tuple[int, int]]]]:
    """Part requests, given by their token's place and their keys' range, into such of about one length."""
    parts: list[list[tuple[int, tuple[int, int]]]] = []
    most = 0
    for single in sorted(singles, key=lambda single: single[1][1] - single[1][0]):
        length = single[1][1] - single[1][0]
        if not parts or length > most:
            parts.append([])
            most = EVEN_SHARE * max(length, SHORT_TOKENS)
        parts[-1].append(single)
    return parts


def _make_group(
    singles: Sequence[tuple[int, tuple[int, int]]], slots: torch.Tensor, like: torch.Tensor
) -> Group:
    queries = torch.tensor([place for place, _ in singles])
    starts = torch.tensor([keys[0] for _, keys in singles]).unsqueeze(1)
    lengths = torch.tensor([keys[1] - keys[0] for _, keys in singles]).unsqueeze(1)
    longest = -(-int(lengths.max()) // KEYS_STEP) * KEYS_STEP
    positions = torch.arange(longest)
    is_own = positions < lengths
    found = slots[torch.where(is_own, starts + positions, starts)]
    shared, copies = like.shape
    rows = found.unsqueeze(1) * shared + torch.arange(shared).unsqueeze(1)
    bias = like.new_zeros(is_own.shape).masked_fill_(~is_own, -torch.inf)
    bias = bias[:, None, None, :].expand(-1, shared, copies, -1).reshape(-1, copies, longest)
    return Group(queries, rows.view(-1), bias)


def _past(new: tuple[int, int], known: tuple[int, int]) -> torch.Tensor:
    tokens, keys = new[1] - new[0], known[1] - known[0]
    return torch.ones(tokens, keys, dtype=torch.bool).tril(keys - tokens)


def _attend_group(
    heads: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, group: Group, scaling: float | None
) -> torch.Tensor:
    """Attend with one token a request. The heads that share keys stand as one head's tokens."""
    width = heads.shape[-1]
    matrices, copies, longest = group.bias.shape
    own_keys = keys.view(-1, width).index_select(0, group.rows).view(matrices, longest, width)
    own_values = values.view(-1, width).index_select(0, group.rows).view(matrices, longest, width)
    scale = width**-0.5 if scaling is None else scaling
    scores = torch.baddbmm(
        group.bias, heads.reshape(matrices, copies, width), own_keys.transpose(1, 2), alpha=scale
    )
    return torch.bmm(torch.softmax(scores, -1), own_values).view(heads.shape)


def _attend_stretch(
    heads: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, stretch: Stretch, scaling: float | None
) -> torch.Tensor:
    """Attend with a request's tokens. The heads that share keys stand as one head's, one after another."""
    tokens, count, width = heads.shape
    shared = keys.shape[1]
    copies = count // shared
    found = scaled_dot_product_attention(
        heads.transpose(0, 1).reshape(1, shared, copies * tokens, width),
        _take(keys, stretch.slots).transpose(0, 1).unsqueeze(0),
        _take(values, stretch.slots).transpose(0, 1).unsqueeze(0),
        attn_mask=stretch.is_past.repeat(copies, 1),
        scale=scaling,
    )
    return found.reshape(count, tokens, width).transpose(0, 1)


def _take(cached: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Return what is cached in slots of any shape. Indexing with a matrix of them is many times slower."""
    return cached.index_select(0, slots.view(-1)).view(*slots.shape, *cached.shape[1:])


def _kinds(config: Any) -> dict[str, list[int]]:  # noqa: ANN401 - see above
    try:
        kinds: dict[str, list[int]] = group_layers_by_attn_type(config)
    except ValueError:  # a kind of layer that the manager itself does not know; it will say so
        return {}
    return kinds

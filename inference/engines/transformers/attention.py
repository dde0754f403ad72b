"""Attention on a CPU in which each request attends only to its own keys.

The continuous batching manager packs all requests of a step into one row. With transformers' own `sdpa` every
token is then multiplied with the keys of all requests, behind a mask that hides the others', and keys are
copied for each head that shares them: with 32 requests that is most of a step. Here the requests in decode,
which have one new token each, are batched in groups of similar length and padded to the longest of a group;
requests in prefill attend one by one.

In a decode group, attention is two batched products of small matrices, which the matrix library computes in
less than half the time of torch's fused operator, and in the same way for any number of requests: a request's
answer does not depend on the others in the batch.

Source: transformers 5.23, `integrations/sdpa_attention.py` and `generation/continuous_batching/cache.py`. Of
what is not public, this module relies on `_kv_token_views`; the version is pinned, and the engine's tests
compare the answers with plain `generate`.
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
"""The name that this attention is registered with in transformers."""

MAX_LENGTH_RATIO: Final = 2
"""The longest request of a decode group has at most this many times the keys of the shortest, or of
`SHORT_TOKENS`: padding costs time, and so does one more call."""

SHORT_TOKENS: Final = 64

KEY_MULTIPLE: Final = 16
"""Requests are padded to a multiple of this many keys: with other numbers the matrix library adds up products
in another order, and the last bits of a sum would depend on the longest request of the group."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Requests with one new token each, which attend in one batch.

    Attributes:
        queries: The indices of their tokens in the step, (requests,).
        rows: The indices of their keys in the cache's rows of single heads, padded with any valid one,
            (requests times key heads times longest).
        bias: Added to their scores, minus infinity where padded, (requests times key heads, query heads per
            key head, longest).
    """

    queries: torch.Tensor
    rows: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class PrefillSpan:
    """A request with several new tokens.

    Attributes:
        queries: The indices of its tokens in the step.
        slots: The indices of its keys in the cache, the new ones last, (keys,).
        mask: Which keys each token may attend to, (tokens, keys).
    """

    queries: slice
    slots: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class Plan:
    """How the requests of a step attend; the same for all layers.

    Attributes:
        only_group: The single group that is the whole step, in its order; if it is set, the other two are
            empty.
    """

    decode_groups: tuple[DecodeGroup, ...] = ()
    prefill_spans: tuple[PrefillSpan, ...] = ()
    only_group: DecodeGroup | None = None


def register() -> None:
    """Register this attention with transformers. Idempotent."""
    AttentionInterface.register(NAME, attend)


def supports(config: Any) -> bool:  # noqa: ANN401 - a transformers configuration, which has no useful type
    """Return whether all of a model's layers have plain full attention."""
    config = config.get_text_config()
    unsupported = ("attn_logit_softcapping", "attention_chunk_size", "alibi", "use_sinks")
    is_plain = not any(getattr(config, option, None) for option in unsupported)
    return is_plain and config.model_type != "gpt_oss" and set(_layers_by_type(config)) == {"full_attention"}


def attend(  # noqa: PLR0913 - the signature that transformers calls
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
        query: (1, query heads, tokens, head dimension).
        key: (1, key heads, tokens, head dimension).
        value: The same.
        attention_mask: None.
        scaling: The factor of the scores; None is 1 / sqrt(head dimension).
        step: `cache`, `read_index`, `write_index`, `cu_seq_lens_q` and `cu_seq_lens_k`.

    Returns:
        (1, tokens, query heads, head dimension), and no attention weights.

    Raises:
        ValueError: If the model needs more than plain full attention.
    """
    if attention_mask is not None or any(step.get(name) is not None for name in ("softcap", "s_aux")):
        raise ValueError("this model needs another attention: set FJARR_ATTENTION=sdpa")
    queries, new_keys, new_values = (states[0].transpose(0, 1) for states in (query, key, value))
    layer: Any = module.layer_idx
    return attend_rows(layer, queries, new_keys, new_values, step, scaling).unsqueeze(0), None


def attend_rows(  # noqa: PLR0913, PLR0917 - three tensors, and the layer's parameters
    layer: int,
    queries: torch.Tensor,
    new_keys: torch.Tensor,
    new_values: torch.Tensor,
    step: dict[str, Any],
    scaling: float | None,
) -> torch.Tensor:
    """Write a layer's new keys and values to the cache, and attend.

    Args:
        layer: The layer's index.
        queries: (tokens, query heads, head dimension).
        new_keys: (tokens, key heads, head dimension).
        new_values: The same.
        step: See `attend`.
        scaling: See `attend`.

    Returns:
        (tokens, query heads, head dimension), contiguous.
    """
    cache: Any = step["cache"]
    keys, values = cache.layer_to_allocator[layer]._kv_token_views[layer]  # noqa: SLF001 - there is no public way
    keys.index_copy_(0, step["write_index"][0], new_keys)
    values.index_copy_(0, step["write_index"][0], new_values)
    if layer == 0:
        cache.fjarr_plan = make_plan(step, queries, keys)
    plan: Plan = cache.fjarr_plan
    if plan.only_group is not None:
        return _attend_decode_group(queries, keys, values, plan.only_group, scaling)
    output = torch.empty_like(queries, memory_format=torch.contiguous_format)
    for group in plan.decode_groups:
        output[group.queries] = _attend_decode_group(queries[group.queries], keys, values, group, scaling)
    for span in plan.prefill_spans:
        output[span.queries] = _attend_prefill_span(queries[span.queries], keys, values, span, scaling)
    return output


def make_plan(step: dict[str, Any], queries: torch.Tensor, keys: torch.Tensor) -> Plan:
    """Derive the plan from the manager's description of a step.

    Args:
        step: See `attend`.
        queries: (tokens, query heads, head dimension); only the shape and the type are used.
        keys: (slots, key heads, head dimension), likewise.
    """
    # With nothing in the cache before the step, nothing is listed to be read: all keys were just written.
    slots = step["read_index"][0] if step["read_index"][0].numel() else step["write_index"][0]
    query_ends = step["cu_seq_lens_q"].tolist()
    key_ends = step["cu_seq_lens_k"]
    key_ends = (key_ends["full_attention"] if isinstance(key_ends, dict) else key_ends).tolist()
    requests = list(zip(pairwise(query_ends), pairwise(key_ends), strict=True))
    decodes = [(start, keys) for (start, end), keys in requests if end - start == 1]
    prefill_spans = [
        PrefillSpan(slice(*new), slots[slice(*known)], _causal_mask(new, known))
        for new, known in requests
        if new[1] - new[0] > 1
    ]
    key_heads = keys.shape[1]
    # One row for each key head, and a score for each query head that shares it.
    like = queries.new_empty(key_heads, queries.shape[1] // key_heads)
    groups = group_by_length(decodes)
    if len(groups) == 1 and not prefill_spans:
        return Plan(only_group=_make_decode_group(sorted(groups[0]), slots, like))
    return Plan(tuple(_make_decode_group(group, slots, like) for group in groups), tuple(prefill_spans))


def group_by_length(
    decodes: Sequence[tuple[int, tuple[int, int]]],
) -> list[list[tuple[int, tuple[int, int]]]]:
    """Group requests, given by their token's index and their keys' range, by similar numbers of keys."""
    groups: list[list[tuple[int, tuple[int, int]]]] = []
    max_length = 0
    for decode in sorted(decodes, key=lambda decode: decode[1][1] - decode[1][0]):
        length = decode[1][1] - decode[1][0]
        if not groups or length > max_length:
            groups.append([])
            max_length = MAX_LENGTH_RATIO * max(length, SHORT_TOKENS)
        groups[-1].append(decode)
    return groups


def _make_decode_group(
    decodes: Sequence[tuple[int, tuple[int, int]]], slots: torch.Tensor, like: torch.Tensor
) -> DecodeGroup:
    queries = torch.tensor([index for index, _ in decodes])
    starts = torch.tensor([keys[0] for _, keys in decodes]).unsqueeze(1)
    lengths = torch.tensor([keys[1] - keys[0] for _, keys in decodes]).unsqueeze(1)
    longest = -(-int(lengths.max()) // KEY_MULTIPLE) * KEY_MULTIPLE
    positions = torch.arange(longest)
    is_key = positions < lengths
    own_slots = slots[torch.where(is_key, starts + positions, starts)]
    key_heads, sharing_heads = like.shape
    rows = own_slots.unsqueeze(1) * key_heads + torch.arange(key_heads).unsqueeze(1)
    bias = like.new_zeros(is_key.shape).masked_fill_(~is_key, -torch.inf)
    bias = bias[:, None, None, :].expand(-1, key_heads, sharing_heads, -1).reshape(-1, sharing_heads, longest)
    return DecodeGroup(queries, rows.view(-1), bias)


def _causal_mask(new: tuple[int, int], known: tuple[int, int]) -> torch.Tensor:
    tokens, keys = new[1] - new[0], known[1] - known[0]
    return torch.ones(tokens, keys, dtype=torch.bool).tril(keys - tokens)


def _attend_decode_group(
    heads: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, group: DecodeGroup, scaling: float | None
) -> torch.Tensor:
    """Attend with one token a request. The query heads that share a key head are the rows of one matrix."""
    width = heads.shape[-1]
    matrices, sharing_heads, longest = group.bias.shape
    own_keys = keys.view(-1, width).index_select(0, group.rows).view(matrices, longest, width)
    own_values = values.view(-1, width).index_select(0, group.rows).view(matrices, longest, width)
    scale = width**-0.5 if scaling is None else scaling
    scores = torch.baddbmm(
        group.bias, heads.reshape(matrices, sharing_heads, width), own_keys.transpose(1, 2), alpha=scale
    )
    return torch.bmm(torch.softmax(scores, -1), own_values).view(heads.shape)


def _attend_prefill_span(
    heads: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, span: PrefillSpan, scaling: float | None
) -> torch.Tensor:
    """Attend with a request's tokens. The query heads that share a key head are concatenated to one."""
    tokens, query_heads, width = heads.shape
    key_heads = keys.shape[1]
    sharing_heads = query_heads // key_heads
    attended = scaled_dot_product_attention(
        heads.transpose(0, 1).reshape(1, key_heads, sharing_heads * tokens, width),
        keys.index_select(0, span.slots).transpose(0, 1).unsqueeze(0),
        values.index_select(0, span.slots).transpose(0, 1).unsqueeze(0),
        attn_mask=span.mask.repeat(sharing_heads, 1),
        scale=scaling,
    )
    return attended.reshape(query_heads, tokens, width).transpose(0, 1)


def _layers_by_type(config: Any) -> dict[str, list[int]]:  # noqa: ANN401 - see above
    try:
        layers: dict[str, list[int]] = group_layers_by_attn_type(config)
    except ValueError:  # a type of layer that the manager itself does not support; it reports that
        return {}
    return layers

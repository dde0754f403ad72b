"""Fused layers, compared with those of transformers that they replace."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from inference.engines.transformers import attention, packing
from inference.engines.transformers.fused import FusedDecoderLayer, can_fuse_layers, fuse_layers
from inference.engines.transformers.loading import copy_sharing_tensors

pytestmark = pytest.mark.skipif(
    not packing.can_pack("cpu", torch.float32), reason="this torch has no oneDNN to pack for"
)

VOCABULARY, LAYERS, SLOTS, KEY_HEADS, WIDTH = 64, 2, 256, 2, 8
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 6,
    "num_key_value_heads": KEY_HEADS,
    "head_dim": WIDTH,
    "pad_token_id": 0,
}
LIKES = {
    "llama": LlamaConfig(**SIZES),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama with stretched positions": LlamaConfig(
        **SIZES,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES),
}
NOT_LIKE = {
    "another kind of layer": Phi3Config(**SIZES),
    "a window": MistralConfig(**SIZES, sliding_window=16),
    "norms of another kind": Gemma2Config(**SIZES),
}


def network(config: Any, *, is_half: bool = False) -> Any:
    """Return a network with random weights, norms and biases; on demand such as files in bfloat16 have."""
    torch.manual_seed(4)
    made = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval().requires_grad_(requires_grad=False)
    for parameter in made.parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made.bfloat16().float() if is_half else made


class Cache:
    """The layers' keys and values, as in transformers' paged cache."""

    def __init__(self) -> None:
        views = {
            layer: (torch.zeros(SLOTS, KEY_HEADS, WIDTH), torch.zeros(SLOTS, KEY_HEADS, WIDTH))
            for layer in range(LAYERS)
        }
        self.layer_to_allocator = dict.fromkeys(range(LAYERS), SimpleNamespace(_kv_token_views=views))
        self.fjarr_plan: Any = None


def step(fused: Any, cache: Cache, requests: list[tuple[list[int], int]]) -> torch.Tensor:
    """Run one step of some requests; return the logits of each request's last token.

    Args:
        fused: The network.
        cache: Its cache.
        requests: All tokens of each request so far, and how many of them are new.
    """
    tokens: list[int] = []
    positions: list[int] = []
    written: list[int] = []
    read: list[int] = []
    ends, key_ends = [0], [0]
    for number, (text, new) in enumerate(requests):
        slots = [100 * number + place for place in range(len(text))]
        tokens += text[-new:]
        positions += range(len(text) - new, len(text))
        written += slots[-new:]
        read += slots
        ends.append(ends[-1] + new)
        key_ends.append(key_ends[-1] + len(text))
    with torch.inference_mode():
        logits: torch.Tensor = fused(
            input_ids=torch.tensor([tokens]),
            position_ids=torch.tensor([positions]),
            cache=cache,
            use_cache=False,
            read_index=[torch.tensor(read)],
            write_index=[torch.tensor(written)],
            cu_seq_lens_q=torch.tensor(ends),
            cu_seq_lens_k={"full_attention": torch.tensor(key_ends)},
            logits_to_keep=torch.tensor(ends[1:]) - 1,
        ).logits[0]
    return logits


@pytest.mark.parametrize("is_half", [False, True], ids=["any weights", "weights from bfloat16"])
@pytest.mark.parametrize("config", LIKES.values(), ids=LIKES.keys())
def test_a_fused_network_computes_the_same(config: Any, *, is_half: bool) -> None:
    plain, fused = network(config, is_half=is_half), network(config, is_half=is_half)
    assert can_fuse_layers(fused)
    fuse_layers([fused])
    packing.pack([fused])
    halves = [module for module in fused.modules() if isinstance(module, packing.HalfLinear)]
    assert len(halves) == (4 * LAYERS + 1 if is_half else 0)
    attention.register()
    fused.set_attn_implementation(attention.NAME)
    torch.manual_seed(5)
    first, second = (torch.randint(0, VOCABULARY, (length,)).tolist() for length in (23, 7))
    cache = Cache()

    steps = (
        [(first[:20], 20), (second[:6], 6)],
        [(first[:21], 1), (second[:7], 1)],
        [(first[:23], 2)],
    )
    for requests in steps:
        found = step(fused, cache, requests)
        with torch.inference_mode():
            expected = torch.stack([plain(torch.tensor([text])).logits[0, -1] for text, _ in requests])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_what_networks_share_is_packed_once() -> None:
    base = network(LIKES["llama"])
    tuned: Any = copy_sharing_tensors(base)
    changed = tuned.model.layers[0].self_attn.q_proj
    changed.weight = torch.nn.Parameter(changed.weight + 1, requires_grad=False)

    fuse_layers([base, tuned])

    (first, second), (own_first, own_second) = base.model.layers, tuned.model.layers
    assert first._qkv_proj is not own_first._qkv_proj
    assert first._down_proj is own_first._down_proj
    assert second._qkv_proj is own_second._qkv_proj


@pytest.mark.parametrize("config", NOT_LIKE.values(), ids=NOT_LIKE.keys())
def test_other_networks_are_left_as_they_are(config: Any) -> None:
    assert not can_fuse_layers(network(config))


def test_layers_whose_weights_are_not_plain_are_left_as_they_are() -> None:
    made = network(LIKES["llama"])
    made.model.layers[1].mlp.up_proj = torch.nn.Identity()

    assert not can_fuse_layers(made)


def test_no_plain_weight_of_a_layer_stays() -> None:
    fused = network(LIKES["llama"])

    fuse_layers([fused])

    assert all(isinstance(layer, FusedDecoderLayer) for layer in fused.model.layers)
    assert not any(isinstance(module, torch.nn.Linear) for module in fused.model.modules())

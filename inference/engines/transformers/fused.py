"""Compute the decoder layers of Llama and its likes with few operators, on a CPU.

With one request in a step, a layer's arithmetic is a matter of microseconds, and calling operators one by one
costs nearly as much as all matrix products. A lean layer multiplies for queries, keys and values at once, and
for gate and up; it turns queries and keys by one complex product; and it leaves each row where it is.

Source: transformers 5.23, `models/llama/modeling_llama.py` and those of `LEAN`, which have the same layers;
the tests hold a lean layer to the original of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from inference.engines.transformers import attention
from inference.engines.transformers.lora_batch import MixedLinear
from inference.engines.transformers.packing import PackedLinear, PackedMixedLinear, pack_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAN: Final = frozenset(
    {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
)
"""The layers of transformers that a lean one can stand for."""


def can_lean(network: Any) -> bool:  # noqa: ANN401 - transformers publishes no types
    """Return whether all layers of a network can be lean."""
    if not attention.suits(network.config):
        return False
    layers = getattr(getattr(network, "model", None), "layers", ())
    if not layers or not all(type(layer).__name__ in LEAN for layer in layers):
        return False
    linears = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    return len(linears) == 7 * len(layers) and all(type(each) is nn.Linear for each in linears)


def make_lean(networks: Sequence[Any]) -> None:
    """Replace the layers of a base's networks in place; what they share is packed once.

    Each layer's plain weights are let go before the next is packed, so that a large model is not in memory
    twice.
    """
    for number in range(len(networks[0].model.layers)):
        packer = _Packer()
        for network in networks:
            network.model.layers[number] = LeanLayer(network.model.layers[number], packer)
    for network in networks:
        network.model.rotary_emb = Turns(network.model.rotary_emb)
        network.model.norm = RootMeanSquare(network.model.norm)


class LeanLayer(nn.Module):
    """Do what a decoder layer does: attend, then feed forward, each on normalised rows and added to them.

    Args:
        layer: The original.
        packer: Where weights are packed that other networks may share.
    """

    def __init__(self, layer: Any, packer: _Packer) -> None:  # noqa: ANN401 - see above
        super().__init__()
        attending, feed = layer.self_attn, layer.mlp
        self._width = attending.head_dim
        self._queries = attending.q_proj.out_features // self._width
        self._keys = attending.k_proj.out_features // self._width
        self._number = attending.layer_idx
        self._scaling = attending.scaling
        self._before_attention = RootMeanSquare(layer.input_layernorm)
        self._before_feed = RootMeanSquare(layer.post_attention_layernorm)
        order = interleaved(self._width)
        self._heads = packer.pack(
            (attending.q_proj, attending.k_proj, attending.v_proj), (order, order, slice(None))
        )
        self._query_norm = self._key_norm = None
        if hasattr(attending, "q_norm"):
            self._query_norm = RootMeanSquare(attending.q_norm, order)
            self._key_norm = RootMeanSquare(attending.k_norm, order)
        self._out = packer.pack((attending.o_proj,))
        self._gate_and_up = packer.pack((feed.gate_proj, feed.up_proj))
        self._down = packer.pack((feed.down_proj,))
        self._activate = feed.act_fn

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **step: Any,  # noqa: ANN401 - the manager's description of the step
    ) -> torch.Tensor:
        """Return the next layer's rows.

        Args:
            hidden_states: (1, tokens, width of the model).
            position_embeddings: What `Turns` gives.
            attention_mask: None.
            step: What `attention.attend` wants.
        """
        del attention_mask
        rows = hidden_states[0]
        tokens = rows.shape[0]
        heads = self._heads(self._before_attention(rows)).view(tokens, -1, self._width)
        values = heads[:, self._queries + self._keys :]
        heads = heads[:, : self._queries + self._keys]
        if self._query_norm is not None and self._key_norm is not None:
            normal = self._query_norm(heads[:, : self._queries]), self._key_norm(heads[:, self._queries :])
            heads = torch.cat(normal, 1)
        heads = turn(heads, position_embeddings)
        queries, keys = heads[:, : self._queries], heads[:, self._queries :]
        found = attention.attend_rows(self._number, queries, keys, values, step, self._scaling)
        rows = rows + self._out(found.view(tokens, -1))
        gate, up = self._gate_and_up(self._before_feed(rows)).chunk(2, -1)
        return (rows + self._down(self._activate(gate) * up)).unsqueeze(0)


class Turns(nn.Module):
    """Say how far queries and keys are turned at each position, as complex numbers.

    Args:
        original: The model's own rotary embedding.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._original = original

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Return (tokens, 1, half the width of a head)."""
        cosines, sines = self._original(hidden_states, position_ids)
        half = cosines.shape[-1] // 2
        return torch.complex(cosines[0, :, :half].float(), sines[0, :, :half].float()).unsqueeze(1)


class RootMeanSquare(nn.Module):
    """Divide rows by their root mean square, and multiply by a weight.

    Args:
        original: The model's own.
        order: The order that rows come in, if it is not the model's.
    """

    def __init__(self, original: Any, order: torch.Tensor | slice = slice(None)) -> None:  # noqa: ANN401 - see above
        super().__init__()
        weight = original.weight.detach()[order]
        width = weight.numel()
        self._weight = weight.float() * width**0.5
        self._added = torch.tensor([width * original.variance_epsilon])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows of the same shape, (..., width)."""
        # Not by `rms_norm`, which takes twice as long for a row.
        norm = torch.linalg.vector_norm(rows.float(), dim=-1, keepdim=True)
        scale = torch.addcmul(self._added, norm, norm).rsqrt_()
        normal = (rows * scale).mul_(self._weight)
        return normal if rows.dtype == torch.float32 else normal.to(rows.dtype)

    # Called twice a layer, and hooked by nobody: what a module does about hooks takes as long as an operator.
    __call__ = forward


class _Packer:
    """Pack linear layers, those with the same weights once."""

    def __init__(self) -> None:
        # With the layers, so that no other weight takes the place, and the number, of one that is let go.
        self._packed: dict[tuple[int, ...], tuple[PackedLinear | PackedMixedLinear, Sequence[nn.Module]]] = {}

    def pack(
        self, layers: Sequence[nn.Linear | MixedLinear], orders: Sequence[torch.Tensor | slice] = ()
    ) -> PackedLinear | PackedMixedLinear:
        """Do what `pack_layers` does."""
        number = tuple(id(layer if isinstance(layer, MixedLinear) else layer.weight) for layer in layers)
        if number not in self._packed:
            self._packed[number] = (pack_layers(layers, orders), layers)
        return self._packed[number][0]


def turn(heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn each head's pairs of numbers by the turns of its position.

    Args:
        heads: (tokens, heads, width), the numbers of a pair side by side.
        turns: (tokens, 1, half the width).
    """
    pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).view(heads.shape).to(heads.dtype)


def interleaved(width: int) -> torch.Tensor:
    """Return where a head's numbers come from, for the two of a pair to lie side by side.

    The models have a pair's first number in the head's first half, and its second in the second.
    """
    return torch.arange(width).view(2, -1).t().reshape(-1)

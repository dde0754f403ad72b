"""Compute the decoder layers of Llama and similar models with few operators, on a CPU.

With one request in a step, a layer's arithmetic takes microseconds, and the overhead of calling its operators
is nearly as large as all matrix products. A fused layer computes queries, keys and values in one product, and
gate and up in another; it rotates queries and keys by one complex product; and it keeps the rows of all
requests in place.

Source: transformers 5.23, `models/llama/modeling_llama.py` and those of `FUSABLE_LAYERS`, which have the same
layers; the tests compare a fused layer with the original of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from inference.engines.transformers import attention
from inference.engines.transformers.adapter_checks import modules_of_peft
from inference.engines.transformers.lora_batch import BatchedLoraLinear
from inference.engines.transformers.packing import Part, pack_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engines.transformers.packing import PackedLayer

FUSABLE_LAYERS: Final = frozenset(
    {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
)
"""The layers of transformers that a `FusedDecoderLayer` can replace."""


def can_fuse_layers(network: Any) -> bool:  # noqa: ANN401 - transformers publishes no types
    """Return whether `fuse_layers` supports all layers of a network."""
    if not attention.supports(network.config):
        return False
    layers = getattr(getattr(network, "model", None), "layers", ())
    if not layers or not all(type(layer).__name__ in FUSABLE_LAYERS for layer in layers):
        return False
    if next(modules_of_peft(network), None) is not None:
        return False
    linears = [module for layer in layers for module in layer.modules() if isinstance(module, nn.Linear)]
    return len(linears) == 7 * len(layers) and all(type(each) is nn.Linear for each in linears)


def fuse_layers(networks: Sequence[Any]) -> None:
    """Replace the layers of a base's networks in place; weights that they share are packed once.

    Each layer's plain weights are released before the next is packed, so that a large model is not in memory
    twice.
    """
    # An adapter may replicate layers, so that its network has more of them.
    for index in range(max(len(network.model.layers) for network in networks)):
        packer = _Packer()
        for network in networks:
            if index >= len(network.model.layers):
                continue
            network.model.layers[index] = FusedDecoderLayer(network.model.layers[index], packer)
    for network in networks:
        network.model.rotary_emb = RotaryEmbedding(network.model.rotary_emb)
        network.model.norm = RMSNorm(network.model.norm)


class FusedDecoderLayer(nn.Module):
    """A decoder layer: attention, then feed-forward, each on normalised rows and added to them.

    Args:
        layer: The original.
        packer: Packs the weights, which other networks may share.

    Attributes:
        products: The original's linear layers, by the attribute of this layer that computes their product.
    """

    def __init__(self, layer: Any, packer: _Packer) -> None:  # noqa: ANN401 - see above
        super().__init__()
        attention_layer, mlp = layer.self_attn, layer.mlp
        self._head_dim = attention_layer.head_dim
        self._query_heads = attention_layer.q_proj.out_features // self._head_dim
        self._key_heads = attention_layer.k_proj.out_features // self._head_dim
        self._layer_idx = attention_layer.layer_idx
        self._scaling = attention_layer.scaling
        self._input_norm = RMSNorm(layer.input_layernorm)
        self._post_attention_norm = RMSNorm(layer.post_attention_layernorm)
        order = interleaved(self._head_dim)
        self.products = {
            "_qkv_proj": tuple(
                Part(f"self_attn.{name}", getattr(attention_layer, name).out_features, part_order)
                for name, part_order in (("q_proj", order), ("k_proj", order), ("v_proj", slice(None)))
            ),
            "_out_proj": (Part("self_attn.o_proj", attention_layer.o_proj.out_features),),
            "_gate_up_proj": tuple(
                Part(f"mlp.{name}", getattr(mlp, name).out_features) for name in ("gate_proj", "up_proj")
            ),
            "_down_proj": (Part("mlp.down_proj", mlp.down_proj.out_features),),
        }
        self._qkv_proj = packer.pack(
            (attention_layer.q_proj, attention_layer.k_proj, attention_layer.v_proj),
            (order, order, slice(None)),
        )
        self._query_norm = self._key_norm = None
        if hasattr(attention_layer, "q_norm"):
            self._query_norm = RMSNorm(attention_layer.q_norm, order)
            self._key_norm = RMSNorm(attention_layer.k_norm, order)
        self._out_proj = packer.pack((attention_layer.o_proj,))
        self._gate_up_proj = packer.pack((mlp.gate_proj, mlp.up_proj))
        self._down_proj = packer.pack((mlp.down_proj,))
        self._activation = mlp.act_fn

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **step: Any,  # noqa: ANN401 - the manager's description of the step
    ) -> torch.Tensor:
        """Return the next layer's rows.

        Args:
            hidden_states: (1, tokens, hidden size).
            position_embeddings: What `RotaryEmbedding` returns.
            attention_mask: None.
            step: See `attention.attend`.
        """
        del attention_mask
        rows = hidden_states[0]
        tokens = rows.shape[0]
        heads = self._qkv_proj(self._input_norm(rows)).view(tokens, -1, self._head_dim)
        values = heads[:, self._query_heads + self._key_heads :]
        heads = heads[:, : self._query_heads + self._key_heads]
        if self._query_norm is not None and self._key_norm is not None:
            query_heads, key_heads = heads[:, : self._query_heads], heads[:, self._query_heads :]
            heads = torch.cat((self._query_norm(query_heads), self._key_norm(key_heads)), 1)
        heads = apply_rotary(heads, position_embeddings)
        queries, keys = heads[:, : self._query_heads], heads[:, self._query_heads :]
        attended = attention.attend_rows(self._layer_idx, queries, keys, values, step, self._scaling)
        rows = rows + self._out_proj(attended.view(tokens, -1))
        gate, up = self._gate_up_proj(self._post_attention_norm(rows)).chunk(2, -1)
        return (rows + self._down_proj(self._activation(gate) * up)).unsqueeze(0)


class RotaryEmbedding(nn.Module):
    """The rotations of queries and keys at each position, as complex numbers.

    Args:
        original: The model's own rotary embedding.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self._original = original

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Return (tokens, 1, half the head dimension)."""
        cosines, sines = self._original(hidden_states, position_ids)
        half = cosines.shape[-1] // 2
        return torch.complex(cosines[0, :, :half].float(), sines[0, :, :half].float()).unsqueeze(1)


class RMSNorm(nn.Module):
    """Root mean square normalisation of rows.

    Args:
        original: The model's own.
        order: The order of the rows' elements, if it is not the model's.
    """

    def __init__(self, original: Any, order: torch.Tensor | slice = slice(None)) -> None:  # noqa: ANN401 - see above
        super().__init__()
        weight = original.weight.detach()[order]
        width = weight.numel()
        self._weight = weight.float() * width**0.5
        self._scaled_epsilon = torch.tensor([width * original.variance_epsilon])

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return rows of the same shape, (..., width)."""
        # Not by `rms_norm`, which takes twice as long for a row.
        norm = torch.linalg.vector_norm(rows.float(), dim=-1, keepdim=True)
        scale = torch.addcmul(self._scaled_epsilon, norm, norm).rsqrt_()
        normal = (rows * scale).mul_(self._weight)
        return normal if rows.dtype == torch.float32 else normal.to(rows.dtype)

    # Called twice a layer and never hooked: a module's check for hooks takes as long as an operator.
    __call__ = forward


class _Packer:
    """Packs linear layers, those with the same weights once."""

    def __init__(self) -> None:
        # The layers are kept alive, so that no other weight gets the id of one that was released.
        self._packed: dict[tuple[int, ...], tuple[PackedLayer, Sequence[nn.Module]]] = {}

    def pack(
        self, layers: Sequence[nn.Linear | BatchedLoraLinear], orders: Sequence[torch.Tensor | slice] = ()
    ) -> PackedLayer:
        """Return what `pack_layers` returns."""
        key = tuple(id(layer if isinstance(layer, BatchedLoraLinear) else layer.weight) for layer in layers)
        if key not in self._packed:
            self._packed[key] = (pack_layers(layers, orders), layers)
        return self._packed[key][0]


def apply_rotary(heads: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Rotate each head's pairs of numbers by the rotations of its position.

    Args:
        heads: (tokens, heads, head dimension), the numbers of a pair side by side.
        rotations: (tokens, 1, half the head dimension).
    """
    pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotations).view(heads.shape).to(heads.dtype)


def interleaved(head_dim: int) -> torch.Tensor:
    """Return the order of a head's numbers that puts the two of each pair side by side.

    The models keep the first number of each pair in the head's first half, and the second in its second half.
    """
    return torch.arange(head_dim).view(2, -1).t().reshape(-1)

"""Convert linear layers' weights once to the layout of the CPU's matrix library, instead of in every step.

A layer with adapters (see `lora_batch`) becomes a single product: `lora_b` is concatenated to the weight, and
the product with `lora_a` to the inputs. With few rows, a call of the library takes as long as a small
product, so it is called once.

A weight in float32 whose numbers float16 can hold is packed in float16 and multiplied in float32. That is the
same product from half of the bytes, which a product with few rows waits for. Models are mostly stored in
bfloat16, and float16 holds its numbers. The adapters of such a layer stay beside it, in float32.

Source: torch 2.13, `aten/src/ATen/native/mkldnn/Linear.cpp`, as torch's own inductor uses it when it freezes
a model, and `aten/src/ATen/native/quantized/cpu/qlinear_dynamic.cpp`. The operators are not public; the
version is pinned, and the engine's tests compare the answers with plain `generate`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import nn
from torch.nn.functional import pad

from inference.engines.transformers.adapter_checks import modules_of_peft
from inference.engines.transformers.lora_batch import BatchedLoraLinear, LoraWeights, adapter_ranks
from inference.models.hardware import multiplies_bf16

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from inference.engines.transformers.lora_batch import LoraBatch, Ranks

ROWS_HINT: Final = 8
"""The number of rows that the layout is chosen for; it works for any number."""

LOST_BITS: Final = 0x1FFF
"""The bits of a number in float32 that float16 has no room for."""

MIN_HALF_RANGE: Final = 2.0**-8
"""The least that the largest number of a weight in float16 must be. Numbers below 2**-17 lose some bits, at
most 2**-25, which is then too little to matter beside float32's own rounding of the sums."""


@dataclass(frozen=True, slots=True)
class Part:
    """A linear layer whose outputs are a part of a product.

    Attributes:
        name: The layer's name in its network.
        outputs: The number of its outputs.
        order: The order of the outputs within each head; a slice keeps all of them.
    """

    name: str
    outputs: int
    order: torch.Tensor | slice = field(default_factory=lambda: slice(None))


class PackedLinear(nn.Module):
    """A linear layer over a packed weight; computes what `nn.Linear` does.

    Args:
        weight: The weight, (outputs, inputs), packed.
        bias: (outputs,), if there is one.
        out_features: The number of outputs.
    """

    def __init__(
        self,
        weight: Any,  # noqa: ANN401 - what the matrix library has made of it
        bias: torch.Tensor | None,
        out_features: int,
    ) -> None:
        super().__init__()
        # Not a parameter: only the product can read it.
        self._weight = weight
        self._bias = bias
        self.out_features = out_features

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the product with rows (..., inputs)."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(  # noqa: SLF001 - see the module
            rows, self._weight, self._bias, "none", [], ""
        )
        return product

    def sharing(self, bias: torch.Tensor | None) -> Self:
        """Return a layer with the same weight and another bias."""
        return type(self)(self._weight, bias, self.out_features)

    # Called for every product and never hooked: a module's check for hooks takes as long as a small operator.
    __call__ = forward


class HalfLinear(PackedLinear):
    """The same over a weight that is packed in float16, for rows in float32."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the product with rows (..., inputs)."""
        product: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(rows, self._weight)
        return product if self._bias is None else product.add_(self._bias)

    # As above.
    __call__ = forward


class PackedLoraLinear(nn.Module):
    """A linear layer over a packed weight that adds each row's own adapter's update.

    Args:
        weight: (outputs, inputs + columns): the weight, and the adapters' `lora_b` beside it.
        bias: (outputs,), if there is one.
        lora_a: The adapters' `lora_a`, (columns, inputs).
        ranks: The number of columns of each adapter.
        lora_batch: The adapter of each row.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        ranks: Ranks,
        lora_batch: LoraBatch,
    ) -> None:
        super().__init__()
        self._product = PackedLinear(pack_weight(weight), bias, len(weight))
        self._lora_a = PackedLinear(pack_weight(lora_a), None, len(lora_a))
        self._ranks = ranks
        self._columns = sum(rank for _, rank in ranks)
        self._lora_batch = lora_batch

    @property
    def out_features(self) -> int:
        """Return the number of outputs."""
        return self._product.out_features

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) for rows (..., inputs)."""
        mask = self._lora_batch.mask(self._ranks, rows.device)
        if mask is None:
            return self._product(pad(rows, (0, self._columns)))
        return self._product(torch.cat([rows, self._lora_a(rows).masked_fill_(mask, 0)], -1))

    # As above.
    __call__ = forward


PackedLayer = PackedLinear | PackedLoraLinear | BatchedLoraLinear
"""What linear layers with the same inputs are packed into."""


def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Return whether this machine's matrix library multiplies packed weights of a type."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bf16())


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """Convert a plain weight, (outputs, inputs), to the layout of the matrix library."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS_HINT)  # noqa: SLF001 - see the module
    return packed


def fits_half(weight: torch.Tensor) -> bool:
    """Return whether a weight is packed in float16: it is in float32, and float16 holds its numbers."""
    if weight.dtype != torch.float32 or torch.backends.quantized.engine not in {"x86", "fbgemm"}:
        return False
    # NaN is not within any limits.
    largest = max(map(abs, torch.stack(weight.aminmax()).tolist()))
    if not MIN_HALF_RANGE <= largest <= torch.finfo(torch.float16).max:
        return False
    return not bool((weight.view(torch.int32) & LOST_BITS).any())


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
    """Return a layer over a plain weight, (outputs, inputs), which is packed."""
    weight = weight.detach()
    if fits_half(weight):
        return HalfLinear(torch.ops.quantized.linear_prepack_fp16(weight, None), bias, len(weight))
    return PackedLinear(pack_weight(weight), bias, len(weight))


def pack_layers(
    layers: Sequence[nn.Linear | BatchedLoraLinear], orders: Sequence[torch.Tensor | slice] = ()
) -> PackedLayer:
    """Pack layers with the same inputs into one, whose outputs are theirs, concatenated.

    Args:
        layers: The layers; those with adapters share one `LoraBatch`.
        orders: The order of the outputs within each head, for each layer; empty keeps all of them.
    """
    orders = orders or [slice(None)] * len(layers)
    with_adapters = [layer for layer in layers if isinstance(layer, BatchedLoraLinear)]
    linears = [_linear_of(layer) for layer in layers]
    weight = torch.cat(
        [_reorder(layer.weight.detach(), order) for layer, order in zip(linears, orders, strict=True)]
    )
    bias = None
    if any(layer.bias is not None for layer in linears):
        biases = [
            layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
            for layer in linears
        ]
        bias = torch.cat([_reorder(each, order) for each, order in zip(biases, orders, strict=True)])
    if not with_adapters:
        return pack_linear(weight, bias)
    parts = [
        Part(str(index), each.out_features, order)
        for index, (each, order) in enumerate(zip(linears, orders, strict=True))
    ]
    weights = {
        adapter_id: join(
            parts,
            {
                part.name: layer.weights[adapter_id]
                for part, layer in zip(parts, layers, strict=True)
                if isinstance(layer, BatchedLoraLinear) and adapter_id in layer.weights
            },
        )
        for adapter_id in sorted({each for layer in with_adapters for each in layer.weights})
    }
    if fits_half(weight):
        lora_batch = with_adapters[0].lora_batch
        return BatchedLoraLinear(pack_linear(weight, bias), weights, lora_batch, weight.dtype)
    widened = torch.cat([weight, *(each.lora_b.to(weight.dtype) for each in weights.values())], 1)
    lora_a = torch.cat([each.lora_a for each in weights.values()]).to(weight.dtype)
    return PackedLoraLinear(widened, bias, lora_a, adapter_ranks(weights), with_adapters[0].lora_batch)


def pack(networks: Iterable[nn.Module]) -> None:
    """Replace the linear layers of some networks in place; a weight that they share is packed once.

    A layer with adapters gets its own packed copy. Each plain weight is released before the next is packed,
    so that a large model is not in memory twice.
    """
    plain: dict[int, list[tuple[nn.Module, str, nn.Linear]]] = {}
    with_adapters: list[tuple[nn.Module, str]] = []
    for network in networks:
        # An adapter that stays unmerged computes with its layers' weights itself.
        kept = set(map(id, modules_of_peft(network)))
        for module in network.modules():
            if isinstance(module, BatchedLoraLinear) or id(module) in kept:
                continue
            for name, child in module.named_children():
                if isinstance(child, BatchedLoraLinear):
                    with_adapters.append((module, name))
                elif type(child) is nn.Linear:
                    plain.setdefault(id(child.weight), []).append((module, name, child))
    for module, name in with_adapters:
        setattr(module, name, pack_layers([getattr(module, name)]))
    for found in plain.values():
        packed = pack_linear(found[0][2].weight, None)
        for module, name, child in found:
            setattr(module, name, packed.sharing(child.bias))
        found.clear()


def join(parts: Sequence[Part], weights: Mapping[str, LoraWeights]) -> LoraWeights:
    """Join an adapter's weights for the parts of a product: `lora_a` stacked, `lora_b` a diagonal of blocks.

    Args:
        parts: The parts of the product.
        weights: The adapter's weights by the name of the part; not empty.
    """
    some = next(iter(weights.values()))
    lora_a: list[torch.Tensor] = []
    blocks: list[torch.Tensor] = []
    for part in parts:
        own = weights.get(part.name)
        if own is None:
            blocks.append(some.lora_b.new_empty(part.outputs, 0))
        else:
            lora_a.append(own.lora_a)
            blocks.append(_reorder(own.lora_b, part.order))
    lora_b: torch.Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return LoraWeights(torch.cat(lora_a), lora_b)


def _linear_of(layer: nn.Linear | BatchedLoraLinear) -> nn.Linear:
    found = layer.base_layer if isinstance(layer, BatchedLoraLinear) else layer
    if not isinstance(found, nn.Linear):
        raise TypeError(f"{type(found).__name__} has no plain weight to pack")
    return found


def _reorder(tensor: torch.Tensor, order: torch.Tensor | slice) -> torch.Tensor:
    """Reorder the rows of each head; a head has as many rows as the order."""
    if isinstance(order, slice):
        return tensor
    return tensor.view(-1, len(order), *tensor.shape[1:])[:, order].flatten(0, 1)

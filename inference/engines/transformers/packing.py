"""Convert linear layers' weights once to the layout of the CPU's matrix library, instead of in every step.

A layer with adapters (see `lora_batch`) becomes a single product: `lora_b` is concatenated to the weight, and
the product with `lora_a` to the inputs. With few rows, a call of the library takes as long as a small
product, so it is called once.

Source: torch 2.13, `aten/src/ATen/native/mkldnn/Linear.cpp`, as torch's own inductor uses it when it freezes
a model. The operators are not public; the version is pinned, and the engine's tests compare the answers with
plain `generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn.functional import pad

from inference.engines.transformers.adapter_checks import modules_of_peft
from inference.engines.transformers.lora_batch import BatchedLoraLinear, LoraWeights, adapter_ranks
from inference.models.hardware import multiplies_bf16

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inference.engines.transformers.lora_batch import LoraBatch

ROWS_HINT: Final = 8
"""The number of rows that the layout is chosen for; it works for any number."""


class PackedLinear(nn.Module):
    """A linear layer over a packed weight; computes what `nn.Linear` does.

    Args:
        weight: (outputs, inputs), packed.
        bias: (outputs,), if there is one.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        # Not a parameter: the tensor is opaque, and only the product can read it.
        self._weight = weight
        self._bias = bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the product with rows (..., inputs)."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(  # noqa: SLF001 - see the module
            rows, self._weight, self._bias, "none", [], ""
        )
        return product

    # Called for every product and never hooked: a module's check for hooks takes as long as a small operator.
    __call__ = forward


class PackedLoraLinear(nn.Module):
    """A linear layer over a packed weight that adds each row's own adapter's update.

    Args:
        weight: (outputs, inputs + columns): the weight, and the adapters' `lora_b` beside it.
        bias: (outputs,), if there is one.
        lora_a: The adapters' `lora_a`, (columns, inputs).
        ranks: Each adapter's number of columns, by ascending id.
        lora_batch: The adapter of each row.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        ranks: tuple[int, ...],
        lora_batch: LoraBatch,
    ) -> None:
        super().__init__()
        self._product = PackedLinear(pack_weight(weight), bias)
        self._lora_a = PackedLinear(pack_weight(lora_a), None)
        self._ranks = ranks
        self._lora_batch = lora_batch

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) for rows (..., inputs)."""
        mask = self._lora_batch.mask(self._ranks, rows.device)
        if mask is None:
            return self._product(pad(rows, (0, sum(self._ranks))))
        return self._product(torch.cat([rows, self._lora_a(rows).masked_fill_(mask, 0)], -1))

    # As above.
    __call__ = forward


def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Return whether this machine's matrix library multiplies packed weights of a type."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bf16())


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """Convert a plain weight, (outputs, inputs), to the layout of the matrix library."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS_HINT)  # noqa: SLF001 - see the module
    return packed


def pack_layers(
    layers: Sequence[nn.Linear | BatchedLoraLinear], orders: Sequence[torch.Tensor | slice] = ()
) -> PackedLinear | PackedLoraLinear:
    """Pack layers with the same inputs into one, whose outputs are theirs, concatenated.

    Args:
        layers: The layers; those with adapters share one `LoraBatch`.
        orders: The order of the outputs within each head, for each layer; empty keeps all of them.
    """
    orders = orders or [slice(None)] * len(layers)
    with_adapters = [layer for layer in layers if isinstance(layer, BatchedLoraLinear)]
    linears = [layer.base_layer if isinstance(layer, BatchedLoraLinear) else layer for layer in layers]
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
        return PackedLinear(pack_weight(weight), bias)
    adapter_count = with_adapters[0].adapter_count
    weights = {
        adapter_id: _join(adapter_id, layers, orders)
        for adapter_id in range(1, adapter_count + 1)
        if any(adapter_id in layer.weights for layer in with_adapters)
    }
    widened = torch.cat([weight, *(each.lora_b.to(weight.dtype) for each in weights.values())], 1)
    lora_a = torch.cat([each.lora_a for each in weights.values()]).to(weight.dtype)
    ranks = adapter_ranks(weights, adapter_count)
    return PackedLoraLinear(widened, bias, lora_a, ranks, with_adapters[0].lora_batch)


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
        weight = pack_weight(found[0][2].weight.detach())
        for module, name, child in found:
            setattr(module, name, PackedLinear(weight, child.bias))
        found.clear()


def _join(
    adapter_id: int, layers: Sequence[nn.Linear | BatchedLoraLinear], orders: Sequence[torch.Tensor | slice]
) -> LoraWeights:
    """Join an adapter's weights in some layers: `lora_a` stacked, `lora_b` as the blocks of a diagonal."""
    lora_a: list[torch.Tensor] = []
    blocks: list[torch.Tensor] = []
    for layer, order in zip(layers, orders, strict=True):
        weights = layer.weights.get(adapter_id) if isinstance(layer, BatchedLoraLinear) else None
        if weights is None:
            blocks.append(torch.empty(layer.out_features, 0))
        else:
            lora_a.append(weights.lora_a)
            blocks.append(_reorder(weights.lora_b, order).float())
    lora_b: torch.Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return LoraWeights(torch.cat(lora_a), lora_b)


def _reorder(tensor: torch.Tensor, order: torch.Tensor | slice) -> torch.Tensor:
    """Reorder the rows of each head; a head has as many rows as the order."""
    if isinstance(order, slice):
        return tensor
    return tensor.view(-1, len(order), *tensor.shape[1:])[:, order].flatten(0, 1)

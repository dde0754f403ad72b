"""Lay out linear layers' weights once as the CPU's matrix library wants them, and not in every step.

Layers that have adapters beside them (see `mixing`) become one product: what leads out of the adapters lies
beside the weight, and what leads into them beside the inputs. With few rows, calling the library takes as
long as a small product, so it is called once.

Source: torch 2.13, `aten/src/ATen/native/mkldnn/Linear.cpp`, as torch's own inductor uses it when it freezes
a model. The operators are not public; the version is pinned, and the engine's tests hold the answers to plain
`generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn.functional import pad

from inference.engines.transformers.lora_batch import Factors, MixedLinear, ranks_of
from inference.models.hardware import multiplies_bf16

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from inference.engines.transformers.lora_batch import Mix

ROWS_HINT: Final = 8
"""The layout is chosen for this many rows; it serves any number."""


class PackedLinear(nn.Module):
    """Multiply by a packed weight, as `nn.Linear` does by a plain one.

    Args:
        weight: (outputs, inputs), packed.
        bias: (outputs,), if there is one.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        # Not as a parameter: it is opaque, and nothing but the multiplication may look at it.
        self._weight = weight
        self._bias = bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the product with rows (..., inputs)."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(  # noqa: SLF001 - see the module
            rows, self._weight, self._bias, "none", [], ""
        )
        return product

    # Called for every product, and hooked by nobody: what a module does about hooks takes as long as a small
    # operator.
    __call__ = forward


class PackedMixedLinear(nn.Module):
    """Multiply by a packed weight, with what each row's own adapter adds.

    Args:
        weight: (outputs, inputs + columns): the weight, and what leads out of the adapters.
        bias: (outputs,), if there is one.
        down: What leads into the adapters, (columns, inputs).
        ranks: How many of the columns each adapter has.
        mix: Which adapter each row asks for.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        ranks: tuple[int, ...],
        mix: Mix,
    ) -> None:
        super().__init__()
        self._product = PackedLinear(pack_weight(weight), bias)
        self._down = PackedLinear(pack_weight(down), None)
        self._ranks = ranks
        self._mix = mix

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) for rows (..., inputs)."""
        is_foreign = self._mix.is_foreign(self._ranks, rows.device)
        if is_foreign is None:
            return self._product(pad(rows, (0, sum(self._ranks))))
        return self._product(torch.cat([rows, self._down(rows).masked_fill_(is_foreign, 0)], -1))

    # As above.
    __call__ = forward


def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Return whether this machine's matrix library multiplies packed weights of a type."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bf16())


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """Lay out a plain weight, (outputs, inputs), as the matrix library wants it."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS_HINT)  # noqa: SLF001 - see the module
    return packed


def pack_layers(
    layers: Sequence[nn.Linear | MixedLinear], orders: Sequence[torch.Tensor | slice] = ()
) -> PackedLinear | PackedMixedLinear:
    """Pack layers that have the same inputs as one, whose outputs are theirs side by side.

    Args:
        layers: Of one mix, if any are mixed.
        orders: How the outputs of each head of each are to lie; none leaves them as they are.
    """
    orders = orders or [slice(None)] * len(layers)
    mixed = [layer for layer in layers if isinstance(layer, MixedLinear)]
    linears = [layer.original if isinstance(layer, MixedLinear) else layer for layer in layers]
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
    if not mixed:
        return PackedLinear(pack_weight(weight), bias)
    adapters = mixed[0].adapters
    factors = {
        number: _join(number, layers, orders)
        for number in range(1, adapters + 1)
        if any(number in layer.factors for layer in mixed)
    }
    wide = torch.cat([weight, *(each.up.to(weight.dtype) for each in factors.values())], 1)
    down = torch.cat([each.down for each in factors.values()]).to(weight.dtype)
    return PackedMixedLinear(wide, bias, down, ranks_of(factors, adapters), mixed[0].mix)


def pack(networks: Iterable[nn.Module]) -> None:
    """Replace the linear layers of some networks in place; a weight that they share is packed once.

    It is packed again where adapters lie beside it. Each plain weight is let go before the next is packed, so
    that a large model is not in memory twice.
    """
    plain: dict[int, list[tuple[nn.Module, str, nn.Linear]]] = {}
    mixed: list[tuple[nn.Module, str]] = []
    for network in networks:
        for module in network.modules():
            if isinstance(module, MixedLinear):
                continue
            for name, child in module.named_children():
                if isinstance(child, MixedLinear):
                    mixed.append((module, name))
                elif type(child) is nn.Linear:
                    plain.setdefault(id(child.weight), []).append((module, name, child))
    for module, name in mixed:
        setattr(module, name, pack_layers([getattr(module, name)]))
    for found in plain.values():
        weight = pack_weight(found[0][2].weight.detach())
        for module, name, child in found:
            setattr(module, name, PackedLinear(weight, child.bias))
        found.clear()


def _join(
    number: int, layers: Sequence[nn.Linear | MixedLinear], orders: Sequence[torch.Tensor | slice]
) -> Factors:
    """Join an adapter's factors in some layers: the first ones below each other, the second as blocks."""
    downs: list[torch.Tensor] = []
    blocks: list[torch.Tensor] = []
    for layer, order in zip(layers, orders, strict=True):
        factors = layer.factors.get(number) if isinstance(layer, MixedLinear) else None
        if factors is None:
            blocks.append(torch.empty(layer.out_features, 0))
        else:
            downs.append(factors.down)
            blocks.append(_reorder(factors.up, order).float())
    up: torch.Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return Factors(torch.cat(downs), up)


def _reorder(tensor: torch.Tensor, order: torch.Tensor | slice) -> torch.Tensor:
    """Put the rows of each head in an order; a head has as many rows as the order."""
    if isinstance(order, slice):
        return tensor
    return tensor.view(-1, len(order), *tensor.shape[1:])[:, order].flatten(0, 1)

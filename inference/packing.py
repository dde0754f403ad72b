"""Lay out linear layers' weights once as the CPU's matrix library wants them, and not in every step.

Source: torch 2.13, `aten/src/ATen/native/mkldnn/Linear.cpp`, as torch's own inductor uses it when it freezes
a model. The operators are not public; the version is pinned, and the engine's tests hold the answers to plain
`generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from inference.hardware import multiplies_bf16

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def can_pack(device: str, dtype: torch.dtype) -> bool:
    """Return whether this machine's matrix library multiplies packed weights of a type."""
    if device != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and multiplies_bf16())


def pack_weight(weight: torch.Tensor) -> torch.Tensor:
    """Lay out a plain weight, (outputs, inputs), as the matrix library wants it."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS_HINT)  # noqa: SLF001 - see the module
    return packed


def pack(networks: Iterable[nn.Module]) -> None:
    """Replace the plain linear layers of some networks in place; a weight that they share is packed once.

    Each plain weight is let go before the next is packed, so that a large model is not in memory twice.
    """
    places: dict[int, list[tuple[nn.Module, str, nn.Linear]]] = {}
    for network in networks:
        for module in network.modules():
            for name, child in module.named_children():
                if type(child) is nn.Linear:
                    places.setdefault(id(child.weight), []).append((module, name, child))
    for found in places.values():
        weight = pack_weight(found[0][2].weight)
        for module, name, child in found:
            setattr(module, name, PackedLinear(weight, child.bias))
        found.clear()

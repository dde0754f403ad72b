"""Compute requests for several LoRA adapters, and for their base, in one batch.

All rows are multiplied by the base's weights together, and each row adds its own adapter's low-rank update.
The `lora_a` and `lora_b` weights of all adapters of a layer are concatenated, so a layer takes two more
products, however many adapters there are. Between the two, the columns that belong to other adapters than the
row's are set to zero. `packing` has a variant for CPUs with only one more product.

A row's adapter cannot be seen in its tokens. The sampler, which the manager calls before each step with the
step's requests, passes their adapters to the `LoraBatch`, which all layers of a network read.

S-LoRA and Punica describe this kind of serving; they gather each row's weights, where this module masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn.functional import linear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NO_ADAPTER: Final = 0
"""The adapter id of rows for the base itself; adapters have the ids from 1 on."""

MAX_TOKEN_ID: Final = 2**31 - 1
"""The largest token id that the manager's tensors hold. Source: transformers 5.23, `input_outputs.py`."""

Ranks = tuple[tuple[int, int], ...]
"""The id of each adapter that changes a layer, and its rank there, by ascending id."""


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """One adapter's update of one linear layer: `lora_b @ lora_a` is added to the layer's weight.

    Attributes:
        lora_a: (rank, inputs), in the precision of the adapter's file.
        lora_b: (outputs, rank), times the adapter's scale.
    """

    lora_a: torch.Tensor
    lora_b: torch.Tensor


class LoraBatch:
    """The adapter of each row of the current step, shared by all layers of a network.

    Args:
        vocab_size: The number of token ids that the network has embeddings for.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._runs: tuple[tuple[int, int], ...] = ()
        self._masks: dict[Ranks, torch.Tensor | None] = {}

    @property
    def max_adapter_id(self) -> int:
        """Return the largest id that a prompt can be tagged with."""
        return MAX_TOKEN_ID // self._vocab_size - 1

    def begin_step(self, runs: Sequence[tuple[int, int]]) -> None:
        """Set the adapters of a step's rows, as runs of (adapter id, number of consecutive rows)."""
        self._runs = tuple(runs)
        self._masks.clear()

    def tag_prefix(self, token_ids: Sequence[int], adapter_id: int) -> list[int]:
        """Return a prompt whose first token identifies the adapter as well.

        Prompts with the same prefix share its cached keys and values, which differ between adapters. So
        the adapter is encoded in the first token's id, above the vocabulary; `strip_tag` removes it.
        """
        first, *others = token_ids
        return [first + adapter_id * self._vocab_size, *others]

    def strip_tag(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the network's own token ids for tagged or untagged ones, of the same shape."""
        return token_ids % self._vocab_size

    def mask(self, ranks: Ranks, device: torch.device) -> torch.Tensor | None:
        """Return which columns of a layer's `lora_a` product to set to zero, (rows, columns).

        These are the columns of other adapters than the row's own. None if no row has an adapter in the
        layer.

        Args:
            ranks: The adapters that change the layer.
            device: The layer's device, which is the same for all layers.
        """
        if ranks not in self._masks:
            self._masks[ranks] = self._make_mask(ranks, device)
        return self._masks[ranks]

    def _make_mask(self, ranks: Ranks, device: torch.device) -> torch.Tensor | None:
        known = {adapter_id for adapter_id, _ in ranks}
        if not any(adapter_id in known for adapter_id, _ in self._runs):
            return None
        owners = [adapter_id for adapter_id, rank in ranks for _ in range(rank)]
        row_ids = [adapter_id for adapter_id, count in self._runs for _ in range(count)]
        return (torch.tensor(row_ids).unsqueeze(1) != torch.tensor(owners)).to(device)


class BatchedLoraLinear(nn.Module):
    """A linear layer that adds each row's own adapter's update to the product that all rows share.

    Args:
        base_layer: The layer without these adapters.
        weights: The weights of the adapters that change it, by adapter id; not empty.
        lora_batch: The adapter of each row.
        dtype: The type that the network computes in.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        weights: Mapping[int, LoraWeights],
        lora_batch: LoraBatch,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.weights = dict(weights)
        self.lora_batch = lora_batch
        self._dtype = dtype
        self._ranks = adapter_ranks(weights)

    @property
    def out_features(self) -> int:
        """Return the number of outputs."""
        return next(iter(self.weights.values())).lora_b.shape[0]

    @cached_property
    def _side_by_side(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all adapters' `lora_a` and transposed `lora_b`. Packing has no use for them."""
        ordered = [self.weights[adapter_id] for adapter_id, _ in self._ranks]
        lora_a = torch.cat([each.lora_a for each in ordered]).to(self._dtype)
        return lora_a, torch.cat([each.lora_b.t() for each in ordered]).to(self._dtype)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) for rows (..., inputs)."""
        product: torch.Tensor = self.base_layer(rows)
        mask = self.lora_batch.mask(self._ranks, rows.device)
        if mask is None:
            return product
        lora_a, lora_b = self._side_by_side
        inner = linear(rows, lora_a).masked_fill_(mask, 0)
        # In place: nothing else refers to the product yet.
        product.view(-1, product.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), lora_b)
        return product


def adapter_ranks(weights: Mapping[int, LoraWeights]) -> Ranks:
    """Return the ranks of a layer's adapters."""
    return tuple((adapter_id, weights[adapter_id].lora_a.shape[0]) for adapter_id in sorted(weights))


def inject_lora_layers(network: Any, adapters: Sequence[Mapping[str, LoraWeights]]) -> LoraBatch:  # noqa: ANN401 - transformers publishes no types
    """Replace, in place, the layers that adapters change, so that the network serves them beside its base.

    Args:
        network: The base.
        adapters: Each adapter's weights by the layer's name; the adapters get the ids from 1 on.
    """
    lora_batch = make_lora_batch(network)
    for name in dict.fromkeys(name for adapter in adapters for name in adapter):
        weights = {
            adapter_id: adapter[name] for adapter_id, adapter in enumerate(adapters, 1) if name in adapter
        }
        layer = network.get_submodule(name)
        batched = BatchedLoraLinear(layer, weights, lora_batch, network.dtype)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, batched)
    return lora_batch


def make_lora_batch(network: Any) -> LoraBatch:  # noqa: ANN401 - see above
    """Return the batch of a network, whose embeddings from now on accept tagged prompts."""
    embeddings = network.get_input_embeddings()
    lora_batch = LoraBatch(embeddings.weight.shape[0])
    embeddings.register_forward_pre_hook(lambda _module, inputs: (lora_batch.strip_tag(inputs[0]),))
    return lora_batch

"""Compute requests for several LoRA adapters, and for their base, in one batch.

All of them multiply by the base's weights together, and each row adds what its own adapter adds to them:
the product with two thin factors. The factors of all adapters of a layer lie side by side, so that a layer
takes two products more, however many adapters there are; what of the first product belongs to another row's
adapter is struck out before the second. `packing` has a form of it for a CPU, with one product more.

Which adapter a row asks for is not to be seen in its tokens. The sampler, which the manager tells about each
step's requests, tells the `Mix`, and all layers of a network look there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn.functional import linear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BASE: Final = 0
"""The number of the base in a mix; its adapters have those from 1 on."""


@dataclass(frozen=True, slots=True)
class Factors:
    """Hold what an adapter adds to one linear layer: `up @ down`.

    Attributes:
        down: (rank, inputs), in the precision of the adapter's file.
        up: (outputs, rank), times the adapter's scale.
    """

    down: torch.Tensor
    up: torch.Tensor


class Mix:
    """Say which adapter each row of a step asks for; the same for all layers of a network.

    Args:
        tokens: How many token ids the network knows.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._runs: tuple[tuple[int, int], ...] = ()
        self._foreign: dict[tuple[int, ...], torch.Tensor | None] = {}

    def begin_step(self, runs: Sequence[tuple[int, int]]) -> None:
        """Take note of a step's rows: of the number that they ask for, and how many do, one after another."""
        self._runs = tuple(runs)
        self._foreign.clear()

    def mark(self, token_ids: Sequence[int], number: int) -> list[int]:
        """Return a prompt that no other adapter's is like, whatever they say.

        Prompts that begin alike share what is cached of them, and keys and values are an adapter's own. So
        the first token says whose it is, above all that the network knows; `unmark` takes it off.
        """
        first, *others = token_ids
        return [first + number * self._tokens, *others]

    def unmark(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return token ids as the network knows them, of the same shape."""
        return token_ids % self._tokens

    def is_foreign(self, ranks: tuple[int, ...], device: torch.device) -> torch.Tensor | None:
        """Return which columns of a layer's factors are not each row's own, (rows, columns).

        None where no row has any of its own.

        Args:
            ranks: How many columns each adapter has in the layer, in the order of their numbers.
            device: Where the layer is; all layers are in one place.
        """
        if ranks not in self._foreign:
            self._foreign[ranks] = self._find_foreign(ranks, device)
        return self._foreign[ranks]

    def _find_foreign(self, ranks: tuple[int, ...], device: torch.device) -> torch.Tensor | None:
        if not any(number != BASE and ranks[number - 1] for number, _ in self._runs):
            return None
        owners = [number for number, rank in enumerate(ranks, BASE + 1) for _ in range(rank)]
        numbers = [number for number, count in self._runs for _ in range(count)]
        return (torch.tensor(numbers).unsqueeze(1) != torch.tensor(owners)).to(device)


class MixedLinear(nn.Module):
    """Multiply by a weight that all rows share, and add what each row's own adapter adds.

    Args:
        original: The layer without adapters.
        factors: Those of the adapters that change it, by their numbers; not empty.
        mix: Which adapter each row asks for.
        adapters: How many there are in the mix.
        dtype: What the network computes in.
    """

    def __init__(
        self,
        original: nn.Linear,
        factors: Mapping[int, Factors],
        mix: Mix,
        adapters: int,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.original = original
        self.factors = dict(factors)
        self.mix = mix
        self.adapters = adapters
        present = [factors[number] for number in sorted(factors)]
        self._ranks = ranks_of(factors, adapters)
        self._down = torch.cat([each.down for each in present]).to(dtype)
        self._up = torch.cat([each.up.t() for each in present]).to(dtype)

    @property
    def out_features(self) -> int:
        """Return how many outputs there are."""
        return self._up.shape[1]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., outputs) for rows (..., inputs)."""
        product: torch.Tensor = self.original(rows)
        is_foreign = self.mix.is_foreign(self._ranks, rows.device)
        if is_foreign is None:
            return product
        inner = linear(rows, self._down).masked_fill_(is_foreign, 0)
        # Into the product, which nobody else has seen yet.
        product.view(-1, product.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), self._up)
        return product


def ranks_of(factors: Mapping[int, Factors], adapters: int) -> tuple[int, ...]:
    """Return how many columns each adapter has, in the order of their numbers, from 1 on."""
    return tuple(
        factors[number].down.shape[0] if number in factors else 0 for number in range(1, adapters + 1)
    )


def mix_in(network: Any, adapters: Sequence[Mapping[str, Factors]]) -> Mix:  # noqa: ANN401 - transformers publishes no types
    """Make a network, in place, answer as itself and as its adapters.

    Args:
        network: The base.
        adapters: What each adds to which layer, by the layer's name; they get the numbers from 1 on.
    """
    embeddings = network.get_input_embeddings()
    mix = Mix(embeddings.weight.shape[0])
    embeddings.register_forward_pre_hook(lambda _module, inputs: (mix.unmark(inputs[0]),))
    for name in dict.fromkeys(name for adapter in adapters for name in adapter):
        factors = {
            number: adapter[name] for number, adapter in enumerate(adapters, BASE + 1) if name in adapter
        }
        mixed = MixedLinear(network.get_submodule(name), factors, mix, len(adapters), network.dtype)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, mixed)
    return mix

"""Add LoRA adapters to a network that serves requests, and remove them.

The base's weights may be packed by then (see `packing`), so an adapter is added beside a product as a second,
small one: `lora_batch.BatchedLoraLinear`. Adapters that were there at the start of a packed network are part
of its weights; once removed, no row uses their columns, and a restart drops them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from inference.engines.transformers.fused import FusedDecoderLayer
from inference.engines.transformers.lora_batch import BatchedLoraLinear, LoraWeights
from inference.engines.transformers.packing import PackedLinear, PackedLoraLinear, Part, join
from inference.errors import LoadError, RestartRequiredError
from inference.models.merging import find_lora_obstacle, read_layer_updates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from inference.engines.transformers.lora_batch import LoraBatch
    from inference.models.weights import Adapter

LINEAR_LAYERS: Final = (nn.Linear, PackedLinear, PackedLoraLinear, BatchedLoraLinear)


@dataclass(frozen=True, slots=True)
class Product:
    """A product of a network that adapters can be added to.

    Attributes:
        owner: The module that computes it.
        attribute: The owner's attribute with the layer.
        parts: The linear layers of the original network that it stands for.
    """

    owner: nn.Module
    attribute: str
    parts: tuple[Part, ...]


class LiveAdapters:
    """The adapters of a network that serves requests.

    `add` and `remove` are called between the network's steps, by the thread that computes them.

    Args:
        network: The base's network, in its final form.
        lora_batch: The adapter of each row.
        count: The number of adapters that it was loaded with; they have the ids from 1 on.
    """

    def __init__(self, network: Any, lora_batch: LoraBatch, count: int) -> None:  # noqa: ANN401 - transformers publishes no types
        self._dtype: torch.dtype = network.dtype
        self._device: torch.device = network.device
        self._lora_batch = lora_batch
        self._last_id = count
        self._products = list(find_products(network))
        self._outputs = {part.name: part.outputs for each in self._products for part in each.parts}
        self._bases = [_without_adapters(product) for product in self._products]
        self._weights = [_adapters_beside(product) for product in self._products]

    def read(self, adapter: Adapter) -> dict[str, LoraWeights]:
        """Read an adapter's weights by the names of the layers. Takes a moment; from any thread.

        Raises:
            RestartRequiredError: If it is more than low-rank updates of linear layers, which needs a network
                of its own.
            LoadError: If its weights are too large for the network's type.
        """
        obstacle = find_lora_obstacle(adapter)
        updates = {} if obstacle else read_layer_updates(adapter)
        other = next((name for name in updates if name not in self._outputs), None)
        if other is not None:
            obstacle = f"the adapter {adapter.name} changes {other}, which is not a linear layer"
        if obstacle:
            raise RestartRequiredError(f"{obstacle}, and gets a network of its own when the server starts")
        weights = {
            name: LoraWeights(
                update.lora_a.to(self._device, self._dtype),
                (update.lora_b * update.scaling).to(self._device, self._dtype),
            )
            for name, update in updates.items()
        }
        for name, each in weights.items():
            if not (each.lora_a.isfinite().all() and each.lora_b.isfinite().all()):
                dtype = str(self._dtype).removeprefix("torch.")
                raise LoadError(
                    f"the adapter {adapter.name} cannot be applied: its weights for the layer {name} are too"
                    f" large for {dtype}"
                )
        return weights

    def add(self, weights: Mapping[str, LoraWeights]) -> int:
        """Add an adapter, and return its id. Ids are never used again: the cache knows prompts by them.

        Raises:
            RestartRequiredError: If there are no more ids.
        """
        if self._last_id >= self._lora_batch.max_adapter_id:
            raise RestartRequiredError(f"{self._last_id} adapters have been loaded since the server started")
        self._last_id += 1
        for index, product in enumerate(self._products):
            own = {part.name: weights[part.name] for part in product.parts if part.name in weights}
            if own:
                self._weights[index][self._last_id] = join(product.parts, own)
                self._install(index)
        return self._last_id

    def remove(self, adapter_id: int) -> None:
        """Remove an adapter that no running request uses."""
        for index, weights in enumerate(self._weights):
            if weights.pop(adapter_id, None) is not None:
                self._install(index)

    def _install(self, index: int) -> None:
        product, base, weights = self._products[index], self._bases[index], self._weights[index]
        layer = BatchedLoraLinear(base, weights, self._lora_batch, self._dtype) if weights else base
        setattr(product.owner, product.attribute, layer)


def find_products(network: nn.Module) -> Iterator[Product]:
    """Find the products that linear layers of a network have become."""
    seen: set[nn.Module] = set()
    for name, module in network.named_modules():
        if module in seen:
            continue
        prefix = f"{name}." if name else ""
        if isinstance(module, FusedDecoderLayer):
            seen.update(module.modules())
            for attribute, parts in module.products.items():
                yield Product(
                    module, attribute, tuple(replace(part, name=prefix + part.name) for part in parts)
                )
            continue
        for attribute, child in module.named_children():
            if isinstance(child, LINEAR_LAYERS):
                seen.update(child.modules())
                yield Product(module, attribute, (Part(prefix + attribute, child.out_features),))


def _without_adapters(product: Product) -> nn.Module:
    layer: nn.Module = getattr(product.owner, product.attribute)
    return layer.base_layer if isinstance(layer, BatchedLoraLinear) else layer


def _adapters_beside(product: Product) -> dict[int, LoraWeights]:
    layer: nn.Module = getattr(product.owner, product.attribute)
    return dict(layer.weights) if isinstance(layer, BatchedLoraLinear) else {}

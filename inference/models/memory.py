"""Estimate the memory of weights and caches before anything is loaded, and suggest what would fit.

Loading takes minutes for a large model, and the process crashes when memory runs out. Pure: sizes come from
the headers of the files, and the free memory from `hardware.detect_hardware`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from inference.errors import LoadError
from inference.models.disk import in_mib
from inference.models.hardware import CACHE_SHARE, MIN_CACHE_TOKENS, PAGE_TOKENS, Placement
from inference.models.weights import EMBEDDING_KEYS, read_base_shapes, stored_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from inference.models.hardware import Hardware
    from inference.models.weights import Adapter, Shapes, Weights

HEAD_KEYS: Final = ("lm_head.weight", "embed_out.weight")

QUANTIZED_BYTES: Final = {"nf4": 0.516, "int8": 1.0}
"""Bytes a number. nf4 takes half a byte, one more for 64 numbers, and four more for 256 of those."""

PEFT_LORA_BYTES: Final = 4
"""Bytes a number of an adapter that PEFT applies to quantised weights: it keeps `lora_a` and `lora_b` in
float32."""

LORA_PADDING_FACTOR: Final = 3
"""The maximum factor by which zeros enlarge the `lora_b` of unmerged adapters, where layers with the same
inputs are packed into one."""

PACKED_TOGETHER: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers with the same inputs, which are packed as one on a CPU: a network that changes one copies all
of them. Source: `engines/transformers/fused.py`."""


@dataclass(frozen=True, slots=True)
class AdapterSize:
    """The size of an adapter, as counts of numbers.

    Attributes:
        layers: In the layers that it changes: merging copies each of them.
        embeddings: In the embeddings that it replaces.
        own: In its own file.
        is_batchable: Whether it can stay unmerged in the base's network.
        packed: In the layers that it changes and those that are packed with them, which a CPU copies.
        tied: In those of its embeddings that are the weights of the output layer too. On a CPU the latter has
            a packed copy.
    """

    layers: int
    embeddings: int
    own: int
    is_batchable: bool = False
    packed: int = 0
    tied: int = 0


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The size of a base and its adapters, as counts of numbers.

    Attributes:
        parameters: The base's weights; 0 if unknown.
        embeddings: Those of them that quantisation leaves unchanged.
        adapters: The adapters that are served with it.
        token: The keys and values of one token in all layers.
        batched: The layers that batchable adapters change, and those that are packed with them. On a CPU the
            base's network has copies of them with the adapters, and the other networks share plain ones.
        tied: As for an adapter.
    """

    parameters: int
    embeddings: int
    adapters: tuple[AdapterSize, ...]
    token: int
    batched: int = 0
    tied: int = 0


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """The memory that a model needs, in bytes.

    Attributes:
        caches: The memory that has to be free after loading for the key-value caches.
    """

    base: int
    adapters: int
    caches: int

    @property
    def total(self) -> int:
        """Return the sum."""
        return self.base + self.adapters + self.caches


def measure(weights: Weights, token: int) -> ModelSize:
    """Read the sizes of weights from the headers of their files.

    Args:
        weights: The base and the adapters to serve.
        token: The count of numbers in one token's keys and values in all layers.

    Raises:
        LoadError: If a file does not have the format that its name implies.
    """
    shapes = read_base_shapes(weights.base)
    parameters = sum(map(math.prod, shapes.values())) or stored_bytes(weights.base) // 2
    embeddings = _count(shapes, EMBEDDING_KEYS + HEAD_KEYS)
    adapters = tuple(measure_adapter(adapter, shapes) for adapter in weights.adapters)
    batchable = (adapter.shapes for adapter in weights.adapters if adapter.is_batchable)
    batched = _count_packed(chain.from_iterable(batchable), shapes)
    tied = 0 if any(key.endswith(HEAD_KEYS) for key in shapes) else _count(shapes, EMBEDDING_KEYS)
    return ModelSize(parameters, embeddings, adapters, token, batched, tied)


def measure_adapter(adapter: Adapter, base: Shapes) -> AdapterSize:
    """Return the size of an adapter.

    A pair of `lora_a` (rank, inputs) and `lora_b` (outputs, rank) changes a layer of inputs times outputs.

    Args:
        adapter: The adapter, with the shapes of its tensors.
        base: The shapes of the base's tensors.
    """
    layers = embeddings = 0
    has_head = False
    for key, shape in adapter.shapes.items():
        if ".lora_A" in key:
            layers += shape[-1] * adapter.shapes.get(key.replace(".lora_A", ".lora_B"), (0,))[0]
        elif ".lora_embedding_A" in key:
            layers += shape[-1] * adapter.shapes.get(key.replace("_A", "_B"), (0,))[0]
        elif "lora_" not in key:
            embeddings += math.prod(shape)
            has_head |= key.endswith(HEAD_KEYS)
    tied = 0
    if adapter.embedding_rows is not None and not has_head:
        if any(key.endswith(HEAD_KEYS) for key in base):
            # An output layer that is not tied to the embeddings is resized with them.
            embeddings *= 2
        else:
            tied = embeddings
    own = sum(map(math.prod, adapter.shapes.values()))
    packed = _count_packed(adapter.shapes, base)
    return AdapterSize(layers, embeddings, own, adapter.is_batchable, packed, tied)


def estimate(size: ModelSize, placement: Placement, wanted_tokens: int | None) -> MemoryEstimate:
    """Estimate the memory that a model needs.

    Args:
        size: The model's size.
        placement: Where and how it is loaded.
        wanted_tokens: The size of each key-value cache; None is the minimum that is useful.
    """
    itemsize = _itemsize(placement)
    share = CACHE_SHARE[placement.device] if wanted_tokens is None else 1.0
    cache_tokens = (wanted_tokens or MIN_CACHE_TOKENS) * count_networks(size, placement)
    caches = int(cache_tokens * size.token * itemsize / share)
    if placement.quantization == "none":
        base = size.parameters * itemsize
    else:
        quantized = size.parameters - size.embeddings
        base = int(quantized * QUANTIZED_BYTES[placement.quantization]) + size.embeddings * itemsize
    adapters = sum(_adapter_bytes(adapter, placement) for adapter in size.adapters)
    if placement.device == "cpu":
        base += size.tied * itemsize
        unmerged = sum(_stays_unmerged(adapter, placement) for adapter in size.adapters)
        if 0 < unmerged < len(size.adapters):
            adapters += size.batched * itemsize
    return MemoryEstimate(base, adapters, caches)


def count_networks(size: ModelSize, placement: Placement) -> int:
    """Return the number of networks, each with a cache: the base's, and one for each adapter not in it."""
    return 1 + sum(not _stays_unmerged(adapter, placement) for adapter in size.adapters)


def fits(hardware: Hardware, placement: Placement, size: ModelSize, wanted_tokens: int | None) -> bool:
    """Return whether a model fits; true if its size is unknown."""
    return size.parameters == 0 or _fits(_free_bytes(hardware, placement), placement, size, wanted_tokens)


def fitting_cache_tokens(free: int, placement: Placement, size: ModelSize) -> int:
    """Return the number of tokens for each key-value cache in what loading leaves of the free bytes."""
    need = estimate(size, placement, None)
    cache_bytes = CACHE_SHARE[placement.device] * (free - need.base - need.adapters)
    token = size.token * _itemsize(placement) * count_networks(size, placement)
    return max(0, int(cache_bytes / token)) // PAGE_TOKENS * PAGE_TOKENS


def check_memory(
    hardware: Hardware, placement: Placement, size: ModelSize, wanted_tokens: int | None
) -> None:
    """Check that a model fits, unless its size is unknown.

    Raises:
        LoadError: If it does not fit. The message suggests what would.
    """
    if fits(hardware, placement, size, wanted_tokens):
        return
    free, need = _free_bytes(hardware, placement), estimate(size, placement, wanted_tokens)
    where = hardware.gpu_name if placement.device == "cuda" else "this machine"
    count = len(size.adapters)
    parts = [f"the base {in_mib(need.base)}"]
    if count:
        parts.append(f"{count} adapter{'s' if count > 1 else ''} {in_mib(need.adapters)}")
    parts.append(f"key-value caches {'of that size ' if wanted_tokens else 'at least '}{in_mib(need.caches)}")
    raise LoadError(
        f"the model does not fit: it needs {in_mib(need.total)} ({', '.join(parts)}), and {in_mib(free)} are"
        f" free on {where}; {'; or '.join(_remedies(free, placement, size, wanted_tokens))}"
    )


def _remedies(free: int, placement: Placement, size: ModelSize, wanted_tokens: int | None) -> list[str]:
    """Return suggestions that would make it fit, those with the smallest loss first."""
    remedies = []
    cache_tokens = fitting_cache_tokens(free, placement, size)
    if wanted_tokens is not None and cache_tokens >= MIN_CACHE_TOKENS:
        remedies.append(f"set FJARR_KV_CACHE_TOKENS={cache_tokens} or less")
    fitting = [
        count
        for count in range(1, len(size.adapters))
        if _fits(free, placement, replace(size, adapters=size.adapters[:count]), wanted_tokens)
    ]
    if fitting:
        remedies.append(f"name the first {fitting[-1]} of the adapters alone in FJARR_ADAPTER")
    for setting, smaller in _smaller_forms(placement):
        if _fits(free, smaller, size, wanted_tokens):
            need = estimate(size, smaller, wanted_tokens)
            remedies.append(
                f"set {setting}, which needs {in_mib(need.total)} and has room for caches of"
                f" {fitting_cache_tokens(free, smaller, size)} tokens"
            )
    what = "a card" if placement.device == "cuda" else "a machine"
    return [*remedies, f"take a smaller model, or {what} with more memory"]


def _smaller_forms(placement: Placement) -> list[tuple[str, Placement]]:
    """Return the settings that make weights smaller, each with the resulting placement."""
    forms = []
    unmerged = replace(placement, merge_adapters=False)
    if placement.merge_adapters:
        forms.append(("FJARR_MERGE_ADAPTERS=off", unmerged))
    if placement.dtype == "float32":
        forms.append(("FJARR_DTYPE=bfloat16", replace(placement, dtype="bfloat16")))
    if placement.device == "cuda" and placement.quantization == "none":
        forms.append(("FJARR_QUANTIZATION=int8", replace(unmerged, quantization="int8")))
    if placement.device == "cuda" and placement.quantization != "nf4":
        forms.append(("FJARR_QUANTIZATION=nf4", replace(unmerged, quantization="nf4")))
    return forms


def _fits(free: int, placement: Placement, size: ModelSize, wanted_tokens: int | None) -> bool:
    return estimate(size, placement, wanted_tokens).total <= free


def _free_bytes(hardware: Hardware, placement: Placement) -> int:
    return hardware.gpu_free_bytes if placement.device == "cuda" else hardware.cpu_free_bytes


def _stays_unmerged(adapter: AdapterSize, placement: Placement) -> bool:
    return adapter.is_batchable and not placement.merge_adapters


def _adapter_bytes(adapter: AdapterSize, placement: Placement) -> int:
    itemsize = _itemsize(placement)
    if _stays_unmerged(adapter, placement):
        return adapter.own * LORA_PADDING_FACTOR * itemsize
    if placement.device == "cpu":
        return (max(adapter.layers, adapter.packed) + adapter.embeddings + adapter.tied) * itemsize
    if placement.quantization == "none":
        return (adapter.layers + adapter.embeddings) * itemsize
    return adapter.own * PEFT_LORA_BYTES + adapter.embeddings * itemsize


def _count_packed(keys: Iterable[str], base: Shapes) -> int:
    """Count the numbers in the base's layers that an adapter's tensors change, and those packed with them."""
    names = {key.partition(".lora_")[0].removeprefix("base_model.model.") for key in keys if ".lora_" in key}
    packed = {each for name in names for each in _packed_together(name)}
    return sum(math.prod(base.get(f"{name}.weight", (0,))) for name in packed)


def _packed_together(name: str) -> tuple[str, ...]:
    parent, _, layer = name.rpartition(".")
    others = next((product for product in PACKED_TOGETHER if layer in product), (layer,))
    return tuple(f"{parent}.{other}" for other in others)


def _count(shapes: Shapes, endings: tuple[str, ...]) -> int:
    return sum(math.prod(shape) for key, shape in shapes.items() if key.endswith(endings))


def _itemsize(placement: Placement) -> int:
    return 4 if placement.dtype == "float32" else 2

"""Reckon what weights and caches need of memory before anything is loaded, and say what would fit.

Loading takes minutes for a large model, and ends in a crash where memory ends. Pure: sizes come from the
headers of the files, and the memory from `hardware.look`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from inference.errors import LoadError
from inference.models.hardware import CACHE_SHARE, LEAST_CACHE_TOKENS, PAGE_TOKENS, Placement
from inference.models.weights import EMBEDDING_KEYS, read_base_shapes, stored_bytes

if TYPE_CHECKING:
    from inference.models.hardware import Hardware
    from inference.models.weights import Adapter, Shapes, Weights

HEAD_KEYS: Final = ("lm_head.weight", "embed_out.weight")

QUANTIZED_BYTES: Final = {"nf4": 0.516, "int8": 1.0}
"""Bytes a number. nf4 has half a byte, one more for 64 numbers, and four more for 256 of those."""

UNMERGED_BYTES: Final = 4
"""PEFT keeps the factors of an adapter that is not merged in float32."""

MIXED_SHARE: Final = 3
"""Where layers with the same inputs are one, mixed factors are filled up with zeros to at most so much."""


@dataclass(frozen=True, slots=True)
class AdapterSize:
    """Say how many numbers an adapter takes.

    Attributes:
        layers: Of the layers that it changes: merging needs a copy of each.
        embeddings: Of the embeddings that it replaces.
        factors: Of its own file, which stay beside the base where it is not merged.
        is_mixable: Whether it needs no tree of its own where it is not merged.
    """

    layers: int
    embeddings: int
    factors: int
    is_mixable: bool = False


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Say how many numbers the weights and a token's keys and values have.

    Attributes:
        parameters: The base's weights; 0 where they are not known.
        embeddings: Those of them that quantisation leaves as they are.
        adapters: Those that are served beside it.
        token: Keys and values of one token in all layers.
    """

    parameters: int
    embeddings: int
    adapters: tuple[AdapterSize, ...]
    token: int


@dataclass(frozen=True, slots=True)
class Need:
    """Say how much memory a model needs, in bytes.

    Attributes:
        caches: What has to be free after loading for the key-value caches.
    """

    base: int
    adapters: int
    caches: int

    @property
    def total(self) -> int:
        """Return all of it."""
        return self.base + self.adapters + self.caches


def measure(weights: Weights, token: int) -> ModelSize:
    """Read how large weights are, from the headers of their files.

    Args:
        weights: What is to be served.
        token: How many numbers a token's keys and values have in all layers.

    Raises:
        LoadError: If a file is not what its name says.
    """
    shapes = read_base_shapes(weights.base)
    parameters = sum(map(math.prod, shapes.values())) or stored_bytes(weights.base) // 2
    embeddings = _count(shapes, EMBEDDING_KEYS + HEAD_KEYS)
    adapters = tuple(measure_adapter(adapter, shapes) for adapter in weights.adapters)
    return ModelSize(parameters, embeddings, adapters, token)


def measure_adapter(adapter: Adapter, base: Shapes) -> AdapterSize:
    """Count an adapter's numbers.

    A pair of factors `(rank, inputs)` and `(outputs, rank)` is a layer of inputs times outputs.

    Args:
        adapter: What its file says.
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
    if adapter.embedding_rows is not None and not has_head and any(key.endswith(HEAD_KEYS) for key in base):
        # A head of its own that is not tied to the embeddings grows with them.
        embeddings *= 2
    factors = sum(map(math.prod, adapter.shapes.values()))
    return AdapterSize(layers, embeddings, factors, adapter.is_mixable)


def reckon(size: ModelSize, placement: Placement, wanted_tokens: int | None) -> Need:
    """Return what a model needs that is placed so.

    Args:
        size: How large it is.
        placement: Where and how it is loaded.
        wanted_tokens: The size of each key-value cache; None takes the least that is of use.
    """
    itemsize = _itemsize(placement)
    share = CACHE_SHARE[placement.device] if wanted_tokens is None else 1.0
    cache_tokens = (wanted_tokens or LEAST_CACHE_TOKENS) * trees(size, placement)
    caches = int(cache_tokens * size.token * itemsize / share)
    if placement.quantization == "none":
        base = size.parameters * itemsize
    else:
        quantized = size.parameters - size.embeddings
        base = int(quantized * QUANTIZED_BYTES[placement.quantization]) + size.embeddings * itemsize
    return Need(base, sum(_adapter_bytes(adapter, placement) for adapter in size.adapters), caches)


def trees(size: ModelSize, placement: Placement) -> int:
    """Return how many trees of modules there will be, each with a cache: the base's, and some adapters'."""
    return 1 + sum(not _is_mixed(adapter, placement) for adapter in size.adapters)


def fits(hardware: Hardware, placement: Placement, size: ModelSize, wanted_tokens: int | None) -> bool:
    """Return whether a model fits, as far as its size is known."""
    return size.parameters == 0 or _fits(_free_bytes(hardware, placement), placement, size, wanted_tokens)


def room_tokens(free: int, placement: Placement, size: ModelSize) -> int:
    """Return how many tokens each key-value cache holds in what loading leaves of some free bytes."""
    need = reckon(size, placement, None)
    room = CACHE_SHARE[placement.device] * (free - need.base - need.adapters)
    token = size.token * _itemsize(placement) * trees(size, placement)
    return max(0, int(room / token)) // PAGE_TOKENS * PAGE_TOKENS


def check_memory(
    hardware: Hardware, placement: Placement, size: ModelSize, wanted_tokens: int | None
) -> None:
    """Do nothing if a model fits, or if its size is not known.

    Raises:
        LoadError: If it does not fit. The message says what would.
    """
    if fits(hardware, placement, size, wanted_tokens):
        return
    free, need = _free_bytes(hardware, placement), reckon(size, placement, wanted_tokens)
    where = hardware.gpu_name if placement.device == "cuda" else "this machine"
    count = len(size.adapters)
    parts = [f"the base {_mib(need.base)}"]
    if count:
        parts.append(f"{count} adapter{'s' if count > 1 else ''} {_mib(need.adapters)}")
    parts.append(f"key-value caches {'of that size ' if wanted_tokens else 'at least '}{_mib(need.caches)}")
    raise LoadError(
        f"the model does not fit: it needs {_mib(need.total)} ({', '.join(parts)}), and {_mib(free)} are free"
        f" on {where}; {'; or '.join(_remedies(free, placement, size, wanted_tokens))}"
    )


def _remedies(free: int, placement: Placement, size: ModelSize, wanted_tokens: int | None) -> list[str]:
    """Return what would make it fit, the least loss first."""
    remedies = []
    room = room_tokens(free, placement, size)
    if wanted_tokens is not None and room >= LEAST_CACHE_TOKENS:
        remedies.append(f"set FJARR_KV_CACHE_TOKENS={room} or less")
    fitting = [
        count
        for count in range(1, len(size.adapters))
        if _fits(free, placement, replace(size, adapters=size.adapters[:count]), wanted_tokens)
    ]
    if fitting:
        remedies.append(f"name the first {fitting[-1]} of the adapters alone in FJARR_ADAPTER")
    for setting, smaller in _smaller_forms(placement):
        if _fits(free, smaller, size, wanted_tokens):
            need = reckon(size, smaller, wanted_tokens)
            remedies.append(
                f"set {setting}, which needs {_mib(need.total)} and has room for caches of"
                f" {room_tokens(free, smaller, size)} tokens"
            )
    what = "a card" if placement.device == "cuda" else "a machine"
    return [*remedies, f"take a smaller model, or {what} with more memory"]


def _smaller_forms(placement: Placement) -> list[tuple[str, Placement]]:
    """Return the settings that make weights smaller, and what comes of each."""
    forms = []
    mixed = replace(placement, are_adapters_merged=False)
    if placement.are_adapters_merged:
        forms.append(("FJARR_MERGE_ADAPTERS=off", mixed))
    if placement.dtype == "float32":
        forms.append(("FJARR_DTYPE=bfloat16", replace(placement, dtype="bfloat16")))
    if placement.device == "cuda" and placement.quantization == "none":
        forms.append(("FJARR_QUANTIZATION=int8", replace(mixed, quantization="int8")))
    if placement.device == "cuda" and placement.quantization != "nf4":
        forms.append(("FJARR_QUANTIZATION=nf4", replace(mixed, quantization="nf4")))
    return forms


def _fits(free: int, placement: Placement, size: ModelSize, wanted_tokens: int | None) -> bool:
    return reckon(size, placement, wanted_tokens).total <= free


def _free_bytes(hardware: Hardware, placement: Placement) -> int:
    return hardware.gpu_free_bytes if placement.device == "cuda" else hardware.cpu_free_bytes


def _is_mixed(adapter: AdapterSize, placement: Placement) -> bool:
    return adapter.is_mixable and not placement.are_adapters_merged


def _adapter_bytes(adapter: AdapterSize, placement: Placement) -> int:
    itemsize = _itemsize(placement)
    if _is_mixed(adapter, placement):
        return adapter.factors * MIXED_SHARE * itemsize
    if placement.quantization == "none":
        return (adapter.layers + adapter.embeddings) * itemsize
    return adapter.factors * UNMERGED_BYTES + adapter.embeddings * itemsize


def _count(shapes: Shapes, endings: tuple[str, ...]) -> int:
    return sum(math.prod(shape) for key, shape in shapes.items() if key.endswith(endings))


def _itemsize(placement: Placement) -> int:
    return 4 if placement.dtype == "float32" else 2


def _mib(size_bytes: int) -> str:
    return f"{math.ceil(size_bytes / 2**20)} MiB"

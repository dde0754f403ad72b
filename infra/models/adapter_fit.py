"""Find out from files whether a PEFT adapter fits its base, before anything is loaded or uploaded.

`infra/models/adapter_fit.py` and `inference/models/adapter_fit.py` are the same file, because the pipeline
and the server never import each other; a test compares them. Imports the standard library only.

Source: PEFT 0.21, `utils/peft_types.py`, `utils/save_and_load.py` and `tuners/lora/layer.py`; the safetensors
format's own description.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from infra.document import load_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PROMPT_KINDS: Final = frozenset({
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE",
    "ADAPTION_PROMPT",
})  # fmt: skip
"""Kinds that add virtual tokens, keys or values to a prompt."""

DEPENDENT_KINDS: Final = frozenset({"POLY", "XLORA", "SHADOW", "LILY"})
"""Kinds whose weights depend on the task or on all tokens of a batch."""

SERVED_KINDS: Final = frozenset({
    "ADALORA", "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA", "GRALORA",
    "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS", "OFT", "OSF", "PEANUT", "PSOFT",
    "PVERA", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA",
    "VERA", "WAVEFT",
})  # fmt: skip
"""Kinds that change the network's weights, the same for every token."""

GENERATING_TASKS: Final = (None, "", "CAUSAL_LM", "FEATURE_EXTRACTION")

OTHER_SHAPE_OPTIONS: Final = (
    "use_qalora",
    "use_bdlora",
    "target_parameters",
    "layer_replication",
    "velora_config",
)
"""Options of a LoRA configuration with which `lora_A` and `lora_B` need not have the layer's shape."""

DEFAULT_RANK: Final = 8
"""The rank of a configuration that names none. Source: PEFT 0.21, `LoraConfig`."""

PREFIX: Final = "base_model.model."
LORA_SUFFIXES: Final = MappingProxyType({".lora_A.weight": ".lora_B.weight"})
EMBEDDING_LORA_SUFFIXES: Final = MappingProxyType({".lora_embedding_A": ".lora_embedding_B"})

LAST_LAYERS: Final = ("lm_head", "embed_out")
"""Layers that a base with tied embeddings has no tensor for."""

CHUNK_BYTES: Final = 1 << 22
LENGTH_BYTES: Final = 8

NON_FINITE: Final[Mapping[str, tuple[int, bytes, int]]] = MappingProxyType({
    "F64": (8, rb"[\x7f\xff]", 0xF0),
    "F32": (4, rb"[\x7f\xff]", 0x80),
    "BF16": (2, rb"[\x7f\xff]", 0x80),
    "F16": (2, rb"[\x7c-\x7f\xfc-\xff]", 0),
    "F8_E5M2": (1, rb"[\x7c-\x7f\xfc-\xff]", 0),
    "F8_E4M3": (1, rb"[\x7f\xff]", 0),
})  # fmt: skip
"""How NaN and infinity look in little-endian numbers: all bits of the exponent are set.

The size of a number in bytes, the values of its last byte with which it can be NaN or infinite, and the bits
of the byte before that are then all set; 0 if the last byte decides.
"""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a safetensors file.

    Attributes:
        dtype: Its type, in the format's spelling, such as `BF16`.
        begin: The offset of its first byte in the file.
        end: The offset after its last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def find_misfit(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    base: Mapping[str, tuple[int, ...]],
) -> str | None:
    """Return what is wrong with an adapter, without a subject or a full stop; None if nothing is.

    Args:
        config: Its `adapter_config.json`.
        shapes: The shapes of its tensors.
        base: The shapes of its base's tensors, as they are before quantisation; empty if they are not known.
    """
    return (
        _kind_problem(config)
        or _rank_setting_problem(config)
        or ("its file has no tensors" if not shapes else None)
        or next(_pair_problems(shapes), None)
        or next(_rank_problems(config, shapes), None)
        or (_base_problem(config, shapes, base) if base else None)
    )


def find_non_finite(path: Path) -> str | None:
    """Return the name of the first tensor with NaN or infinity in a safetensors file; None if there is none.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a complete safetensors file.
    """
    tensors = sorted(read_tensors(path).items(), key=lambda item: item[1].begin)
    with path.open("rb") as file:
        for name, tensor in tensors:
            if tensor.dtype in NON_FINITE and _has_non_finite(file, tensor):
                return name
    return None


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not a complete safetensors file.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > size_bytes - LENGTH_BYTES:
            raise ValueError("it is no safetensors file, or is cut off in its header")
        header = load_json(file.read(length))
    begin = LENGTH_BYTES + length
    try:
        tensors = {
            name: StoredTensor(
                str(entry["dtype"]),
                tuple(entry["shape"]),
                *(begin + offset for offset in entry["data_offsets"]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("it is no safetensors file: its header cannot be read") from error
    if max((tensor.end for tensor in tensors.values()), default=begin) > size_bytes:
        raise ValueError(f"it is cut off: it has {size_bytes} bytes, and its header describes more")
    return tensors


def name_differs(reference: str, base_name: str) -> bool:
    """Return whether an adapter was trained on a base whose name ends otherwise."""
    trained_on = reference.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    is_snapshot = bool(re.search(r"/snapshots/[^/]+/?$", reference))
    return (
        bool(trained_on)
        and not is_snapshot
        and trained_on != base_name.rstrip("/").rpartition("/")[2].lower()
    )


def _kind_problem(config: Mapping[str, Any]) -> str | None:
    kind, task = str(config.get("peft_type") or "").upper(), config.get("task_type")
    problem = None
    if not kind:
        problem = "its adapter_config.json does not name its kind (peft_type)"
    elif kind in PROMPT_KINDS:
        problem = f"it is of the kind {kind}, which adds virtual tokens to the prompt, and is not served"
    elif kind in DEPENDENT_KINDS:
        problem = f"it is of the kind {kind}, whose weights depend on the request, and is not served"
    elif kind not in SERVED_KINDS:
        problem = f"its kind {kind} is not known to PEFT 0.21"
    elif task not in GENERATING_TASKS:
        problem = f"it is for the task {task}, which generates no text (CAUSAL_LM does)"
    elif config.get("alora_invocation_tokens"):
        problem = "it is an activated LoRA (alora_invocation_tokens), which is not served"
    return problem


def _rank_setting_problem(config: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the ranks of a configuration, before they are compared with the tensors'."""
    patterns = config.get("rank_pattern") or {}
    if not isinstance(patterns, dict):
        return "its adapter_config.json has a rank_pattern that is no object"
    for rank in (config.get("r"), *patterns.values()):
        if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool)):
            return f"its adapter_config.json has the rank {rank!r}, which is no whole number"
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            return f"its adapter_config.json has a rank_pattern that is no regular expression: {error}"
    return None


def _pair_problems(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    for suffixes in (LORA_SUFFIXES, EMBEDDING_LORA_SUFFIXES):
        for first, second in [*suffixes.items(), *((value, key) for key, value in suffixes.items())]:
            for key in shapes:
                partner = key.removesuffix(first) + second
                if key.endswith(first) and partner not in shapes:
                    yield f"it has the tensor {key}, and not {partner}"


def _rank_problems(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    if not _is_plain_lora(config):
        return
    for key, first in shapes.items():
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removesuffix(".lora_A.weight")
        second = shapes[module + ".lora_B.weight"]
        wanted = _rank_of(module, config)
        if first[:1] != (wanted,) or second[1:2] != (wanted,):
            yield (
                f"its adapter_config.json says rank {wanted}, and the tensors of {module} have the shapes"
                f" {list(first)} and {list(second)}"
            )


def _is_plain_lora(config: Mapping[str, Any]) -> bool:
    is_lora = str(config.get("peft_type") or "").upper() == "LORA"
    return is_lora and not any(config.get(option) for option in OTHER_SHAPE_OPTIONS)


def _rank_of(module: str, config: Mapping[str, Any]) -> int:
    """Return the rank that the configuration has for a module, by its name or a pattern."""
    patterns = config.get("rank_pattern") or {}
    for pattern, rank in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module.removeprefix(PREFIX)):
            return int(rank)
    rank = config.get("r")
    return DEFAULT_RANK if rank is None else int(rank)


def _base_problem(
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    base: Mapping[str, tuple[int, ...]],
) -> str | None:
    """Return the first tensor that belongs to no layer of the base, or has another size than its layer."""
    modules = _modules_of(base)
    if _is_plain_lora(config):
        if not any(".lora_" in key for key in shapes):
            return f"it has no tensors of a LoRA adapter, such as lora_A, but {next(iter(shapes))}"
        for key, shape in shapes.items():
            if key.endswith((".lora_A.weight", ".lora_B.weight")) and ".experts" not in key:
                problem = _layer_problem(key, shape, modules)
                if problem:
                    return problem
    for key, shape in shapes.items():
        layer = modules.get(key.removeprefix(PREFIX).removesuffix(".weight"))
        if key.endswith(".weight") and layer is not None and layer[1:] != shape[1:]:
            return f"its tensor {key} has the shape {list(shape)}, and that of the base has {list(layer)}"
    numbered = [key for key in shapes if re.search(r"\.\d+\.", key)]
    if numbered and not any(_is_in(key, modules) for key in numbered):
        return f"none of its tensors belongs to a layer of the base, such as {numbered[0]}"
    return None


def _layer_problem(
    key: str, shape: tuple[int, ...], modules: Mapping[str, tuple[int, ...] | None]
) -> str | None:
    module = key[: key.rindex(".lora_")].removeprefix(PREFIX)
    name = next((each for each in (module, _tail(module)) if each in modules), None)
    if name is None:
        is_tied = module.endswith(LAST_LAYERS)
        return None if is_tied else f"its tensors are for the layer {module}, which the base does not have"
    layer = modules[name]
    side, size = ("inputs", shape[-1]) if key.endswith("A.weight") else ("outputs", shape[0])
    # Some layers, such as GPT-2's, store their weight transposed.
    if layer is None or len(layer) != len(shape) or size in layer:
        return None
    return f"its tensor {key} is for {size} {side}, and the weight of that layer has the shape {list(layer)}"


def _is_in(key: str, modules: Mapping[str, object]) -> bool:
    """Return whether a tensor belongs to a numbered module, or to something that the adapter adds to one."""
    names = key.removeprefix(PREFIX).split(".")
    prefixes = (".".join(names[:end]) for end in range(len(names) - 1, 0, -1))
    return any(
        _tail(prefix) in modules or prefix in modules
        for prefix in prefixes
        if re.search(r"\.\d+(?:\.|$)", prefix)
    )


def _modules_of(base: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...] | None]:
    """Return the shapes of the weights of the base's modules, by their names with and without a prefix.

    None stands for a shape that is not known: of a quantised weight, of a module without a weight, and of two
    modules that differ in nothing but their prefix.
    """
    modules: dict[str, tuple[int, ...] | None] = {}
    by_tail: dict[str, set[tuple[int, ...] | None]] = {}
    quantized = {key.partition(".weight.")[0] for key in base if ".weight." in key}
    for key, shape in base.items():
        module, _, tensor = key.rpartition(".")
        if tensor == "weight" and module not in quantized:
            modules[module] = shape
        names = module.split(".")
        for end in range(1, len(names) + 1):
            modules.setdefault(".".join(names[:end]), None)
    for module, known in modules.items():
        by_tail.setdefault(_tail(module), set()).add(known)
    return {tail: next(iter(known)) if len(known) == 1 else None for tail, known in by_tail.items()} | modules


def _tail(module: str) -> str:
    """Return a module's name from its first numbered part on: models prefix it in different ways."""
    match = re.search(r"[^.]+\.\d+(?:\.|$)", module)
    return module[match.start() :] if match else module.rpartition(".")[2]


def _has_non_finite(file: Any, tensor: StoredTensor) -> bool:  # noqa: ANN401 - a binary file
    """Search the last bytes of a tensor's numbers, which are NaN or infinite only with few values of it."""
    size, pattern, mask = NON_FINITE[tensor.dtype]
    file.seek(tensor.begin)
    left = tensor.end - tensor.begin
    while left > 0:
        chunk = file.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise ValueError("it is cut off")
        left -= len(chunk)
        for match in re.finditer(pattern, chunk[size - 1 :: size]):
            if not mask or chunk[match.start() * size + size - 2] & mask == mask:
                return True
    return False

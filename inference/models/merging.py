"""Read a LoRA adapter as updates of the base's tensors, and say whether its files allow that.

Source: PEFT 0.21, `tuners/lora/layer.py` (`get_delta_weight`), `tuners/lora/dora.py` and
`tuners/lora/config.py`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from inference.errors import LoadError
from inference.models.adapter_folders import ADAPTER_CONFIG
from inference.models.weights import (
    ADAPTER_WEIGHTS,
    LORA_KEYS,
    list_base_files,
    read_base_shapes,
    read_header,
    read_json_object,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch

    from inference.models.weights import Adapter, BaseModel, Shapes

UNMERGEABLE_OPTIONS: Final = ("alora_invocation_tokens", "layer_replication", "use_bdlora", "arrow_config")
"""Options of PEFT's configuration for adapters that are more than a sum of low-rank updates."""

UNSUPPORTED_BY_VLLM: Final = ("use_dora", "modules_to_save", "lora_bias")
"""Further options that vLLM rejects."""

WEIGHT_PRESERVING_INITS: Final = ("gaussian", "orthogonal", "eva")
"""The named values of `init_lora_weights` that leave the base's weights unchanged."""

MAGNITUDE: Final = "lora_magnitude_vector"
"""DoRA's vector: the length of each row of the merged weight."""

DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The types of safetensors that can be merged into."""


@dataclass(frozen=True, slots=True)
class Update:
    """A low-rank update of one tensor of the base: `scaling * lora_b @ lora_a`.

    Attributes:
        lora_a: (rank, inputs), in float32.
        lora_b: (outputs, rank), in float32.
        is_transposed: Whether the base stores the tensor as (inputs, outputs).
        magnitude: (outputs,): DoRA's length of each row of the sum; None without DoRA.
    """

    lora_a: torch.Tensor
    lora_b: torch.Tensor
    scaling: float
    is_transposed: bool
    magnitude: torch.Tensor | None

    def apply(self, rows: torch.Tensor, start: int) -> torch.Tensor:
        """Return a block of a tensor's rows with the update, in float32; `start` is its first row."""
        end = start + rows.shape[0]
        if self.is_transposed:
            return rows + self.scaling * (self.lora_b @ self.lora_a[:, start:end]).T
        total = rows + self.scaling * (self.lora_b[start:end] @ self.lora_a)
        if self.magnitude is None:
            return total
        lengths: torch.Tensor = (self.magnitude[start:end] / total.norm(dim=1)).unsqueeze(1)
        return total * lengths


def find_merge_obstacle(base: BaseModel, adapter: Adapter) -> str:
    """Return why an adapter cannot be merged into a copy of the base's files; empty if it can.

    Raises:
        LoadError: If a file cannot be read.
    """
    return next(_merge_obstacles(base, adapter), "")


def find_lora_obstacle(adapter: Adapter) -> str:
    """Return why vLLM cannot apply an adapter beside the base's weights; empty if it can.

    Source: vLLM 0.32, `lora/peft_helper.py`; it does not read `init_lora_weights`.

    Raises:
        LoadError: If the adapter's configuration cannot be read.
    """
    config = read_json_object(adapter.folder / ADAPTER_CONFIG)
    if adapter.embedding_rows is not None:
        return f"the adapter {adapter.name} carries embeddings"
    if changes_base(config):
        return f"the adapter {adapter.name} changes the base's weights when it is loaded"
    if any(config.get(option) for option in (*UNMERGEABLE_OPTIONS, *UNSUPPORTED_BY_VLLM)):
        return f"the adapter {adapter.name} is more than low-rank updates"
    other = next((key for key in adapter.shapes if not key.endswith(LORA_KEYS)), None)
    if other is not None:
        return f"the adapter {adapter.name} is more than low-rank updates: it has {other}"
    return ""


def changes_base(config: Mapping[str, Any]) -> bool:
    """Return whether loading an adapter with this configuration changes the base's weights."""
    init = config.get("init_lora_weights")
    return isinstance(init, str) and init not in WEIGHT_PRESERVING_INITS


def read_updates(base: BaseModel, adapter: Adapter) -> dict[str, Update]:
    """Read an adapter's updates by the names of the base's tensors.

    Raises:
        LoadError: If the adapter changes a tensor that the base does not have.
    """
    shapes = read_base_shapes(base)
    updates = {}
    for module, update in read_layer_updates(adapter).items():
        name = _find_tensor(module, shapes)
        if name is None:
            raise LoadError(f"the adapter {adapter.name} changes {module}, which {base.name} does not have")
        updates[name] = update
    return updates


def read_layer_updates(adapter: Adapter) -> dict[str, Update]:
    """Read the updates of an adapter without a `find_lora_obstacle` by the names of the layers."""
    from safetensors.torch import load_file  # noqa: PLC0415 - slow to import

    config = read_json_object(adapter.folder / ADAPTER_CONFIG)
    tensors = {key: value.float() for key, value in load_file(adapter.folder / ADAPTER_WEIGHTS).items()}
    updates = {}
    for module, keys in _keys_by_module(tensors).items():
        lora_a, lora_b = tensors[keys["lora_A"]], tensors[keys["lora_B"]]
        magnitude = (
            tensors[keys["lora_magnitude_vector"]].flatten() if "lora_magnitude_vector" in keys else None
        )
        scaling = _scaling(config, module, lora_a.shape[0])
        updates[module] = Update(lora_a, lora_b, scaling, bool(config.get("fan_in_fan_out")), magnitude)
    return updates


def _merge_obstacles(base: BaseModel, adapter: Adapter) -> Iterator[str]:
    if not base.is_local:
        yield f"the base {base.name} is not on the share"
    if not (adapter.folder / ADAPTER_WEIGHTS).is_file():
        yield f"the adapter {adapter.name} is pickled"
    shapes = read_base_shapes(base)
    if not shapes:
        yield f"the base {base.name} is pickled"
    stored = {entry["dtype"] for path in list_base_files(base) for entry in read_header(path)[1].values()}
    if not stored <= set(DTYPES):
        yield f"the base {base.name} is stored quantised"
    yield from _adapter_obstacles(adapter)
    is_transposed = bool(read_json_object(adapter.folder / ADAPTER_CONFIG).get("fan_in_fan_out"))
    for module, keys in _keys_by_module(adapter.shapes).items():
        parts = {part: adapter.shapes[key] for part, key in keys.items()}
        problem = _find_mismatch(parts, _find_tensor(module, shapes), shapes, is_transposed=is_transposed)
        if problem:
            yield f"the adapter {adapter.name} changes {module}, {problem}"


def _adapter_obstacles(adapter: Adapter) -> Iterator[str]:
    config = read_json_object(adapter.folder / ADAPTER_CONFIG)
    if any(config.get(option) for option in UNMERGEABLE_OPTIONS):
        yield f"the adapter {adapter.name} is more than low-rank updates"
    if changes_base(config):
        yield f"the adapter {adapter.name} changes the base's weights when it is loaded"
    for key in adapter.shapes:
        if not key.endswith(LORA_KEYS) and f".{MAGNITUDE}" not in key:
            yield f"the adapter {adapter.name} is more than low-rank updates: it has {key}"


def _find_mismatch(parts: Shapes, name: str | None, shapes: Shapes, *, is_transposed: bool) -> str:
    """Return why an update does not fit a tensor; empty if it does."""
    if name is None:
        return "which no file of the base has"
    if not {"lora_A", "lora_B"} <= parts.keys():
        return "with half an update"
    if is_transposed and MAGNITUDE in parts:
        return "whose rows have lengths, while the weight is transposed"
    (rank, inputs), (outputs, _) = parts["lora_A"], parts["lora_B"]
    fitting = (inputs, outputs) if is_transposed else (outputs, inputs)
    return "" if rank and shapes[name] == fitting else f"which has the shape {shapes[name]}, not {fitting}"


def _keys_by_module(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the keys of an adapter's tensors by the module they change, then by their part, as `lora_A`."""
    found: dict[str, dict[str, str]] = {}
    for key in sorted(keys):
        module, _, part = key.removeprefix("base_model.model.").partition(".lora_")
        found.setdefault(module, {})["lora_" + part.partition(".")[0]] = key
    return found


def _find_tensor(module: str, shapes: Shapes) -> str | None:
    """Return the name of a module's weight in the base's files.

    A file may lack the first part of the network's own name, such as `transformer.`, or have one more.
    """
    name = f"{module}.weight"
    if name in shapes:
        return name
    similar = [key for key in shapes if key.endswith(f".{name}") or name.endswith(f".{key}")]
    return similar[0] if len(similar) == 1 else None


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)

"""Check a folder of weights on this machine before its upload.

Only files that a server loads are uploaded: safetensors, JSON, text and tokenizer files at the top of the
folder. Pickles, code and everything else are left out. All problems of a folder are reported at once.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from infra.document import load_json
from infra.errors import UsageError
from infra.models.adapter_fit import find_misfit, find_non_finite, name_differs, read_tensors
from infra.models.safetensors_header import SafetensorsError, check_safetensors
from infra.share.names import unusable_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from infra.document import Json

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
BASE_KEY: Final = "base_model_name_or_path"
MODEL_CACHE: Final = "model-cache"
MODELS: Final = "models"

_SERVED_SUFFIXES: Final = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken"})
_PICKLE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
_IN_CACHE: Final = re.compile(rf"(?:^|/){MODEL_CACHE}/([^/]+)/([^/]+)/?$")
_IN_HUB_CACHE: Final = re.compile(r"(?:^|/)models--([^/]+?)--([^/]+)/snapshots/[^/]+/?$")
_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


@dataclass(frozen=True, slots=True)
class WeightFolder:
    """A folder of weights on this machine.

    Attributes:
        folder: Its path.
        files: The files to upload, sorted by name.
        left_out: The names of pickles, which are not uploaded.
    """

    folder: Path
    files: tuple[Path, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on this machine, and its configuration."""

    weights: WeightFolder
    config: dict[str, Json]

    @property
    def base(self) -> str:
        """Return the base model that the configuration names."""
        return str(self.config[BASE_KEY])

    def config_for(self, base_id: str) -> bytes:
        """Return the configuration for a share that has the base under this id.

        If the server can find the base by the configured name, the file is returned unchanged; a path of this
        machine is replaced by one that is relative to the mount.
        """
        place = f"{MODEL_CACHE}/{base_id}"
        if self.base in (base_id, place):
            return (self.weights.folder / ADAPTER_CONFIG).read_bytes()
        return (json.dumps(self.config | {BASE_KEY: place}, indent=2) + "\n").encode()


def read_adapter(folder: Path) -> Adapter:
    """Read and check a folder with an adapter: its files, its kind, its tensors, and that they are numbers.

    Raises:
        UsageError: The adapter cannot be served; the details list all problems.
    """
    weights = _read_folder(folder)
    config, problems = _read_config(folder / ADAPTER_CONFIG)
    if not problems and not isinstance(config.get(BASE_KEY), str):
        problems.append(f"{ADAPTER_CONFIG} does not name its base model ({BASE_KEY})")
    problems += _weight_problems(weights)
    problems += [] if problems else _adapter_problems(folder, config)
    if problems:
        raise UsageError(
            f"{folder} is not an adapter that can be served", details=tuple(problems), hint=_hint(weights)
        )
    return Adapter(weights, config)


def check_fit(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], base: str) -> None:
    """Check that an adapter's tensors belong to layers of a base model, and have their sizes.

    Args:
        adapter: The adapter.
        shapes: The shapes of the base model's tensors; nothing is checked without any.
        base: The base model's folder or id.

    Raises:
        UsageError: The adapter was trained on another base model.
    """
    problem = find_misfit(adapter.config, _shapes_of(adapter.weights.folder), shapes)
    if problem is not None:
        raise UsageError(
            f"{adapter.weights.folder} does not fit the base model {base}",
            details=(problem,),
            hint=f"it was trained on {adapter.base}: push that with --base",
        )


def differs_in_name(adapter: Adapter, base_id: str) -> bool:
    """Return whether an adapter names another base model than the one that it is pushed with."""
    return name_differs(adapter.base, base_id)


def read_base(folder: Path) -> WeightFolder:
    """Read and check a folder with a base model.

    Raises:
        UsageError: The base model cannot be served; the details list all problems.
    """
    weights = _read_folder(folder)
    _, problems = _read_config(folder / "config.json")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        problems.append(f"it has no tokenizer ({', '.join(_TOKENIZER_FILES)})")
    problems += _weight_problems(weights)
    problems += _missing_shards(weights)
    if problems:
        what = f"{folder} is not a base model that can be served"
        raise UsageError(what, details=tuple(problems), hint=_hint(weights))
    return weights


def base_id_of(folder: Path) -> str:
    """Return a base model's id from its folder: `<org>/<name>` from the path, else `local/<folder>`."""
    path = folder.resolve().as_posix()
    match = _IN_CACHE.search(path) or _IN_HUB_CACHE.search(path)
    return f"{match[1]}/{match[2]}" if match else f"local/{_safe_name(folder.resolve().name)}"


def base_id_in(name: str) -> str | None:
    """Return the id that a base model's name or path contains, or None if it contains none."""
    match = _IN_CACHE.search(name)
    if match:
        return f"{match[1]}/{match[2]}"
    return name if _HUB_ID.match(name) else None


def adapter_name_of(folder: Path) -> str:
    """Return an adapter's name from its folder, or from the parent of a folder that is called `adapter`."""
    path = folder.resolve()
    return _safe_name(path.parent.name if path.name == "adapter" else path.name)


def _safe_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


def _read_folder(folder: Path) -> WeightFolder:
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    names = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return WeightFolder(
        folder,
        tuple(path for path in names if path.suffix in _SERVED_SUFFIXES),
        tuple(path.name for path in names if path.suffix in _PICKLE_SUFFIXES),
    )


def _read_config(path: Path) -> tuple[dict[str, Json], list[str]]:
    try:
        document: Json = load_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, [f"{path.name} is missing"]
    except (OSError, ValueError) as error:
        return {}, [f"{path.name} cannot be read: {error}"]
    return (document, []) if isinstance(document, dict) else ({}, [f"{path.name} is not a JSON object"])


def _weight_problems(weights: WeightFolder) -> list[str]:
    unusable = unusable_names(PurePosixPath(path.name) for path in weights.files)
    return [*unusable, *_tensor_problems(weights)]


def _tensor_problems(weights: WeightFolder) -> list[str]:
    tensors = [path for path in weights.files if path.suffix == ".safetensors"]
    if not tensors:
        return ["it has no weights (*.safetensors)"]
    problems = []
    for path in tensors:
        try:
            check_safetensors(path)
        except SafetensorsError as error:
            problems.append(f"{path.name}: {error}")
    return problems


def _adapter_problems(folder: Path, config: dict[str, Json]) -> list[str]:
    """Return what is wrong with an adapter whose files are complete, as far as it shows without its base."""
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        return [f"it has no {ADAPTER_WEIGHTS}, the only file that a server loads an adapter from"]
    problem = find_misfit(config, _shapes_of(folder), {})
    if problem is not None:
        return [problem]
    tensor = find_non_finite(file)
    return [] if tensor is None else [f"its tensor {tensor} has NaN or infinity: was the training stable?"]


def _shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in read_tensors(folder / ADAPTER_WEIGHTS).items()}


def _missing_shards(weights: WeightFolder) -> list[str]:
    """Return a message for each file that the index lists and that is missing."""
    index = weights.folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    document, problems = _read_config(index)
    shards = document.get("weight_map")
    wanted = {str(name) for name in shards.values()} if isinstance(shards, dict) else set()
    there = {path.name for path in weights.files}
    return problems + [f"{name} is missing, which {index.name} lists" for name in sorted(wanted - there)]


def _hint(weights: WeightFolder) -> str | None:
    has_tensors = any(path.suffix == ".safetensors" for path in weights.files)
    if weights.left_out and not has_tensors:
        return f"{weights.left_out[0]} is a pickle, which can run code: save it again as safetensors"
    return None

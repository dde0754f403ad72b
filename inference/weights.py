"""Find the base model and the adapter on the share, and read what their files say. Loads nothing.

The layout is the fine-tuning step's: base models under `model-cache/<org>/<name>`, adapters in folders with
an `adapter_config.json` anywhere under `models`. Olive leaves several adapters behind, checkpoints among
them: the one meant can be named, and the newest folder named `adapter` is a good guess.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from inference.errors import LoadError

MODEL_CACHE: Final = "model-cache"
MODELS: Final = "models"
ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
EMBEDDING_KEYS: Final = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
MAX_HEADER_BYTES: Final = 100_000_000
"""Source: the safetensors format, which allows no longer header."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """Say where the base is.

    Attributes:
        name: What clients call it, such as `HuggingFaceTB/SmolLM2-135M-Instruct`.
        source: A folder, or a hub id when nothing of that name is on the share.
    """

    name: str
    source: str

    @property
    def is_local(self) -> bool:
        """Return whether it is a folder here."""
        return Path(self.source).is_dir()


@dataclass(frozen=True, slots=True)
class Adapter:
    """Say where an adapter is and what its files say.

    Attributes:
        name: What clients call it.
        base_reference: The base as the adapter's training named it: a path relative to the mount, or a hub
            id.
        embedding_rows: Rows of the embeddings that the adapter carries; None when it carries none.
        has_tokenizer: Whether a tokenizer lies beside it, with the tokens that the training added.
    """

    name: str
    folder: Path
    base_reference: str
    embedding_rows: int | None
    has_tokenizer: bool


@dataclass(frozen=True, slots=True)
class Weights:
    """Hold what was found: a base, and perhaps an adapter for it."""

    base: BaseModel
    adapter: Adapter | None


def find_weights(mount: Path, base_reference: str | None, adapter_path: str | None) -> Weights:
    """Find what to serve.

    Args:
        mount: The share.
        base_reference: What the settings say about the base; None takes the adapter's own.
        adapter_path: The adapter's folder relative to the mount; None takes the newest.

    Raises:
        LoadError: If there is nothing to serve, or it is not in a form that is loaded.
    """
    folder = _named_adapter(mount, adapter_path) if adapter_path else find_newest_adapter(mount)
    adapter = read_adapter(mount, folder) if folder else None
    reference = base_reference or (adapter.base_reference if adapter else None)
    if not reference:
        raise LoadError(
            f"there is nothing to serve: no adapter under {mount / MODELS}, and FJARR_BASE_MODEL is not set"
            " (push weights with: invoke push)"
        )
    return Weights(find_base(mount, reference), adapter)


def find_newest_adapter(mount: Path) -> Path | None:
    """Return the newest folder named `adapter` that has a configuration, or None."""
    configs = list((mount / MODELS).glob(f"**/adapter/{ADAPTER_CONFIG}"))
    if not configs:
        return None
    return max(configs, key=lambda path: (path.stat().st_mtime, str(path))).parent


def read_adapter(mount: Path, folder: Path) -> Adapter:
    """Read an adapter's configuration and the header of its weights.

    Raises:
        LoadError: If the configuration cannot be read, or the weights are not safetensors.
    """
    config = _read_json(folder / ADAPTER_CONFIG)
    shapes = read_shapes(_safetensors_of(folder))
    rows = [shape[0] for key, shape in shapes.items() if key.endswith(EMBEDDING_KEYS) and "lora_" not in key]
    return Adapter(
        name=_adapter_name(mount, folder),
        folder=folder,
        base_reference=str(config.get("base_model_name_or_path") or ""),
        embedding_rows=max(rows, default=None),
        has_tokenizer=(folder / "tokenizer_config.json").is_file(),
    )


def find_base(mount: Path, reference: str) -> BaseModel:
    """Find a base by a path relative to the mount, by its id under `model-cache`, or take it for a hub id.

    Raises:
        LoadError: If the folder has no safetensors, or nothing of that name is here and it cannot be a hub
        id.
    """
    relative = PurePosixPath(reference)
    for folder in (mount / relative, mount / MODEL_CACHE / relative):
        if (folder / "config.json").is_file():
            _check_base_folder(folder)
            return BaseModel(_base_name(mount, folder), str(folder))
    if relative.is_absolute() or len(relative.parts) != 2 or relative.parts[0] in {"..", MODEL_CACHE}:  # noqa: PLR2004 - org and name
        raise LoadError(
            f"the base model {reference!r} is not on the share: there is no config.json in"
            f" {mount / relative} or {mount / MODEL_CACHE / relative} (push it with: invoke push)"
        )
    return BaseModel(reference, reference)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a safetensors file's tensors, from its header alone.

    Raises:
        LoadError: If it is not such a file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                raise LoadError(f"{path} is not a safetensors file: its header would have {length} bytes")
            header = json.loads(file.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise LoadError(f"{path} cannot be read as safetensors: {error}") from error
    return {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}


def _named_adapter(mount: Path, adapter_path: str) -> Path:
    for folder in (mount / adapter_path, mount / adapter_path / "adapter"):
        if (folder / ADAPTER_CONFIG).is_file():
            return folder
    raise LoadError(
        f"FJARR_ADAPTER names {adapter_path!r}, but there is no {ADAPTER_CONFIG} in {mount / adapter_path}"
    )


def _safetensors_of(folder: Path) -> Path:
    weights = folder / ADAPTER_WEIGHTS
    if weights.is_file():
        return weights
    pickled = folder / "adapter_model.bin"
    if pickled.is_file():
        raise LoadError(
            f"{pickled} is pickled, and only safetensors are loaded: save the adapter as {ADAPTER_WEIGHTS}"
        )
    raise LoadError(f"the adapter {folder} has no {ADAPTER_WEIGHTS}: was it pushed completely?")


def _check_base_folder(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise LoadError(
            f"the weights in {folder} are pickled, and only safetensors are loaded: convert them first"
        )
    raise LoadError(f"the base model {folder} has no *.safetensors: was it pushed completely?")


def _adapter_name(mount: Path, folder: Path) -> str:
    """Name an adapter by its path under `models`, without the last part if that only says `adapter`."""
    try:
        parts = folder.relative_to(mount / MODELS).parts
    except ValueError:
        parts = folder.parts[-2:]
    if parts[-1] == "adapter" and len(parts) > 1:
        parts = parts[:-1]
    return "/".join(parts)


def _base_name(mount: Path, folder: Path) -> str:
    try:
        return folder.relative_to(mount / MODEL_CACHE).as_posix()
    except ValueError:
        return folder.name


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise LoadError(f"{path} is not a JSON object")
    return document

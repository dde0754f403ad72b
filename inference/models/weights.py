"""Find the base model and the adapters on the share, and read the metadata of their files. Loads no weights.

The layout is that of the fine-tuning step: base models under `model-cache/<org>/<name>`, adapters in folders
with an `adapter_config.json` anywhere under `models`. Olive leaves several adapters there, checkpoints among
them: the settings can name those to serve, and the newest folder named `adapter` is a good default.
"""

from __future__ import annotations

import itertools
import json
import logging
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from inference.errors import LoadError
from inference.models.adapter_fit import find_misfit, find_non_finite, name_differs
from inference.models.adapter_folders import ADAPTER_CONFIG, adapter_name, find_selected
from inference.models.adapter_index import MODELS

LOGGER: Final = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of tensors by name."""

MODEL_CACHE: Final = "model-cache"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
PICKLED_ADAPTER: Final = "adapter_model.bin"
PICKLED_BASES: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""The files that transformers loads. Source: transformers 5.23, `modeling_utils.py`,
`_get_resolved_checkpoint_files`."""

EMBEDDING_KEYS: Final = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
LORA_KEYS: Final = (".lora_A.weight", ".lora_B.weight")
UNBATCHABLE_LAYERS: Final = ("lm_head.", "embed_out.", ".experts.")
"""Layers that process only some of a step's tokens."""
MAX_HEADER_BYTES: Final = 100_000_000
"""The maximum length of a header. Source: the safetensors format."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """A base model, on the share or on the hub.

    Attributes:
        name: Its name in the API, such as `HuggingFaceTB/SmolLM2-135M-Instruct`.
        source: A folder, or a hub id if there is no such folder on the share.
    """

    name: str
    source: str

    @property
    def is_local(self) -> bool:
        """Return whether the source is a folder."""
        return Path(self.source).is_dir()


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter on the share, and the metadata of its files.

    Attributes:
        name: Its name in the API.
        base_reference: The base that its configuration names: a path relative to the mount, or a hub id.
        embedding_rows: The number of rows of the embeddings that it includes; None if it includes none.
        has_tokenizer: Whether its folder has a tokenizer, with the tokens that its training added.
        shapes: The shapes of its tensors.
        config: Its `adapter_config.json`.
    """

    name: str
    folder: Path
    base_reference: str
    embedding_rows: int | None
    has_tokenizer: bool
    shapes: Shapes = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_batchable(self) -> bool:
        """Return whether it is only `lora_A` and `lora_B` of layers that process every token once."""
        return bool(self.shapes) and all(
            key.endswith(LORA_KEYS) and not any(part in key for part in UNBATCHABLE_LAYERS)
            for key in self.shapes
        )


@dataclass(frozen=True, slots=True)
class RejectedAdapter:
    """An adapter that is not served.

    Attributes:
        name: Its name in the API.
        reason: What is wrong with it, as a clause that names the adapter.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Weights:
    """A base and its adapters; the first adapter is the default.

    Attributes:
        rejected: Adapters that would be served too if their files were right.
    """

    base: BaseModel
    adapters: tuple[Adapter, ...] = ()
    rejected: tuple[RejectedAdapter, ...] = ()


def find_weights(
    mount: Path, base_reference: str | None, adapters: str | None, *, allows_pickle: bool = False
) -> Weights:
    """Find the base and the adapters to serve.

    An adapter that cannot be read, or does not fit the base, is rejected; the others are served.

    Args:
        mount: The share.
        base_reference: The base that the settings name; None takes the one that the adapters name.
        adapters: The adapters' folders relative to the mount, separated by commas; `*` selects all, the
            newest first, and None those of the base or, if it is not set, of the newest adapter's base.
        allows_pickle: Whether weights may be pickled.

    Raises:
        LoadError: If there is no base to serve, it is in an unsupported format, or the adapters have
            different bases.
    """
    read = _read_adapters(mount, find_selected(mount, adapters), allows_pickle=allows_pickle)
    reference = base_reference or _common_base(mount, read.bases[:1] if adapters is None else read.bases)
    if not reference:
        missing = "; ".join(each.reason for each in read.rejected) or f"no adapter under {mount / MODELS}"
        raise LoadError(
            f"there is nothing to serve: {missing}, and FJARR_BASE_MODEL is not set (push weights with:"
            " invoke push)"
        )
    base = find_base(mount, reference, allows_pickle=allows_pickle)
    others = dict(_find_others(mount, read.bases, base)) if adapters is None else {}
    found = [adapter for adapter in read.adapters if adapter.name not in others]
    _check_names(base, found)
    _warn_of_other_bases(base, found)
    shapes = read_base_shapes(base)
    problems = {adapter.name: adapter_problem(adapter, shapes) for adapter in found}
    misfits = (
        RejectedAdapter(name, f"the adapter {name} does not fit {base.name}: {problem}")
        for name, problem in problems.items()
        if problem is not None
    )
    return Weights(
        base,
        tuple(adapter for adapter in found if problems[adapter.name] is None),
        (*read.rejected, *(RejectedAdapter(name, reason) for name, reason in others.items()), *misfits),
    )


def adapter_problem(adapter: Adapter, base_shapes: Shapes) -> str | None:
    """Return what is wrong with an adapter's files, by themselves and for a base; None if nothing is.

    Args:
        adapter: The adapter.
        base_shapes: The shapes of the base's tensors; empty if they are not known.
    """
    problem = find_misfit(adapter.config, adapter.shapes, base_shapes)
    file = adapter.folder / ADAPTER_WEIGHTS
    if problem is not None or not file.is_file():
        return problem
    try:
        tensor = find_non_finite(file)
    except (OSError, ValueError) as error:
        return f"{ADAPTER_WEIGHTS} cannot be read: {error}"
    return None if tensor is None else f"its tensor {tensor} has NaN or infinity: was the training stable?"


def read_adapter(mount: Path, folder: Path, *, allows_pickle: bool = False) -> Adapter:
    """Read an adapter's configuration and the shapes of its weights.

    Raises:
        LoadError: If the configuration cannot be read, or the weights are in an unsupported format.
    """
    config = read_json_object(folder / ADAPTER_CONFIG)
    shapes = read_adapter_shapes(folder, allows_pickle=allows_pickle)
    rows = [shape[0] for key, shape in shapes.items() if key.endswith(EMBEDDING_KEYS) and "lora_" not in key]
    return Adapter(
        name=adapter_name(mount, folder),
        folder=folder,
        base_reference=str(config.get("base_model_name_or_path") or ""),
        embedding_rows=max(rows, default=None),
        has_tokenizer=(folder / "tokenizer_config.json").is_file(),
        shapes=shapes,
        config=config,
    )


def read_adapter_shapes(folder: Path, *, allows_pickle: bool) -> Shapes:
    """Return the shapes of an adapter's tensors.

    Raises:
        LoadError: If its weights are missing or in an unsupported format.
    """
    if (folder / ADAPTER_WEIGHTS).is_file():
        return read_shapes(folder / ADAPTER_WEIGHTS)
    pickled = folder / PICKLED_ADAPTER
    if not pickled.is_file():
        raise LoadError(f"the adapter {folder} has no {ADAPTER_WEIGHTS}: was it pushed completely?")
    if not allows_pickle:
        raise LoadError(
            f"{pickled} is pickled, and only safetensors are loaded: save the adapter as {ADAPTER_WEIGHTS},"
            " or set FJARR_ALLOW_PICKLE=on if you trust whoever made it"
        )
    return _read_pickled_shapes(pickled)


def find_base(mount: Path, reference: str, *, allows_pickle: bool = False) -> BaseModel:
    """Find a base by a path relative to the mount or by its id under `model-cache`; else it is a hub id.

    Raises:
        LoadError: If the folder has no weights in a supported format, or there is no such folder and the
            reference cannot be a hub id.
    """
    relative = PurePosixPath(reference)
    for folder in (mount / relative, mount / MODEL_CACHE / relative):
        if (folder / "config.json").is_file():
            _check_base_folder(folder, allows_pickle=allows_pickle)
            return BaseModel(_base_name(mount, folder), str(folder))
    if relative.is_absolute() or len(relative.parts) != 2 or relative.parts[0] in {"..", MODEL_CACHE}:  # noqa: PLR2004 - org and name
        raise LoadError(
            f"the base model {reference!r} is not on the share: there is no config.json in"
            f" {mount / relative} or {mount / MODEL_CACHE / relative} (push it with: invoke push)"
        )
    return BaseModel(reference, reference)


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        LoadError: If it cannot be read or holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise LoadError(f"{path} is not a JSON object")
    return document


def read_shapes(path: Path) -> Shapes:
    """Return the shapes of a safetensors file's tensors, from its header alone.

    Raises:
        LoadError: If it is not a safetensors file.
    """
    return {key: tuple(entry["shape"]) for key, entry in read_header(path)[1].items()}


def read_header(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Return where a safetensors file's data starts, and its tensors by name, in their order in the file.

    Raises:
        LoadError: If it is not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                raise LoadError(f"{path} is not a safetensors file: its header would have {length} bytes")
            header: dict[str, dict[str, Any]] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return 8 + length, dict(sorted(header.items(), key=lambda item: item[1]["data_offsets"]))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise LoadError(f"{path} cannot be read as safetensors: {error}") from error


def read_base_shapes(base: BaseModel) -> Shapes:
    """Return the shapes of a base's tensors; none if it is pickled or on the hub.

    Raises:
        LoadError: If a file is not a safetensors file.
    """
    return {key: shape for file in list_base_files(base) for key, shape in read_shapes(file).items()}


def list_base_files(base: BaseModel) -> tuple[Path, ...]:
    """Return the files of a base's weights; none if it is pickled or on the hub."""
    if not base.is_local:
        return ()
    folder = Path(base.source)
    # Some bases have the same weights a second time in one file with another name.
    return tuple(sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors")))


def stored_bytes(base: BaseModel) -> int:
    """Return the size of a base's weights on disk; 0 if they are on the hub."""
    if not base.is_local:
        return 0
    pattern = "*.bin" if is_pickled(base) else "*.safetensors"
    return sum(path.stat().st_size for path in Path(base.source).glob(pattern))


def is_pickled(base: BaseModel) -> bool:
    """Return whether a base on the share has only pickled weights."""
    return base.is_local and not any(Path(base.source).glob("*.safetensors"))


@dataclass(slots=True)
class _ReadAdapters:
    """The adapters whose folders were selected.

    Attributes:
        adapters: Those that could be read.
        bases: The name of each whose configuration could be read, with the base that it names.
        rejected: Those that could not be read.
    """

    adapters: list[Adapter] = field(default_factory=list)
    bases: list[tuple[str, str]] = field(default_factory=list)
    rejected: list[RejectedAdapter] = field(default_factory=list)


def _read_adapters(mount: Path, folders: Iterable[Path], *, allows_pickle: bool) -> _ReadAdapters:
    read = _ReadAdapters()
    for folder in folders:
        name = adapter_name(mount, folder)
        try:
            config = read_json_object(folder / ADAPTER_CONFIG)
            read.bases.append((name, str(config.get("base_model_name_or_path") or "")))
            read.adapters.append(read_adapter(mount, folder, allows_pickle=allows_pickle))
        except LoadError as error:
            read.rejected.append(RejectedAdapter(name, str(error)))
        except (KeyError, TypeError, IndexError) as error:  # a header without what belongs there
            read.rejected.append(RejectedAdapter(name, f"{folder} cannot be read: {error!r}"))
    return read


def _warn_of_other_bases(base: BaseModel, adapters: Iterable[Adapter]) -> None:
    """Warn of adapters that were trained on another base than they are served with."""
    for adapter in adapters:
        if name_differs(adapter.base_reference, base.name):
            LOGGER.warning(
                "the adapter %s was trained on %s, and is served with %s",
                adapter.name, adapter.base_reference, base.name,
            )  # fmt: skip


def _common_base(mount: Path, adapters: Sequence[tuple[str, str]]) -> str | None:
    """Return the base that adapters name. Two names for one folder count as one base.

    Args:
        mount: The share.
        adapters: The name of each adapter, and that of its base.
    """
    named = [(name, reference) for name, reference in adapters if reference]
    for (one, reference), (other, other_reference) in itertools.pairwise(named):
        if _resolve_base(mount, reference) != _resolve_base(mount, other_reference):
            raise LoadError(
                f"the adapter {one} is for the base {reference} and the adapter {other} for"
                f" {other_reference}, and one server has one base: name those of one base in FJARR_ADAPTER,"
                " or set FJARR_BASE_MODEL if the two are the same"
            )
    return named[0][1] if named else None


def _find_others(
    mount: Path, adapters: Sequence[tuple[str, str]], base: BaseModel
) -> Iterator[tuple[str, str]]:
    """Yield the adapters that are not the newest, and of another base or of its name, and the reason."""
    served = {
        _resolve_base(mount, base.source),
        *(_resolve_base(mount, reference) for _, reference in adapters[:1]),
    }
    for name, reference in adapters[1:]:
        if reference and _resolve_base(mount, reference) not in served:
            yield name, f"the adapter {name} is for the base {reference}, and this server has {base.name}"
        elif name == base.name:
            yield name, f"the adapter {name} has the name of the base"


def _resolve_base(mount: Path, reference: str) -> str:
    folders = (mount / reference, mount / MODEL_CACHE / reference)
    found = next((folder for folder in folders if (folder / "config.json").is_file()), None)
    return str(found.resolve()) if found else reference


def _check_names(base: BaseModel, adapters: Sequence[Adapter]) -> None:
    places: dict[str, object] = {base.name: base.source}
    for adapter in adapters:
        if adapter.name in places:
            raise LoadError(
                f"{places[adapter.name]} and {adapter.folder} would both be served as {adapter.name!r}: name"
                " one of them in FJARR_ADAPTER, or rename a folder"
            )
        places[adapter.name] = adapter.folder


def _read_pickled_shapes(path: Path) -> Shapes:
    import torch  # noqa: PLC0415 - slow to import, and rarely needed here

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    except Exception as error:
        # torch does not document what it raises for a file that is not a pickle of tensors.
        raise LoadError(f"{path} cannot be read as pickled tensors: {error}") from error


def _check_base_folder(folder: Path, *, allows_pickle: bool) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if allows_pickle and any((folder / name).is_file() for name in PICKLED_BASES):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        if allows_pickle:
            raise LoadError(
                f"the weights in {folder} are pickled, and not in {PICKLED_BASES[0]}, the only file of"
                " pickled weights that is loaded: rename the file, or convert it to safetensors"
            )
        raise LoadError(
            f"the weights in {folder} are pickled, and only safetensors are loaded: convert them (load them"
            " where they can do no harm, and save_pretrained writes safetensors), or set"
            " FJARR_ALLOW_PICKLE=on if you trust whoever made them"
        )
    raise LoadError(f"the base model {folder} has no *.safetensors: was it pushed completely?")


def _base_name(mount: Path, folder: Path) -> str:
    try:
        return folder.relative_to(mount / MODEL_CACHE).as_posix()
    except ValueError:
        return folder.name

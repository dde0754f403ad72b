"""Keep copies of a base with an adapter merged, for an engine that loads whole models from a folder.

A copy is made a block of rows at a time, so that memory stays bounded whatever the model's size is, and is
kept under a digest of the base and the adapter: a restart finds it. A copy is complete or not there at all.

Source: the format of safetensors.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import struct
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from inference.models.disk import SPARE_DISK_BYTES
from inference.models.merging import DTYPES, read_updates
from inference.models.weights import list_base_files, read_header
from inference.storage.copying import used_bytes
from inference.storage.manifest import MANIFEST, UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import BinaryIO

    from inference.models.merging import Update
    from inference.models.weights import Adapter, BaseModel

LOGGER: Final = logging.getLogger(__name__)

COPIED_BYTES: Final = 8 * 2**20
"""The size of a block of bytes."""

ROWS_BYTES: Final = 64 * 2**20
"""The size of a block of rows in float32."""

KEPT_S: Final = 7 * 24 * 3600.0
"""A copy that no start has used for this long is deleted."""

PARTIAL: Final = "partial-"
KEPT_PARTIAL_S: Final = 3600.0
"""An incomplete copy of this age was left by a process that was killed."""

TOKENIZER_FILES: Final = (
    "tokenizer",
    "special_tokens_map",
    "added_tokens",
    "vocab",
    "merges",
    "chat_template",
)
"""How the names of a tokenizer's files begin."""

WEIGHT_SUFFIXES: Final = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ckpt")

FORMAT: Final = "1"
"""Part of the digest: changes when the same files would be merged differently."""


def merge_into_copy(  # noqa: PLR0913 - two models, where to, and what limits it
    base: BaseModel,
    adapter: Adapter,
    dtype: str,
    folder: Path,
    *,
    disk_limit_bytes: int | None = None,
    now_s: float | None = None,
) -> Path | None:
    """Return a folder with the merged model, which is made if it is not there yet.

    Args:
        base: The base, in a folder of safetensors.
        adapter: An adapter for which `find_merge_obstacle` found none.
        dtype: The type of the tensors that it changes.
        folder: Where the copies are kept.
        disk_limit_bytes: What the copies may take together; None is what the file system has.
        now_s: The time, in seconds since the epoch; None is the clock's.

    Returns:
        The folder, or None if there is too little space. Copies that were not used for a week are deleted.

    Raises:
        LoadError: If a file cannot be read.
    """
    now_s = time.time() if now_s is None else now_s
    target = folder / compute_digest(base, adapter, dtype)
    if not target.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _delete_unused(folder, now_s)
        need = sum(path.stat().st_size for path in list_base_files(base))
        free = shutil.disk_usage(folder).free
        if disk_limit_bytes is not None:
            free = min(free, disk_limit_bytes - used_bytes(folder))
        if need + SPARE_DISK_BYTES > free:
            LOGGER.warning(
                "the adapter %s is not merged: a copy of %s takes %d MiB, and %d MiB are free in %s, of which"
                " %d are spared (FJARR_MERGE_FOLDER names another folder)",
                adapter.name, base.name, need // 2**20, max(0, free) // 2**20, folder,
                SPARE_DISK_BYTES // 2**20,
            )  # fmt: skip
            return None
        try:
            _make_copy(base, adapter, dtype, target)
        except OSError as error:
            LOGGER.warning("the adapter %s is not merged: %s", adapter.name, error)
            return None
    os.utime(target, (now_s, now_s))
    return target


def compute_digest(base: BaseModel, adapter: Adapter, dtype: str) -> str:
    """Return the digest of a base and an adapter.

    The adapter's files count whole. The base has gigabytes: of its files count the names, sizes, times and
    headers.
    """
    found = hashlib.sha256(f"{FORMAT} {dtype}".encode())
    for path in sorted(adapter.folder.iterdir()):
        if path.is_file():
            found.update(f"{path.name} {path.stat().st_size} ".encode())
            found.update(path.read_bytes())
    for path in (*_copied_files(Path(base.source)), *list_base_files(base)):
        status = path.stat()
        found.update(f"{path.name} {status.st_size} {status.st_mtime_ns} ".encode())
    for path in list_base_files(base):
        found.update(json.dumps(read_header(path)).encode())
    return found.hexdigest()[:32]


def _make_copy(base: BaseModel, adapter: Adapter, dtype: str, target: Path) -> None:
    """Write the copy under a name of its own and rename it when it is complete."""
    partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{target.name}-", dir=target.parent))
    try:
        for path in _copied_files(Path(base.source)):
            shutil.copyfile(path, partial / path.name)
        # Of the tokenizer, the adapter's own is the one that requests are encoded with.
        for path in _copied_files(adapter.folder) if adapter.has_tokenizer else ():
            if path.name.startswith(TOKENIZER_FILES):
                shutil.copyfile(path, partial / path.name)
        updates = read_updates(base, adapter)
        for path in list_base_files(base):
            _merge_file(path, partial / path.name, updates, dtype)
        try:
            partial.rename(target)
        except OSError:
            # Another process has made the same copy.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _merge_file(source: Path, target: Path, updates: Mapping[str, Update], dtype: str) -> None:
    """Copy a safetensors file with the updates of its tensors."""
    with source.open("rb") as reader, target.open("wb") as writer:
        start, entries = read_header(source)
        header, offset = dict[str, Any](), 0
        for name, entry in entries.items():
            first, last = entry["data_offsets"]
            size = last - first
            if name in updates:
                size = math.prod(entry["shape"]) * (4 if dtype == "float32" else 2)
                entry = {**entry, "dtype": _stored_name(dtype)}  # noqa: PLW2901 - the entry of the copy
            header[name] = {**entry, "data_offsets": [offset, offset + size]}
            offset += size
        encoded = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
        # The format wants the data at a multiple of eight bytes.
        encoded += b" " * (-len(encoded) % 8)
        writer.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, entry in entries.items():
            first, last = entry["data_offsets"]
            reader.seek(start + first)
            if name in updates:
                _write_merged(reader, writer, entry, updates[name], dtype)
            else:
                _copy_bytes(reader, writer, last - first)


def _write_merged(
    reader: BinaryIO, writer: BinaryIO, entry: Mapping[str, Any], update: Update, dtype: str
) -> None:
    """Read a tensor a block of rows at a time, and write it with its update."""
    import torch  # noqa: PLC0415 - slow to import

    rows, columns = entry["shape"]
    stored = getattr(torch, DTYPES[entry["dtype"]])
    block = max(1, ROWS_BYTES // (4 * columns))
    for start in range(0, rows, block):
        count = min(block, rows - start)
        data = bytearray(reader.read(count * columns * stored.itemsize))
        tensor = torch.frombuffer(data, dtype=stored).view(count, columns)
        merged = update.apply(tensor.float(), start).to(getattr(torch, dtype)).contiguous()
        writer.write(merged.view(torch.uint8).numpy().tobytes())


def _copy_bytes(reader: BinaryIO, writer: BinaryIO, size: int) -> None:
    while size:
        data = reader.read(min(COPIED_BYTES, size))
        if not data:
            raise OSError(f"{reader.name} is truncated")
        writer.write(data)
        size -= len(data)


def _stored_name(dtype: str) -> str:
    return next(name for name, each in DTYPES.items() if each == dtype)


def _copied_files(folder: Path) -> list[Path]:
    """Return the files of a folder but the weights, in any format, and what `push` keeps for itself."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    left_out = (*WEIGHT_SUFFIXES, *UNFINISHED)
    return [path for path in files if path.suffix not in left_out and path.name != MANIFEST]


def _delete_unused(folder: Path, now_s: float) -> None:
    """Delete copies that no start has used for long, and what a killed process left."""
    for path in folder.iterdir():
        kept_s = KEPT_PARTIAL_S if path.name.startswith(PARTIAL) else KEPT_S
        if path.is_dir() and now_s - path.stat().st_mtime > kept_s:
            LOGGER.info("deleting the merged copy %s, which was not used for long", path.name)
            shutil.rmtree(path, ignore_errors=True)

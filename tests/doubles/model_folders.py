"""Folders with the files of an adapter or a base model, without real weights."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def tensors(text: str = "weights", *, is_adapter: bool = True) -> bytes:
    """Return a safetensors file with a text for its data: a LoRA adapter of rank 1, or a base."""
    data = text.encode()
    tensor = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    entries = {"t.weight": tensor}
    if is_adapter:
        entries = {
            "base_model.model.t.lora_A.weight": tensor | {"shape": [1, len(data)]},
            "base_model.model.t.lora_B.weight": tensor | {"shape": [len(data), 1]},
        }
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
    return len(header).to_bytes(8, "little") + header + data


def make_adapter(folder: Path, base: str = "org/base", text: str = "adapter") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"base_model_name_or_path": base, "peft_type": "LORA", "r": 1}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(tensors(text))
    return folder


def make_base(folder: Path, text: str = "base") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(tensors(text, is_adapter=False))
    return folder

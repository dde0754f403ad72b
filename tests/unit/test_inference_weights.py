from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from inference.errors import LoadError
from inference.hardware import CacheSize, Hardware, Placement, choose, size_cache
from inference.weights import find_base, find_weights, read_shapes

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
PHI = "model-cache/microsoft/Phi-3-mini-4k-instruct"


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def make_base(mount: Path, place: str = PHI) -> Path:
    folder = mount / place
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    write_safetensors(folder / "model.safetensors", {"lm_head.weight": (4, 2)})
    return folder


def make_adapter(
    mount: Path, place: str, base: str = PHI, *, rows: int | None = None, age_s: int = 0
) -> Path:
    folder = mount / place
    folder.mkdir(parents=True)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"}))
    shapes: dict[str, tuple[int, ...]] = {"base_model.model.model.layers.0.q_proj.lora_A.weight": (1, 2)}
    if rows is not None:
        shapes["base_model.model.model.embed_tokens.weight"] = (rows, 2)
    write_safetensors(folder / "adapter_model.safetensors", shapes)
    os.utime(config, (2_000_000_000 - age_s, 2_000_000_000 - age_s))
    return folder


def test_the_newest_adapter_is_taken_and_brings_its_base(tmp_path: Path) -> None:
    make_base(tmp_path)
    make_adapter(tmp_path, "models/old/adapter", age_s=10)
    newest = make_adapter(tmp_path, "models/qlora/qlora/gpu_model/adapter")
    make_adapter(tmp_path, "models/qlora/checkpoint-100", age_s=-10)  # not a folder named adapter
    weights = find_weights(tmp_path, None, None)
    assert weights.adapter is not None
    assert weights.adapter.folder == newest
    assert weights.adapter.name == "qlora/qlora/gpu_model"
    assert weights.base.name == "microsoft/Phi-3-mini-4k-instruct"
    assert weights.base.is_local


@pytest.mark.parametrize("setting", ["models/mine/adapter", "models/mine"])
def test_an_adapter_can_be_named(tmp_path: Path, setting: str) -> None:
    make_base(tmp_path)
    make_adapter(tmp_path, "models/newer/adapter")
    make_adapter(tmp_path, "models/mine/adapter", age_s=10)
    adapter = find_weights(tmp_path, None, setting).adapter
    assert adapter is not None
    assert adapter.name == "mine"


def test_the_base_can_be_named_and_overrules_the_adapter_s(tmp_path: Path) -> None:
    make_base(tmp_path, "model-cache/org/other")
    make_adapter(tmp_path, "models/mine/adapter")
    assert find_weights(tmp_path, "org/other", None).base.name == "org/other"
    assert find_weights(tmp_path, "model-cache/org/other", None).base.name == "org/other"


def test_a_base_alone_is_enough(tmp_path: Path) -> None:
    make_base(tmp_path)
    assert find_weights(tmp_path, PHI, None).adapter is None


def test_what_is_not_on_the_share_may_be_on_the_hub(tmp_path: Path) -> None:
    base = find_base(tmp_path, "org/name")
    assert (base.source, base.is_local) == ("org/name", False)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("model-cache/org/name", "is not on the share"),
        ("/elsewhere/model", "is not on the share"),
        ("justaname", "is not on the share"),
        ("../name", "is not on the share"),
    ],
)
def test_a_base_that_is_nowhere_is_an_error(tmp_path: Path, reference: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        find_base(tmp_path, reference)


def test_nothing_to_serve_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there is nothing to serve"):
        find_weights(tmp_path, None, None)


def test_an_adapter_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="FJARR_ADAPTER names 'models/nope'"):
        find_weights(tmp_path, None, "models/nope")


def test_pickled_adapters_are_refused(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path, "models/mine/adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(LoadError, match="pickled, and only safetensors are loaded"):
        find_weights(tmp_path, None, None)


def test_pickled_bases_are_refused(tmp_path: Path) -> None:
    folder = make_base(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LoadError, match="pickled, and only safetensors are loaded"):
        find_base(tmp_path, PHI)


def test_half_an_upload_is_an_error(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path, "models/mine/adapter")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(LoadError, match="was it pushed completely"):
        find_weights(tmp_path, None, None)


def test_resized_embeddings_are_seen(tmp_path: Path) -> None:
    make_base(tmp_path)
    make_adapter(tmp_path, "models/mine/adapter", rows=32011)
    adapter = find_weights(tmp_path, None, None).adapter
    assert adapter is not None
    assert adapter.embedding_rows == 32011


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 16, struct.pack("<Q", 5) + b"hello"])
def test_a_file_that_is_not_safetensors_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoadError, match="safetensors"):
        read_shapes(path)


CPU_ONLY = Hardware(None, None, 0, 8 * GIB, has_cpu_bf16=True)
OLD_CPU = Hardware(None, None, 0, 8 * GIB, has_cpu_bf16=False)
A100 = Hardware("NVIDIA A100 80GB PCIe", (8, 0), 79 * GIB, 200 * GIB, has_cpu_bf16=True)
T4 = Hardware("Tesla T4", (7, 5), 15 * GIB, 50 * GIB, has_cpu_bf16=False)


@pytest.mark.parametrize(
    ("hardware", "weight_gib", "expected"),
    [
        (CPU_ONLY, 1, Placement("cpu", "bfloat16", "none")),
        (CPU_ONLY, 100, Placement("cpu", "bfloat16", "none")),
        (OLD_CPU, 1, Placement("cpu", "float32", "none")),
        (OLD_CPU, 3, Placement("cpu", "bfloat16", "none")),
        (A100, 14, Placement("cuda", "bfloat16", "none")),
        (A100, 140, Placement("cuda", "bfloat16", "nf4")),
        (T4, 8, Placement("cuda", "float16", "none")),
        (T4, 14, Placement("cuda", "float16", "nf4")),
    ],
)
def test_the_hardware_decides(hardware: Hardware, weight_gib: int, expected: Placement) -> None:
    assert choose(hardware, "auto", "auto", "auto", weight_gib * GIB) == expected


def test_the_settings_have_the_last_word() -> None:
    assert choose(A100, "cpu", "float32", "none", GIB) == Placement("cpu", "float32", "none")
    assert choose(A100, "auto", "float16", "int8", GIB) == Placement("cuda", "float16", "int8")


def test_what_the_machine_cannot_do_is_an_error() -> None:
    with pytest.raises(LoadError, match="no CUDA device"):
        choose(CPU_ONLY, "cuda", "auto", "auto", GIB)
    with pytest.raises(LoadError, match="FJARR_QUANTIZATION=nf4 needs a CUDA device"):
        choose(CPU_ONLY, "auto", "auto", "nf4", GIB)


def test_the_cache_follows_the_memory() -> None:
    assert size_cache("cpu", 16 * GIB, 23040, 2, None) == CacheSize(256, 512)
    assert size_cache("cpu", GIB, 131072, 2, None) == CacheSize(12, 384)
    assert size_cache("cuda", 60 * GIB, 131072, 2, None).tokens == 147456
    assert size_cache("cpu", 16 * GIB, 23040, 2, 1000) == CacheSize(31, 512)


def test_too_little_memory_says_what_to_do() -> None:
    with pytest.raises(LoadError, match="take a smaller model"):
        size_cache("cpu", GIB // 100, 131072, 2, None)

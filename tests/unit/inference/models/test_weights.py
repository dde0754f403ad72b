from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from inference.errors import LoadError
from inference.models.weights import BaseModel, find_base, find_weights, read_base_shapes, read_shapes

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30
BASE_SHAPES: dict[str, tuple[int, ...]] = {"lm_head.weight": (4, 2), "model.layers.0.q_proj.weight": (2, 2)}
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
    write_safetensors(folder / "model.safetensors", BASE_SHAPES)
    return folder


def make_adapter(
    mount: Path, place: str, base: str | None = PHI, *, rows: int | None = None, age_s: int = 0
) -> Path:
    folder = mount / place
    folder.mkdir(parents=True)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA", "r": 1}))
    shapes: dict[str, tuple[int, ...]] = {
        "base_model.model.model.layers.0.q_proj.lora_A.weight": (1, 2),
        "base_model.model.model.layers.0.q_proj.lora_B.weight": (2, 1),
    }
    if rows is not None:
        shapes["base_model.model.model.embed_tokens.weight"] = (rows, 2)
    write_safetensors(folder / "adapter_model.safetensors", shapes)
    os.utime(config, (2_000_000_000 - age_s, 2_000_000_000 - age_s))
    return folder


def test_an_adapter_is_found_where_fine_tuning_leaves_it_and_brings_its_base(tmp_path: Path) -> None:
    make_base(tmp_path)
    newest = make_adapter(tmp_path, "models/qlora/qlora/gpu_model/adapter")
    make_adapter(tmp_path, "models/qlora/checkpoint-100", age_s=-10)  # not a folder named adapter
    weights = find_weights(tmp_path, None, None)
    (adapter,) = weights.adapters
    assert adapter.folder == newest
    assert adapter.name == "qlora/qlora/gpu_model"
    assert weights.base.name == "microsoft/Phi-3-mini-4k-instruct"
    assert weights.base.is_local


@pytest.mark.parametrize("setting", ["models/mine/adapter", "models/mine"])
def test_an_adapter_can_be_named(tmp_path: Path, setting: str) -> None:
    make_base(tmp_path)
    make_adapter(tmp_path, "models/newer/adapter")
    make_adapter(tmp_path, "models/mine/adapter", age_s=10)
    (adapter,) = find_weights(tmp_path, None, setting).adapters
    assert adapter.name == "mine"


def names_of(mount: Path, setting: str | None, base: str | None = None) -> list[str]:
    return [adapter.name for adapter in find_weights(mount, base, setting).adapters]


def test_several_adapters_can_be_named_and_keep_their_order(tmp_path: Path) -> None:
    make_base(tmp_path)
    for name in ("one", "two", "three"):
        make_adapter(tmp_path, f"models/{name}/adapter")
    assert names_of(tmp_path, "models/two,models/one/adapter") == ["two", "one"]


def test_without_a_setting_all_adapters_of_one_base_are_served_the_newest_first(tmp_path: Path) -> None:
    make_base(tmp_path)
    make_adapter(tmp_path, "models/first/adapter", age_s=10)
    make_adapter(tmp_path, "models/second/adapter")
    make_adapter(tmp_path, "models/other/adapter", base="org/other", age_s=20)
    weights = find_weights(tmp_path, None, None)
    assert [adapter.name for adapter in weights.adapters] == ["second", "first"]
    (rejected,) = weights.rejected
    assert rejected.reason == (
        "the adapter other is for the base org/other, and this server has microsoft/Phi-3-mini-4k-instruct"
    )


def test_the_newest_adapter_decides_the_base_and_a_setting_overrides_it(tmp_path: Path) -> None:
    make_base(tmp_path)
    make_base(tmp_path, "model-cache/org/other")
    make_adapter(tmp_path, "models/old/adapter", age_s=10)
    make_adapter(tmp_path, "models/new/adapter", base="org/other")
    weights = find_weights(tmp_path, None, None)
    assert (weights.base.name, [adapter.name for adapter in weights.adapters]) == ("org/other", ["new"])
    assert [adapter.name for adapter in weights.rejected] == ["old"]
    assert find_weights(tmp_path, PHI, None).base.name == "microsoft/Phi-3-mini-4k-instruct"


def test_all_adapters_are_those_named_so_with_the_newest_first(tmp_path: Path) -> None:
    make_base(tmp_path)
    make_adapter(tmp_path, "models/old/adapter", age_s=20)
    make_adapter(tmp_path, "models/new/adapter")
    make_adapter(tmp_path, "models/middle/deep/adapter", age_s=10)
    make_adapter(tmp_path, "models/new/checkpoint-100")
    (tmp_path / "models/half/adapter").mkdir(parents=True)
    assert names_of(tmp_path, "*") == ["new", "middle/deep", "old"]


def test_all_of_no_adapters_leaves_the_base(tmp_path: Path) -> None:
    make_base(tmp_path)
    assert names_of(tmp_path, "*", PHI) == []


def test_adapters_of_two_bases_are_an_error_that_names_both(tmp_path: Path) -> None:
    make_base(tmp_path)
    make_base(tmp_path, "model-cache/org/other")
    make_adapter(tmp_path, "models/one/adapter")
    make_adapter(tmp_path, "models/two/adapter", "org/other")
    with pytest.raises(LoadError) as caught:
        find_weights(tmp_path, None, "models/one,models/two")
    assert str(caught.value) == (
        f"the adapter one is for the base {PHI} and the adapter two for org/other, and one server has one"
        " base: name those of one base in FJARR_ADAPTER, or set FJARR_BASE_MODEL if the two are the same"
    )
    assert names_of(tmp_path, "models/one,models/two", PHI) == ["one", "two"]


def test_two_names_of_one_base_are_one_base(tmp_path: Path) -> None:
    make_base(tmp_path)
    make_adapter(tmp_path, "models/one/adapter")
    make_adapter(tmp_path, "models/two/adapter", "microsoft/Phi-3-mini-4k-instruct")
    make_adapter(tmp_path, "models/three/adapter", None)
    assert names_of(tmp_path, "models/one,models/two,models/three") == ["one", "two", "three"]


def test_two_adapters_of_one_name_are_an_error(tmp_path: Path) -> None:
    make_base(tmp_path)
    one = make_adapter(tmp_path, "models/mine/adapter")
    make_adapter(tmp_path, "models/other/adapter")
    with pytest.raises(LoadError) as caught:
        find_weights(tmp_path, None, "models/mine,models/other,models/mine/adapter")
    assert str(caught.value) == (
        f"{one} and {one} would both be served as 'mine': name one of them in FJARR_ADAPTER, or rename a"
        " folder"
    )


def test_an_adapter_of_the_base_s_name_is_an_error(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    make_adapter(tmp_path, "models/microsoft/Phi-3-mini-4k-instruct/adapter")
    with pytest.raises(LoadError, match=f"{base} and .*/adapter would both be served as 'microsoft/Phi-3"):
        find_weights(tmp_path, None, None)


def test_the_base_can_be_named_and_overrules_the_adapter_s(tmp_path: Path) -> None:
    make_base(tmp_path, "model-cache/org/other")
    make_adapter(tmp_path, "models/mine/adapter")
    assert find_weights(tmp_path, "org/other", None).base.name == "org/other"
    assert find_weights(tmp_path, "model-cache/org/other", None).base.name == "org/other"


def test_a_base_alone_is_enough(tmp_path: Path) -> None:
    make_base(tmp_path)
    assert find_weights(tmp_path, PHI, None).adapters == ()


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
    make_base(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    (rejected,) = find_weights(tmp_path, None, None).rejected
    assert rejected.reason == (
        f"{folder}/adapter_model.bin is pickled, and only safetensors are loaded: save the adapter as"
        " adapter_model.safetensors, or set FJARR_ALLOW_PICKLE=on if you trust whoever made it"
    )


def test_pickled_bases_are_refused(tmp_path: Path) -> None:
    folder = make_base(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LoadError) as caught:
        find_base(tmp_path, PHI)
    assert str(caught.value) == (
        f"the weights in {folder} are pickled, and only safetensors are loaded: convert them (load them where"
        " they can do no harm, and save_pretrained writes safetensors), or set FJARR_ALLOW_PICKLE=on if you"
        " trust whoever made them"
    )
    assert find_base(tmp_path, PHI, allows_pickle=True).source == str(folder)


def test_pickles_that_nothing_would_look_for_are_refused_even_so(tmp_path: Path) -> None:
    folder = make_base(tmp_path)
    (folder / "model.safetensors").rename(folder / "consolidated.pt")
    with pytest.raises(LoadError) as caught:
        find_base(tmp_path, PHI, allows_pickle=True)
    assert str(caught.value) == (
        f"the weights in {folder} are pickled, and not in pytorch_model.bin, the only file of"
        " pickled weights that is loaded: rename the file, or convert it to safetensors"
    )


def test_half_an_upload_is_an_error(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path, "models/mine/adapter")
    make_base(tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    weights = find_weights(tmp_path, None, None)
    assert weights.adapters == ()
    assert "was it pushed completely" in weights.rejected[0].reason


def test_resized_embeddings_are_seen(tmp_path: Path) -> None:
    make_base(tmp_path)
    make_adapter(tmp_path, "models/mine/adapter", rows=32011)
    (adapter,) = find_weights(tmp_path, None, None).adapters
    assert adapter.embedding_rows == 32011


def test_a_base_s_weights_are_counted_once(tmp_path: Path) -> None:
    folder = make_base(tmp_path)
    write_safetensors(folder / "consolidated.safetensors", {"output.weight": (4, 2)})
    assert read_base_shapes(BaseModel("org/name", str(folder))) == BASE_SHAPES
    assert read_base_shapes(BaseModel("org/name", "org/name")) == {}


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 16, struct.pack("<Q", 5) + b"hello"])
def test_a_file_that_is_not_safetensors_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoadError, match="safetensors"):
        read_shapes(path)


def as_header(document: object) -> bytes:
    text = (document if isinstance(document, str) else json.dumps(document)).encode()
    return struct.pack("<Q", len(text)) + text + bytes(64)


LORA_A = "base_model.model.model.layers.0.q_proj.lora_A.weight"
WHOLE = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", b"[" * 100_000),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": "1"}'),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": 1, "rank_pattern": {"(": 1}}'),
        ("adapter_config.json", b'{"peft_type": "LORA", "r": 1, "rank_pattern": [1]}'),
        ("adapter_model.safetensors", as_header('{"a":' * 50_000)),
        ("adapter_model.safetensors", as_header({LORA_A: WHOLE | {"shape": 5}})),
        ("adapter_model.safetensors", as_header({LORA_A: {"dtype": "F32", "data_offsets": [0, 8]}})),
        ("adapter_model.safetensors", as_header({LORA_A: WHOLE | {"shape": []}})),
        ("adapter_model.safetensors", as_header({"model.embed_tokens.weight": WHOLE | {"shape": []}})),
        ("adapter_model.safetensors", as_header({LORA_A: "text"})),
    ],
)
def test_whatever_is_wrong_with_one_adapter_s_files_the_others_are_served(
    tmp_path: Path, name: str, content: bytes
) -> None:
    make_base(tmp_path)
    make_adapter(tmp_path, "models/good/adapter")
    broken = make_adapter(tmp_path, "models/broken/adapter", age_s=60)
    (broken / name).write_bytes(content)
    weights = find_weights(tmp_path, PHI, "*")
    assert [adapter.name for adapter in weights.adapters] == ["good"]
    (rejected,) = weights.rejected
    assert rejected.name == "broken"
    assert rejected.reason

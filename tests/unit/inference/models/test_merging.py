"""Merged copies, compared with PEFT's own merge."""

from __future__ import annotations

import json
import logging
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from inference.models import merged_copies
from inference.models.merged_copies import KEPT_S, compute_digest, merge_into_copy
from inference.models.merging import find_lora_obstacle, find_merge_obstacle
from inference.models.weights import find_base, list_base_files, read_adapter
from tests.doubles.tiny import BASE, load_base, save_adapter, save_base, word_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from inference.models.weights import Adapter, BaseModel

NOW_S = 1_800_000_000.0

pytestmark = [
    pytest.mark.model,
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    save_base(tmp_path, word_tokenizer(64))
    return tmp_path


def found(mount: Path) -> tuple[BaseModel, Adapter]:
    """Return the base and the adapter as they are read, whether or not they fit each other."""
    adapter = read_adapter(mount, mount / "models" / "mine" / "adapter")
    return find_base(mount, adapter.base_reference), adapter


def merged_by_peft(mount: Path) -> dict[str, torch.Tensor]:
    network = PeftModel.from_pretrained(load_base(mount), str(mount / "models" / "mine" / "adapter"))
    merged: dict[str, torch.Tensor] = network.merge_and_unload().state_dict()
    return merged


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
        {"extra": {"use_rslora": True}},
        {"extra": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.v_proj": 32}}},
        {"extra": {"use_dora": True}},
        {"extra": {"init_lora_weights": "gaussian"}},
    ],
    ids=["q and v", "all layers", "rslora", "patterns", "dora", "gaussian"],
)
def test_a_copy_has_the_tensors_that_peft_merges(mount: Path, options: dict[str, Any]) -> None:
    save_adapter(mount, "mine", **options)
    base, adapter = found(mount)
    assert not find_merge_obstacle(base, adapter)
    copy = merge_into_copy(base, adapter, "float32", mount / "merged", now_s=NOW_S)
    assert copy is not None
    expected, before = merged_by_peft(mount), tensors_of(mount / "model-cache" / BASE)
    merged = tensors_of(copy)
    assert merged.keys() == before.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(merged[name], before[name]) for name in merged)
    # transformers and vLLM load it as any model.
    AutoModelForCausalLM.from_pretrained(copy)
    assert (copy / "tokenizer.json").read_bytes() == (
        mount / "model-cache" / BASE / "tokenizer.json"
    ).read_bytes()


def test_a_tensor_is_merged_a_block_of_rows_at_a_time(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_adapter(mount, "mine", extra={"use_dora": True})
    base, adapter = found(mount)
    # Five rows of 32 numbers: the last block is a part of one.
    monkeypatch.setattr(merged_copies, "ROWS_BYTES", 5 * 32 * 4)
    monkeypatch.setattr(merged_copies, "COPIED_BYTES", 100)
    copy = merge_into_copy(base, adapter, "float32", mount / "merged")
    assert copy is not None
    for name, tensor in merged_by_peft(mount).items():
        if name in tensors_of(copy):
            torch.testing.assert_close(tensors_of(copy)[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_base_in_several_files_keeps_its_index(mount: Path) -> None:
    folder = mount / "model-cache" / BASE
    load_base(mount).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    save_adapter(mount, "mine")
    base, adapter = found(mount)
    assert len(list_base_files(base)) > 2
    copy = merge_into_copy(base, adapter, "float32", mount / "merged")
    assert copy is not None
    assert (copy / "model.safetensors.index.json").is_file()
    merged = AutoModelForCausalLM.from_pretrained(copy).state_dict()
    for name, tensor in merged_by_peft(mount).items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_changes_has_the_type_that_is_served_and_the_rest_stays(mount: Path, dtype: torch.dtype) -> None:
    save_adapter(mount, "mine")
    base, adapter = found(mount)
    copy = merge_into_copy(base, adapter, str(dtype).removeprefix("torch."), mount / "merged")
    assert copy is not None
    expected = merged_by_peft(mount)
    with safe_open(copy / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dictionary
            is_changed = name.endswith(("q_proj.weight", "v_proj.weight"))
            tensor = file.get_tensor(name)
            assert tensor.dtype == (dtype if is_changed else torch.float32)
            assert torch.equal(tensor, expected[name].to(tensor.dtype))


def test_a_restart_finds_the_copy(mount: Path) -> None:
    save_adapter(mount, "mine")
    base, adapter = found(mount)
    first = merge_into_copy(base, adapter, "float32", mount / "merged", now_s=NOW_S)
    assert first is not None
    changed_at = (first / "model.safetensors").stat().st_mtime_ns
    assert merge_into_copy(base, adapter, "float32", mount / "merged", now_s=NOW_S + 60) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == changed_at
    assert first.stat().st_mtime == NOW_S + 60


def test_another_base_adapter_or_type_is_another_copy(mount: Path) -> None:
    folder = save_adapter(mount, "mine")
    base, adapter = found(mount)
    digests = {compute_digest(base, adapter, dtype) for dtype in ("float32", "bfloat16")}
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({key: value + 1 for key, value in tensors.items()}, folder / "adapter_model.safetensors")
    digests.add(compute_digest(base, adapter, "float32"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 99}))
    digests.add(compute_digest(base, adapter, "float32"))
    # Pushed anew: other values of the same size.
    weights = mount / "model-cache" / BASE / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    digests.add(compute_digest(base, adapter, "float32"))
    assert len(digests) == 5


def test_too_small_a_disk_is_said_and_leaves_nothing(
    mount: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_adapter(mount, "mine")
    base, adapter = found(mount)
    with caplog.at_level(logging.WARNING):
        assert merge_into_copy(base, adapter, "float32", mount / "merged", disk_limit_bytes=2**31) is None
    assert (
        "the adapter mine is not merged: a copy of org/tiny takes 0 MiB, and 2048 MiB are free" in caplog.text
    )
    assert list((mount / "merged").iterdir()) == []

    def fill_up(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merged_copies, "_copy_bytes", fill_up)
    assert merge_into_copy(base, adapter, "float32", mount / "merged") is None
    assert "No space left on device" in caplog.text
    assert list((mount / "merged").iterdir()) == []


def test_copies_that_nothing_uses_are_deleted_and_others_stay(mount: Path) -> None:
    save_adapter(mount, "mine")
    base, adapter = found(mount)
    folder = mount / "merged"
    for name, age_s in (
        ("old", KEPT_S + 1),
        ("recent", KEPT_S - 1),
        ("partial-old", 7200),
        ("partial-now", 60),
    ):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (NOW_S - age_s, NOW_S - age_s))
    copy = merge_into_copy(base, adapter, "float32", folder, now_s=NOW_S)
    assert copy is not None
    assert {path.name for path in folder.iterdir()} == {"recent", "partial-now", copy.name}


def test_two_processes_that_merge_at_once_end_with_one_copy(
    mount: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_adapter(mount, "mine")
    base, adapter = found(mount)
    merge_file = merged_copies._merge_file

    def be_overtaken(source: Path, target: Path, *rest: Any) -> None:
        merge_file(source, target, *rest)
        monkeypatch.setattr(merged_copies, "_merge_file", merge_file)
        merge_into_copy(base, adapter, "float32", mount / "merged")

    monkeypatch.setattr(merged_copies, "_merge_file", be_overtaken)
    copy = merge_into_copy(base, adapter, "float32", mount / "merged")
    assert copy is not None
    assert list((mount / "merged").iterdir()) == [copy]
    AutoModelForCausalLM.from_pretrained(copy)


def change_config(folder: Path, **values: object) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | values))


def test_what_a_sum_cannot_express_is_not_merged(mount: Path) -> None:
    folder = save_adapter(mount, "mine")
    base, adapter = found(mount)
    assert not find_lora_obstacle(adapter)
    change_config(folder, init_lora_weights="pissa")
    reason = "the adapter mine changes the base's weights when it is loaded"
    assert find_merge_obstacle(base, adapter) == find_lora_obstacle(adapter) == reason
    change_config(folder, init_lora_weights=True, alora_invocation_tokens=[1])
    assert find_merge_obstacle(base, adapter) == "the adapter mine is more than low-rank updates"
    change_config(folder, alora_invocation_tokens=None, use_dora=True)
    assert not find_merge_obstacle(base, adapter)
    assert find_lora_obstacle(adapter) == "the adapter mine is more than low-rank updates"


def test_embeddings_of_an_adapter_are_not_merged(mount: Path) -> None:
    save_adapter(mount, "mine", has_embeddings=True)
    base, adapter = found(mount)
    assert "is more than low-rank updates: it has base_model.model." in find_merge_obstacle(base, adapter)
    assert find_lora_obstacle(adapter) == "the adapter mine carries embeddings"


def test_an_adapter_of_another_base_is_not_merged(mount: Path) -> None:
    save_adapter(mount, "mine")
    shutil.rmtree(mount / "model-cache")
    save_base(mount, word_tokenizer(64), hidden=64)
    base, adapter = found(mount)
    assert find_merge_obstacle(base, adapter) == (
        "the adapter mine changes model.layers.0.self_attn.q_proj, which has the shape (64, 64), not (32, 32)"
    )


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", "which no file of the base has"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight", "with half an update"),
    ],
)
def test_half_an_update_and_one_of_nothing_are_not_merged(mount: Path, key: str, reason: str) -> None:
    folder = save_adapter(mount, "mine")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {key: torch.zeros(4, 32)}, folder / "adapter_model.safetensors")
    assert reason in find_merge_obstacle(*found(mount))


def test_a_base_that_is_stored_quantised_is_not_merged_into(mount: Path) -> None:
    save_adapter(mount, "mine")
    path = mount / "model-cache" / BASE / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"model.norm.scales": torch.zeros(4, dtype=torch.int32)}, path)
    assert find_merge_obstacle(*found(mount)) == "the base org/tiny is stored quantised"

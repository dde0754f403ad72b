"""Adapters and base models on this machine: what is taken, how it is named, and what is missing."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from infra.console import Console
from infra.errors import UsageError
from infra.models.selection import (
    locate_base,
    select_weights,
)
from infra.models.weights import adapter_name_of, base_id_of, read_adapter, read_base
from tests.doubles.model_folders import make_adapter, make_base, tensors

if TYPE_CHECKING:
    from pathlib import Path


def test_an_adapter_is_taken_with_what_a_server_loads_and_nothing_else(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "run" / "adapter")
    for name in (
        "tokenizer.json",
        "merges.txt",
        "README.md",
        "training_args.bin",
        "model.py",
        ".hidden.json",
    ):
        (folder / name).write_text("x")
    (folder / "checkpoint-1").mkdir()
    adapter = read_adapter(folder)
    assert [path.name for path in adapter.weights.files] == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "merges.txt",
        "tokenizer.json",
    ]
    assert adapter.weights.left_out == ("training_args.bin",)


def test_all_that_an_adapter_lacks_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        read_adapter(tmp_path)
    assert caught.value.message == f"{tmp_path} is not an adapter that can be served"
    assert caught.value.details == ("adapter_config.json is missing", "it has no weights (*.safetensors)")
    assert (
        caught.value.hint == "adapter_model.bin is a pickle, which can run code: save it again as safetensors"
    )


def test_an_adapter_without_a_base_is_refused(tmp_path: Path) -> None:
    make_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError) as caught:
        read_adapter(tmp_path)
    assert caught.value.details == (
        "adapter_config.json does not name its base model (base_model_name_or_path)",
    )


def test_an_adapter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        read_adapter(tmp_path / "gone")


def test_all_that_a_base_lacks_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(tensors()[:-1])
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError) as caught:
        read_base(tmp_path)
    assert [detail.split(":")[0] for detail in caught.value.details] == [
        "config.json cannot be read",
        "it has no tokenizer (tokenizer.json, tokenizer.model, vocab.json, spiece.model)",
        "model-1.safetensors",
        "model-2.safetensors is missing, which model.safetensors.index.json lists",
    ]


@pytest.mark.parametrize("base", ["org/base", "model-cache/org/base"])
def test_a_base_that_the_server_finds_by_its_name_is_left_as_it_is(tmp_path: Path, base: str) -> None:
    adapter = read_adapter(make_adapter(tmp_path, base))
    assert adapter.config_for("org/base") == (tmp_path / "adapter_config.json").read_bytes()


def test_a_path_of_this_machine_becomes_one_that_is_relative_to_the_mount(tmp_path: Path) -> None:
    adapter = read_adapter(make_adapter(tmp_path, "/home/ida/models/base"))
    config = json.loads(adapter.config_for("local/base"))
    assert config == {"base_model_name_or_path": "model-cache/local/base", "peft_type": "LORA", "r": 1}


@pytest.mark.parametrize(
    ("folder", "base_id"),
    [
        ("x/model-cache/microsoft/Phi-3", "microsoft/Phi-3"),
        ("hub/models--org--a-name/snapshots/0123abcd", "org/a-name"),
        ("my models/some base!", "local/some-base"),
    ],
)
def test_a_base_is_named_by_its_folder(tmp_path: Path, folder: str, base_id: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert base_id_of(tmp_path / folder) == base_id


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("ticket-triage/adapter", "ticket-triage"),
        ("my run 7", "my-run-7"),
        ("gpu_model/adapter", "gpu_model"),
    ],
)
def test_an_adapter_is_named_by_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    assert adapter_name_of(tmp_path / folder) == name


def test_a_base_is_located_here_by_path_and_elsewhere_by_id(tmp_path: Path) -> None:
    here = make_base(tmp_path / "model-cache" / "org" / "base")
    other = make_base(tmp_path / "other")
    assert locate_base("model-cache/org/base", tmp_path) == ("org/base", here)
    assert locate_base(str(other), tmp_path) == ("local/other", other)
    assert locate_base("org/elsewhere", tmp_path) == ("org/elsewhere", None)
    assert locate_base("/gone/model-cache/org/base", tmp_path) == ("org/base", None)


@pytest.mark.parametrize("reference", ["", "/gone/base", "./gone", "a/b/c", "name"])
def test_a_base_that_is_nowhere_is_refused_with_what_to_say(tmp_path: Path, reference: str) -> None:
    with pytest.raises(UsageError) as caught:
        locate_base(reference, tmp_path)
    assert caught.value.hint == "add --base FOLDER, or --base ORG/NAME"


def test_a_choice_is_judged_before_anything_travels(tmp_path: Path) -> None:
    adapter, base = make_adapter(tmp_path / "mine" / "adapter"), make_base(tmp_path / "base")
    selected = select_weights(tmp_path, adapter, str(base), Console(io.StringIO()))
    assert (selected.name, selected.base_id, selected.base) == ("mine", "local/base", base)
    assert selected.base_target == "model-cache/local/base"
    (base / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="is not a base model that can be served"):
        select_weights(tmp_path, adapter, str(base), Console(io.StringIO()))

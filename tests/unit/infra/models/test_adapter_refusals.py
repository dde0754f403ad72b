"""Adapters that a server would reject are rejected on this machine, before their upload."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from infra.console import Console
from infra.errors import UsageError
from infra.models.base_shapes import HEADER_BYTES, read_share_shapes
from infra.models.selection import select_weights
from infra.models.weights import check_fit, read_adapter
from tests.doubles.memory_share import MemoryShare
from tests.doubles.model_folders import make_adapter, make_base

if TYPE_CHECKING:
    from pathlib import Path


def adapter_file(**tensors: tuple[str, tuple[int, ...], bytes]) -> bytes:
    """Return a safetensors file with tensors of a type, a shape and content."""
    header: dict[str, object] = {}
    content = b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(content), len(content) + len(data)],
        }
        content += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


LAYER = "base_model.model.t.lora_"
NAN_BF16, ONE_BF16 = b"\xc0\x7f", b"\x80\x3f"


@pytest.mark.parametrize(
    ("config", "tensors_of", "problem"),
    [
        (
            {"peft_type": "PROMPT_TUNING"},
            {"prompt_embeddings": ("BF16", (1,), ONE_BF16)},
            "it is of the kind PROMPT_TUNING, which adds virtual tokens to the prompt, and is not served",
        ),
        (
            {"r": 1},
            {f"{LAYER}A.weight": ("BF16", (1, 1), ONE_BF16)},
            f"it has the tensor {LAYER}A.weight, and not {LAYER}B.weight",
        ),
        (
            {"r": 8},
            {
                f"{LAYER}A.weight": ("BF16", (1, 1), ONE_BF16),
                f"{LAYER}B.weight": ("BF16", (1, 1), ONE_BF16),
            },
            (
                "its adapter_config.json says rank 8, and the tensors of base_model.model.t have the shapes"
                " [1, 1] and [1, 1]"
            ),
        ),
        (
            {"r": 1},
            {
                f"{LAYER}A.weight": ("BF16", (1, 1), ONE_BF16),
                f"{LAYER}B.weight": ("BF16", (1, 1), NAN_BF16),
            },
            f"its tensor {LAYER}B.weight has NaN or infinity: was the training stable?",
        ),
    ],
)
def test_an_adapter_that_a_server_would_reject_is_rejected_before_its_upload(
    tmp_path: Path, config: dict[str, object], tensors_of: dict[str, Any], problem: str
) -> None:
    folder = make_adapter(tmp_path)
    base = {"base_model_name_or_path": "org/base", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(base | config))
    (folder / "adapter_model.safetensors").write_bytes(adapter_file(**tensors_of))
    with pytest.raises(UsageError) as caught:
        read_adapter(folder)
    assert caught.value.message == f"{folder} is not an adapter that can be served"
    assert caught.value.details == (problem,)


def test_an_adapter_in_a_file_that_no_server_looks_for_is_rejected(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    with pytest.raises(UsageError) as caught:
        read_adapter(folder)
    assert caught.value.details == (
        "it has no adapter_model.safetensors, the only file that a server loads an adapter from",
    )


def test_an_adapter_of_another_base_is_rejected_before_its_upload(tmp_path: Path) -> None:
    adapter, base = make_adapter(tmp_path / "mine"), make_base(tmp_path / "base")
    weight = adapter_file(**{"t.weight": ("BF16", (2, 2), 4 * ONE_BF16)})
    (base / "model.safetensors").write_bytes(weight)
    with pytest.raises(UsageError) as caught:
        select_weights(tmp_path, adapter, str(base), Console(io.StringIO()))
    assert caught.value.message == f"{adapter} does not fit the base model {base}"
    assert caught.value.details == (
        f"its tensor {LAYER}A.weight is for 7 inputs, and the weight of that layer has the shape [2, 2]",
    )
    assert caught.value.hint == "it was trained on org/base: push that with --base"


@pytest.mark.parametrize(("trained_on", "is_warned"), [("/home/ida/base", False), ("org/other", True)])
def test_another_name_of_the_base_is_a_warning(tmp_path: Path, trained_on: str, is_warned: bool) -> None:  # noqa: FBT001 - a parameter of a test
    adapter, base = make_adapter(tmp_path / "mine", trained_on), make_base(tmp_path / "base")
    log = io.StringIO()
    select_weights(tmp_path, adapter, str(base), Console(log))
    warning = "warning: the adapter mine was trained on org/other, and is pushed for local/base"
    assert (warning in log.getvalue()) is is_warned


def test_an_adapter_is_compared_with_a_base_that_only_the_share_has(tmp_path: Path) -> None:
    share = MemoryShare()
    folder = "model-cache/org/base"
    share.files[f"{folder}/model.safetensors"] = adapter_file(**{"t.weight": ("BF16", (2, 2), 4 * ONE_BF16)})
    shapes = read_share_shapes(share, folder, share.entries(folder))
    assert shapes == {"t.weight": (2, 2)}
    with pytest.raises(UsageError) as caught:
        check_fit(read_adapter(make_adapter(tmp_path)), shapes, folder)
    assert "does not fit the base model model-cache/org/base" in caught.value.message


def test_a_header_of_any_size_is_read_and_a_damaged_file_is_no_reason_to_refuse() -> None:
    share, many = (
        MemoryShare(),
        {f"layer.{number}.weight": ("BF16", (1,), ONE_BF16) for number in range(9000)},
    )
    content = adapter_file(**many)
    assert int.from_bytes(content[:8], "little") > HEADER_BYTES
    share.files["base/model-1.safetensors"] = content
    assert read_share_shapes(share, "base", share.entries("base")) == dict.fromkeys(many, (1,))
    for damaged in (b"", b"1234567", content[:1000], b"\xff" * 100):
        share.files["base/model-2.safetensors"] = damaged
        assert read_share_shapes(share, "base", share.entries("base")) == {}

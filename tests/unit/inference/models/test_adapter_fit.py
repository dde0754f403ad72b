"""What shows from the files of an adapter, without loading them; the pipeline has the same module."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inference.models.adapter_fit import find_misfit, find_non_finite, name_differs, read_tensors

ROOT = Path(__file__).parents[4]
Q = "base_model.model.model.layers.0.self_attn.q_proj"
QA, QB = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"
BASE = {
    "model.embed_tokens.weight": (64, 32),
    "model.layers.0.self_attn.q_proj.weight": (48, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 96),
}
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 4, "task_type": "CAUSAL_LM"}
SHAPES = {QA: (4, 32), QB: (48, 4)}
FINITE = {torch.float64: 1.7e308, torch.float32: 3.4e38, torch.bfloat16: 3.38e38, torch.float16: 65504.0}


def test_the_pipeline_s_module_is_the_same() -> None:
    ours, theirs = (
        (ROOT / package / "models" / "adapter_fit.py").read_text() for package in ("inference", "infra")
    )
    # The pipeline parses all JSON in one place, which limits its depth.
    theirs = theirs.replace("from infra.document import load_json\n\n", "")
    theirs = theirs.replace("load_json(", "json.loads(")
    assert ours.replace("import json\n", "") == theirs


def test_an_adapter_that_fits() -> None:
    assert find_misfit(CONFIG, SHAPES, BASE) is None
    assert find_misfit(CONFIG, SHAPES, {}) is None
    assert find_misfit({"peft_type": "LORA", "r": 9, "rank_pattern": {"q_proj": 4}}, SHAPES, BASE) is None


@pytest.mark.parametrize(
    "base",
    [
        {"transformer.layers.0.self_attn.q_proj.weight": (48, 32)},
        # Transposed, as in GPT-2.
        {"layers.0.self_attn.q_proj.weight": (32, 48)},
        # Quantised, as bitsandbytes and GPTQ store it.
        {
            "model.layers.0.self_attn.q_proj.weight": (768, 1),
            "model.layers.0.self_attn.q_proj.weight.absmax": (24,),
        },
        {"model.layers.0.self_attn.q_proj.qweight": (4, 48)},
        # Two towers whose layers have the same names.
        {
            "vision.layers.0.self_attn.q_proj.weight": (7, 7),
            "text.layers.0.self_attn.q_proj.weight": (48, 32),
        },
    ],
)
def test_a_base_may_store_its_layers_in_other_ways(base: dict[str, tuple[int, ...]]) -> None:
    assert find_misfit(CONFIG, SHAPES, base) is None


def test_layers_that_only_the_loaded_network_has_are_not_judged() -> None:
    tied = {
        "base_model.model.lm_head.lora_A.weight": (4, 32),
        "base_model.model.lm_head.lora_B.weight": (64, 4),
    }
    experts = {
        "base_model.model.model.layers.0.mlp.experts.lora_A.weight": (4, 32),
        "base_model.model.model.layers.0.mlp.experts.lora_B.weight": (64, 4),
    }
    assert find_misfit(CONFIG, SHAPES | tied | experts, BASE) is None


@pytest.mark.parametrize(
    ("config", "shapes", "problem"),
    [
        ({}, SHAPES, "its adapter_config.json does not name its kind (peft_type)"),
        (
            {"peft_type": "PROMPT_TUNING"},
            {"prompt_embeddings": (4, 32)},
            "it is of the kind PROMPT_TUNING, which adds virtual tokens to the prompt, and is not served",
        ),
        (
            {"peft_type": "POLY"},
            SHAPES,
            "it is of the kind POLY, whose weights depend on the request, and is not served",
        ),
        ({"peft_type": "NEWEST"}, SHAPES, "its kind NEWEST is not known to PEFT 0.21"),
        (
            CONFIG | {"task_type": "SEQ_CLS"},
            SHAPES,
            "it is for the task SEQ_CLS, which generates no text (CAUSAL_LM does)",
        ),
        (
            CONFIG | {"alora_invocation_tokens": [1]},
            SHAPES,
            "it is an activated LoRA (alora_invocation_tokens), which is not served",
        ),
        (CONFIG, {}, "its file has no tensors"),
        (CONFIG | {"r": "4"}, SHAPES, "its adapter_config.json has the rank '4', which is no whole number"),
        (
            CONFIG | {"rank_pattern": {"q_proj": True}},
            SHAPES,
            "its adapter_config.json has the rank True, which is no whole number",
        ),
        (
            CONFIG | {"rank_pattern": ["q_proj"]},
            SHAPES,
            "its adapter_config.json has a rank_pattern that is no object",
        ),
        (
            CONFIG | {"rank_pattern": {"(": 4}},
            SHAPES,
            ("its adapter_config.json has a rank_pattern that is no regular expression:"
             " missing ), unterminated subpattern at position 0"),
        ),
        (
            CONFIG,
            {QA: (), QB: ()},
            f"its adapter_config.json says rank 4, and the tensors of {Q} have the shapes [] and []",
        ),
        (
            CONFIG,
            {QA: (4, 32)},
            f"it has the tensor {QA}, and not {QB}",
        ),
        (
            CONFIG,
            {QB: (48, 4)},
            f"it has the tensor {QB}, and not {QA}",
        ),
        (
            CONFIG | {"r": 16},
            SHAPES,
            (f"its adapter_config.json says rank 16, and the tensors of {Q} have the shapes"
 " [4, 32] and [48, 4]"),
        ),
        (
            CONFIG,
            {QA: (4, 32), QB: (48, 2)},
            (f"its adapter_config.json says rank 4, and the tensors of {Q} have the shapes"
 " [4, 32] and [48, 2]"),
        ),
        (
            CONFIG,
            {QA: (4, 64), QB: (48, 4)},
            (f"its tensor {QA} is for 64 inputs, and the weight of that layer has the shape"
" [48, 32]"),
        ),
        (
            CONFIG,
            {QA: (4, 32), QB: (96, 4)},
            (f"its tensor {QB} is for 96 outputs, and the weight of that layer has the shape"
" [48, 32]"),
        ),
        (
            CONFIG,
            {key.replace("layers.0", "layers.7"): shape for key, shape in SHAPES.items()},
            "its tensors are for the layer model.layers.7.self_attn.q_proj, which the base does not have",
        ),
        (
            CONFIG,
            {"model.embed_tokens.weight": (64, 32)},
            "it has no tensors of a LoRA adapter, such as lora_A, but model.embed_tokens.weight",
        ),
        (
            CONFIG,
            SHAPES | {"base_model.model.model.embed_tokens.weight": (64, 16)},
            ("its tensor base_model.model.model.embed_tokens.weight has the shape [64, 16], and that of the"
             " base has [64, 32]"),
        ),
        (
            {"peft_type": "LOHA"},
            {"base_model.model.model.layers.7.self_attn.q_proj.hada_w1_a": (4, 4)},
            ("none of its tensors belongs to a layer of the base, such as"
            " base_model.model.model.layers.7.self_attn.q_proj.hada_w1_a"),
        ),
    ],
)  # fmt: skip
def test_a_misfit_is_named(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], problem: str) -> None:
    assert find_misfit(config, shapes, BASE) == problem


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", FINITE)
def test_numbers_that_are_none_are_found_wherever_they_stand(
    tmp_path: Path, dtype: torch.dtype, value: float
) -> None:
    path = tmp_path / "x.safetensors"
    largest = torch.full((3, 5), FINITE[dtype], dtype=dtype)
    small = torch.tensor([1e-40, -0.0, 1.5, -FINITE[dtype]], dtype=dtype)
    fine = {
        "largest": largest,
        "small": small,
        "counts": torch.full((4,), -1),
        "none": torch.empty(0, dtype=dtype),
    }
    save_file(fine, path)
    assert find_non_finite(path) is None
    for place in range(15):
        broken = largest.clone()
        broken.view(-1)[place] = value
        save_file(fine | {"broken": broken}, path)
        assert find_non_finite(path) == "broken"


def test_a_number_at_the_border_of_two_chunks_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.models.adapter_fit.CHUNK_BYTES", 16)
    for place in range(12):
        numbers = torch.ones(12)
        numbers[place] = math.nan
        save_file({"x": numbers}, tmp_path / "x.safetensors")
        assert find_non_finite(tmp_path / "x.safetensors") == "x"


@pytest.mark.parametrize("bytes_left", [4, 30, -4])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, bytes_left: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(8)}, path)
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(ValueError, match=r"cut off|safetensors"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("reference", "base", "differs"),
    [
        ("model-cache/org/tiny", "org/tiny", False),
        ("/home/ida/Tiny/", "org/tiny", False),
        ("C:\\models\\tiny", "local/tiny", False),
        ("/cache/models--org--tiny/snapshots/0123abcd", "org/tiny", False),
        ("", "org/tiny", False),
        ("org/other", "org/tiny", True),
    ],
)
def test_names_are_compared_by_their_last_part(reference: str, base: str, differs: bool) -> None:  # noqa: FBT001 - a parameter of a test
    assert name_differs(reference, base) is differs

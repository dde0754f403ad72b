from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest

from inference.errors import LoadError
from inference.models.configuration import read_shape
from inference.models.hardware import Hardware, Placement
from inference.models.memory import AdapterSize, ModelSize
from inference.models.plan import Model, ModelShape, ServingPlan, choose_cards, plan_serving
from inference.settings import Settings

GIB = 2**30


def card(name: str, capability: tuple[int, int], gib: int, count: int = 1) -> Hardware:
    return Hardware(
        name, capability, gib * GIB, 200 * GIB, has_cpu_bf16=True, gpu_count=count, gpu_total_bytes=gib * GIB
    )


CPU = Hardware(None, None, 0, 16 * GIB, has_cpu_bf16=True)
P100 = card("Tesla P100", (6, 0), 16)
T4 = card("Tesla T4", (7, 5), 15)
A100 = card("NVIDIA A100 80GB PCIe", (8, 0), 79)
H100 = card("NVIDIA H100 80GB HBM3", (9, 0), 79)

# SmolLM2-135M, Phi-3-mini, Llama-3.1-8B, Qwen2.5-32B and Llama-3.1-70B.
SMALL = Model(ModelSize(134_515_008, 28_311_552, (), 11_520), ModelShape(9, 3, 1536, 8192))
PHI = Model(ModelSize(3_821_079_552, 197_001_216, (), 196_608), ModelShape(32, 32, 8192, 4096))
LLAMA_8B = Model(ModelSize(8_030_261_248, 1_050_673_152, (), 65_536), ModelShape(32, 8, 14336, 131_072))
QWEN_32B = Model(ModelSize(32_763_876_352, 1_557_135_360, (), 131_072), ModelShape(40, 8, 27648, 32_768))
LLAMA_70B = Model(ModelSize(70_553_706_496, 2_101_346_304, (), 163_840), ModelShape(64, 8, 28672, 131_072))
# Rank 16 on q and v of the 8B model.
LORA = AdapterSize(671_088_640, 0, 6_815_744, is_batchable=True)

VLLM, PLUGIN = frozenset({"vllm"}), frozenset({"vllm", "vllm_bnb_plugin"})


def plan(model: Model, hardware: Hardware, packages: frozenset[str] = PLUGIN, **settings: Any) -> ServingPlan:
    return plan_serving(model, hardware, Settings(**settings), packages.__contains__)


def with_adapters(model: Model, *adapters: AdapterSize, merge: str = "", lora: str = "") -> Model:
    size = replace(model.size, adapters=adapters)
    return replace(model, size=size, merge_obstacle=merge, lora_obstacle=lora)


@pytest.mark.parametrize(
    ("hardware", "model", "engine", "dtype", "quantization", "cards", "cache", "context"),
    [
        (CPU, SMALL, "transformers", "bfloat16", "none", 1, 8192, 8192),
        (T4, SMALL, "vllm", "float16", "none", 1, 566_000, 8192),
        (T4, PHI, "vllm", "float16", "none", 1, 14_400, 4096),
        (T4, LLAMA_8B, "vllm", "float16", "nf4", 1, 58_000, 58_000),
        (A100, PHI, "vllm", "bfloat16", "none", 1, 159_000, 4096),
        (A100, LLAMA_8B, "vllm", "bfloat16", "none", 1, 413_000, 131_072),
        (A100, QWEN_32B, "vllm", "bfloat16", "nf4", 1, 192_000, 32_768),
        (A100, LLAMA_70B, "vllm", "bfloat16", "nf4", 1, 93_000, 93_000),
        (H100, LLAMA_8B, "vllm", "bfloat16", "none", 1, 413_000, 131_072),
        (replace(A100, gpu_count=2), QWEN_32B, "vllm", "bfloat16", "none", 2, 286_000, 32_768),
        (replace(A100, gpu_count=4), LLAMA_70B, "vllm", "bfloat16", "none", 4, 427_000, 131_072),
        (replace(A100, gpu_count=2), SMALL, "vllm", "bfloat16", "none", 1, 3_040_000, 8192),
    ],
)
def test_the_card_its_memory_and_the_models_size_decide(  # noqa: PLR0913, PLR0917 - the columns of the table
    hardware: Hardware,
    model: Model,
    engine: str,
    dtype: str,
    quantization: str,
    cards: int,
    cache: int,
    context: int,
) -> None:
    found = plan(model, hardware)
    assert (found.engine, found.placement.dtype, found.placement.quantization) == (
        engine,
        dtype,
        quantization,
    )
    assert found.cards == cards
    assert found.cache_tokens == pytest.approx(cache, rel=0.02)
    assert found.context_tokens == pytest.approx(context, rel=0.02)
    assert not found.reason


def test_an_old_parameter_file_keeps_its_image_and_so_its_engine() -> None:
    # FJARR_ENGINE=auto in the PyTorch image, which has no vLLM.
    assert plan(LLAMA_8B, A100, frozenset()).engine == "transformers"


@pytest.mark.parametrize(
    ("model", "hardware", "packages", "settings", "reason"),
    [
        (
            SMALL, P100, PLUGIN, {},
            "vLLM needs a GPU of compute capability 7.5 or more, and this is a Tesla P100",
        ),
        (LLAMA_8B, A100, PLUGIN, {"quantization": "int8"}, "vLLM does not quantise to int8 while it loads"),
        (
            LLAMA_8B, T4, VLLM, {},
            "vLLM quantises to nf4 with its plugin vllm-bnb-plugin, which is not installed",
        ),
        (
            with_adapters(LLAMA_8B, LORA, merge="it is pickled", lora="it carries embeddings"),
            A100, PLUGIN, {},
            "it carries embeddings",
        ),
    ],
)  # fmt: skip
def test_auto_takes_transformers_for_what_vllm_cannot_serve(
    model: Model, hardware: Hardware, packages: frozenset[str], settings: dict[str, Any], reason: str
) -> None:
    found = plan(model, hardware, packages, **settings)
    assert (found.engine, found.reason) == ("transformers", reason)
    # Whoever requires vLLM gets vLLM's own error.
    assert plan(model, hardware, packages, engine="vllm", **settings).engine == "vllm"


@pytest.mark.parametrize(
    ("hardware", "model", "settings", "expected"),
    [
        (A100, with_adapters(LLAMA_8B, LORA), {}, True),
        (A100, with_adapters(LLAMA_8B, LORA), {"merge_adapters": "off"}, False),
        (A100, with_adapters(LLAMA_8B, LORA, LORA), {}, False),
        (A100, with_adapters(LLAMA_8B, LORA, LORA), {"merge_adapters": "on"}, True),
        (A100, with_adapters(LLAMA_8B, LORA, merge="the base is pickled"), {"merge_adapters": "on"}, False),
        (A100, LLAMA_8B, {}, False),
        # Two copies leave too little for the cache.
        (A100, with_adapters(QWEN_32B, LORA), {"quantization": "none"}, False),
        (T4, with_adapters(PHI, LORA), {}, False),
        (T4, with_adapters(SMALL, LORA), {}, True),
        # The sum would be rounded again.
        (T4, with_adapters(LLAMA_8B, LORA), {}, False),
        (CPU, with_adapters(SMALL, LORA), {"engine": "vllm"}, True),
        (replace(CPU, cpu_free_bytes=2 * GIB), with_adapters(SMALL, LORA), {"engine": "vllm"}, False),
    ],
)
def test_a_lone_adapter_is_merged_where_a_second_copy_fits(
    hardware: Hardware, model: Model, settings: dict[str, Any], *, expected: bool
) -> None:
    assert plan(model, hardware, **settings).placement.merge_adapters is expected


@pytest.mark.parametrize(
    ("shape", "count", "expected"),
    [
        (LLAMA_8B.shape, 1, 1),
        (LLAMA_8B.shape, 2, 2),
        (LLAMA_8B.shape, 4, 4),
        # 32 heads cannot be divided by 3, nor 9 heads of queries by 2 or 3 of keys by 9.
        (LLAMA_8B.shape, 3, 2),
        (SMALL.shape, 4, 3),
        (ModelShape(9, 3, 1536, 8192), 2, 1),
        # More cards than heads of keys: several cards have the same.
        (ModelShape(32, 2, 1024, 8192), 8, 8),
        # Quantised in groups of 128, a row of which must stay on one card.
        (ModelShape(28, 4, 18_944, 32_768, is_quantized=True, group_size=128), 4, 4),
        (ModelShape(28, 4, 18_944, 32_768, is_quantized=True, group_size=1024), 4, 1),
    ],
)
def test_a_model_is_split_over_all_cards_that_its_heads_can_be_divided_by(
    shape: ModelShape, count: int, expected: int
) -> None:
    assert choose_cards(shape, count, None) == expected


def test_a_number_of_cards_that_cannot_be_is_an_error() -> None:
    assert choose_cards(LLAMA_8B.shape, 4, 2) == 2
    with pytest.raises(LoadError) as caught:
        choose_cards(LLAMA_8B.shape, 4, 3)
    assert str(caught.value) == (
        "FJARR_TENSOR_PARALLEL=3, but the model with its 32 attention heads cannot be split over 3 cards: set"
        " it to 4, or to auto"
    )
    with pytest.raises(LoadError, match=r"=2, but the replica has 1 GPU: set it to auto, or take a larger"):
        choose_cards(LLAMA_8B.shape, 1, 2)


def test_on_a_cpu_a_model_is_split_only_if_the_setting_says_so() -> None:
    assert plan(LLAMA_8B, CPU, engine="vllm").cards == 1
    assert plan(LLAMA_8B, CPU, engine="vllm", tensor_parallel=2).cards == 2


def test_what_is_stored_quantised_is_not_quantised_again() -> None:
    shape = replace(LLAMA_70B.shape, is_quantized=True, group_size=128)
    stored = replace(LLAMA_70B, shape=shape)
    assert plan(stored, A100).placement == Placement("cuda", "bfloat16", "none", merge_adapters=False)


class Config:
    """Be a transformers configuration."""

    num_attention_heads = 28
    num_key_value_heads = 4
    hidden_size = 3584
    intermediate_size = 18_944

    def __init__(self, quantization: dict[str, object] | None = None) -> None:
        if quantization is not None:
            self.quantization_config = quantization

    def get_text_config(self) -> Config:
        return self


@pytest.mark.parametrize(
    ("quantization", "is_quantized", "group_size"),
    [
        (None, False, 1),
        ({"quant_method": "gptq", "group_size": 128}, True, 128),
        ({"quant_method": "awq", "group_size": -1}, True, 1),
        ({"quant_method": "fp8", "weight_block_size": [128, 64]}, True, 128),
        ({"config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}}, True, 32),
    ],
)
def test_the_groups_of_stored_quantised_weights_are_read(
    quantization: dict[str, object] | None, group_size: int, *, is_quantized: bool
) -> None:
    assert read_shape(Config(quantization), sys.maxsize) == ModelShape(
        28, 4, 18_944, sys.maxsize, is_quantized, group_size
    )

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inference.errors import LoadError
from inference.models.hardware import Hardware, Placement
from inference.models.memory import (
    AdapterSize,
    ModelSize,
    check_memory,
    estimate,
    fitting_cache_tokens,
    measure,
    measure_adapter,
)
from inference.models.weights import Adapter, BaseModel, Shapes, Weights

GIB = 2**30
CPU = Hardware(None, None, 0, 8 * GIB, has_cpu_bf16=False)
T4 = Hardware("Tesla T4", (7, 5), 15 * GIB, 50 * GIB, has_cpu_bf16=False)
A100 = Hardware("NVIDIA A100", (8, 0), 79 * GIB, 200 * GIB, has_cpu_bf16=True)
H200 = Hardware("NVIDIA H200", (9, 0), 139 * GIB, 200 * GIB, has_cpu_bf16=True)

# SmolLM2-135M, Llama-3.1-8B and Llama-3.1-70B.
SMALL = ModelSize(134_515_008, 28_311_552, (), 11_520)
MIDDLE = ModelSize(8_030_261_248, 1_050_673_152, (), 65_536)
LARGE = ModelSize(70_553_706_496, 2_101_346_304, (), 163_840)
# Rank 16 on q and v of the 8B model.
QV = AdapterSize(671_088_640, 0, 6_815_744)

HALF = Placement("cuda", "float16", "none")
NF4 = Placement("cuda", "float16", "nf4")
INT8 = Placement("cuda", "float16", "int8")


@pytest.mark.parametrize(
    ("card", "size", "placement", "tokens"),
    [
        (T4, SMALL, HALF, 412_400),
        (T4, MIDDLE, INT8, 32_150),
        (T4, MIDDLE, NF4, 47_600),
        (A100, MIDDLE, HALF, 314_700),
        (A100, LARGE, INT8, 22_100),
        (A100, LARGE, NF4, 82_900),
        (H200, LARGE, HALF, 14_800),
        (H200, LARGE, NF4, 200_900),
    ],
)
def test_what_fits_has_room_for_a_cache_of_so_many_tokens(
    card: Hardware, size: ModelSize, placement: Placement, tokens: int
) -> None:
    check_memory(card, placement, size, None)
    assert fitting_cache_tokens(card.gpu_free_bytes, placement, size) == pytest.approx(tokens, rel=0.01)


@pytest.mark.parametrize(
    ("card", "size", "placement"),
    [
        (T4, MIDDLE, HALF),
        (T4, LARGE, HALF),
        (T4, LARGE, INT8),
        (T4, LARGE, NF4),
        (A100, LARGE, HALF),
        (CPU, MIDDLE, Placement("cpu", "bfloat16", "none")),
    ],
)
def test_what_does_not_fit_is_an_error(card: Hardware, size: ModelSize, placement: Placement) -> None:
    with pytest.raises(LoadError, match="the model does not fit"):
        check_memory(card, placement, size, None)


def error_of(card: Hardware, placement: Placement, size: ModelSize, wanted_tokens: int | None = None) -> str:
    with pytest.raises(LoadError) as caught:
        check_memory(card, placement, size, wanted_tokens)
    return str(caught.value)


def test_the_error_says_what_each_part_needs_and_which_quantisation_would_fit() -> None:
    assert error_of(T4, HALF, replace(MIDDLE, adapters=(QV, QV, QV))) == (
        "the model does not fit: it needs 19370 MiB (the base 15317 MiB, 3 adapters 3840 MiB, key-value"
        " caches at least 214 MiB), and 15360 MiB are free on Tesla T4; set FJARR_QUANTIZATION=int8, which"
        " needs 8952 MiB and has room for caches of 7936 tokens; or set FJARR_QUANTIZATION=nf4, which needs"
        " 5730 MiB and has room for caches of 11808 tokens; or take a smaller model, or a card with more"
        " memory"
    )


def test_where_nothing_helps_the_error_says_no_more_than_that() -> None:
    assert error_of(T4, NF4, LARGE) == (
        "the model does not fit: it needs 37827 MiB (the base 37694 MiB, key-value caches at least 134"
        " MiB), and 15360 MiB are free on Tesla T4; take a smaller model, or a card with more memory"
    )


def test_a_cache_that_is_too_large_is_told_its_size() -> None:
    assert error_of(T4, NF4, MIDDLE, 200_000) == (
        "the model does not fit: it needs 30439 MiB (the base 5439 MiB, key-value caches of that size 25000"
        " MiB), and 15360 MiB are free on Tesla T4; set FJARR_KV_CACHE_TOKENS=47616 or less; or take a"
        " smaller model, or a card with more memory"
    )


def test_of_too_many_adapters_the_error_says_how_many_fit() -> None:
    many = replace(MIDDLE, adapters=(QV,) * 60)
    assert "; name the first 49 of the adapters alone in FJARR_ADAPTER; or " in error_of(A100, HALF, many)
    check_memory(A100, HALF, replace(MIDDLE, adapters=(QV,) * 49), None)


def test_on_a_cpu_half_the_precision_may_help() -> None:
    small = replace(MIDDLE, parameters=3_000_000_000)
    assert error_of(CPU, Placement("cpu", "float32", "none"), small) == (
        "the model does not fit: it needs 12085 MiB (the base 11445 MiB, key-value caches at least 640"
        " MiB), and 8192 MiB are free on this machine; set FJARR_DTYPE=bfloat16, which needs 6043 MiB and"
        " has room for caches of 1952 tokens; or take a smaller model, or a machine with more memory"
    )


def test_a_base_of_unknown_size_is_not_checked() -> None:
    check_memory(CPU, Placement("cpu", "float32", "none"), replace(LARGE, parameters=0), None)


def test_an_adapter_on_quantised_weights_takes_only_its_own_size() -> None:
    size = replace(MIDDLE, adapters=(QV,))
    assert estimate(size, HALF, None).adapters == QV.layers * 2
    assert estimate(size, NF4, None).adapters == QV.own * 4


def test_an_unmerged_adapter_takes_its_padded_size_and_no_cache() -> None:
    unmerged, merged = replace(HALF, merge_adapters=False), replace(QV, is_batchable=False)
    one = replace(MIDDLE, adapters=(replace(QV, is_batchable=True),))
    assert estimate(one, unmerged, None).adapters == 3 * QV.own * 2
    assert estimate(one, unmerged, None).caches == estimate(MIDDLE, HALF, None).caches
    assert estimate(one, HALF, None).caches == 2 * estimate(MIDDLE, HALF, None).caches
    unbatchable = replace(MIDDLE, adapters=(merged,))
    assert estimate(unbatchable, unmerged, None) == estimate(unbatchable, HALF, None)


def test_where_merging_is_too_much_the_error_says_so() -> None:
    many = replace(MIDDLE, adapters=(replace(QV, is_batchable=True),) * 60)
    assert "; or set FJARR_MERGE_ADAPTERS=off, which needs " in error_of(A100, HALF, many)
    check_memory(A100, replace(HALF, merge_adapters=False), many, None)


def adapter(shapes: Shapes, rows: int | None = None) -> Adapter:
    return Adapter("mine", Path("/share/mine"), "org/base", rows, has_tokenizer=False, shapes=shapes)


FACTORS: Shapes = {
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (4, 32),
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (48, 4),
}


def test_an_adapter_copies_the_layers_that_it_changes() -> None:
    expected = AdapterSize(32 * 48, 0, 4 * 32 + 48 * 4, is_batchable=True)
    assert measure_adapter(adapter(FACTORS), {}) == expected


def test_lora_on_the_embeddings_copies_them_too() -> None:
    shapes = {"model.embed_tokens.lora_embedding_A": (4, 100), "model.embed_tokens.lora_embedding_B": (32, 4)}
    assert measure_adapter(adapter(shapes), {}).layers == 100 * 32


@pytest.mark.parametrize(
    ("extra", "base", "embeddings"),
    [
        ({}, {}, 260 * 32),
        ({}, {"lm_head.weight": (256, 32)}, 2 * 260 * 32),
        ({"base_model.model.lm_head.weight": (260, 32)}, {"lm_head.weight": (256, 32)}, 2 * 260 * 32),
    ],
)
def test_embeddings_of_its_own_count_with_the_head_that_grows_with_them(
    extra: Shapes, base: Shapes, embeddings: int
) -> None:
    shapes = {**FACTORS, "base_model.model.model.embed_tokens.weight": (260, 32), **extra}
    assert measure_adapter(adapter(shapes, 260), base).embeddings == embeddings


LAYER: Shapes = {
    f"model.layers.0.{name}.weight": shape
    for name, shape in {
        "self_attn.q_proj": (48, 32),
        "self_attn.k_proj": (16, 32),
        "self_attn.v_proj": (16, 32),
        "self_attn.o_proj": (32, 48),
    }.items()
}


def test_on_a_cpu_a_merged_adapter_copies_what_is_packed_with_its_layers() -> None:
    found = measure_adapter(adapter(FACTORS), LAYER)
    size = ModelSize(10_000, 0, (found,), 1)
    assert (found.layers, found.packed) == (48 * 32, (48 + 16 + 16) * 32)
    assert estimate(size, Placement("cpu", "bfloat16", "none"), None).adapters == 2 * found.packed
    assert estimate(size, Placement("cuda", "bfloat16", "none"), None).adapters == 2 * found.layers


def test_on_a_cpu_weights_under_batched_adapters_are_copies_if_another_network_shares_them() -> None:
    batchable = AdapterSize(100, 0, 10, is_batchable=True)
    other = AdapterSize(0, 70, 70)
    unmerged = Placement("cpu", "bfloat16", "none", merge_adapters=False)

    def adapters_bytes(placement: Placement, *adapters: AdapterSize) -> int:
        return estimate(ModelSize(10_000, 0, adapters, 1, batched=150), placement, None).adapters

    alone, own = adapters_bytes(unmerged, batchable), adapters_bytes(unmerged, other)
    assert adapters_bytes(unmerged, batchable, other) == alone + own + 2 * 150
    on_gpu = replace(unmerged, device="cuda")
    assert adapters_bytes(on_gpu, batchable, other) == alone + own
    merged = replace(unmerged, merge_adapters=True)
    assert adapters_bytes(merged, batchable, other) == 2 * 100 + own


def test_on_a_cpu_the_output_layer_has_a_copy_of_the_embeddings_that_are_its_weights() -> None:
    cpu, cuda = Placement("cpu", "bfloat16", "none"), Placement("cuda", "bfloat16", "none")
    shapes = {**FACTORS, "base_model.model.model.embed_tokens.weight": (260, 32)}
    bases: tuple[Shapes, ...] = (LAYER, {"lm_head.weight": (256, 32)})
    tied, apart = (measure_adapter(adapter(shapes, 260), base) for base in bases)
    assert (tied.embeddings, tied.tied) == (260 * 32, 260 * 32)
    assert (apart.embeddings, apart.tied) == (2 * 260 * 32, 0)
    for size in (ModelSize(10_000, 0, (), 1, tied=300), ModelSize(10_000, 0, (tied,), 1)):
        on_cpu, on_gpu = (estimate(size, placement, None) for placement in (cpu, cuda))
        copies = size.tied + sum(each.tied + each.packed - each.layers for each in size.adapters)
        assert on_cpu.base + on_cpu.adapters == on_gpu.base + on_gpu.adapters + 2 * copies


def test_a_base_is_measured_with_what_its_adapters_change(tmp_path: Path) -> None:
    base = {**LAYER, "model.embed_tokens.weight": (256, 32)}
    save_file({key: torch.zeros(shape) for key, shape in base.items()}, tmp_path / "model.safetensors")
    second = {key.replace("q_proj", "o_proj"): shape for key, shape in FACTORS.items()}
    weights = Weights(BaseModel("org/base", str(tmp_path)), (adapter(FACTORS), adapter(second)))
    size = measure(weights, 1)
    assert size.parameters == sum(math.prod(shape) for shape in base.values())
    assert size.batched == (48 + 16 + 16) * 32 + 32 * 48
    assert size.tied == 256 * 32

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from inference.errors import LoadError
from inference.models import hardware
from inference.models.hardware import (
    CacheSize,
    Cores,
    Hardware,
    Placement,
    choose_attention,
    choose_placement,
    context_warning,
    detect_cores,
    size_cache,
)

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30


@pytest.mark.parametrize(
    ("limit", "quota"), [("max 100000", None), ("400000 100000", 4), ("50000 100000", 1), ("", None)]
)
def test_the_container_s_limit_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, quota: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(limit, encoding="utf-8")
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert detect_cores() == Cores(tuple(sorted(os.sched_getaffinity(0))), quota)


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
    assert choose_placement(hardware, "auto", "auto", "auto", weight_gib * GIB) == expected


def test_the_settings_have_the_last_word() -> None:
    assert choose_placement(A100, "cpu", "float32", "none", GIB) == Placement("cpu", "float32", "none")
    assert choose_placement(A100, "auto", "float16", "int8", GIB) == Placement("cuda", "float16", "int8")


def test_what_the_machine_cannot_do_is_an_error() -> None:
    with pytest.raises(LoadError, match="no CUDA device"):
        choose_placement(CPU_ONLY, "cuda", "auto", "auto", GIB)
    with pytest.raises(LoadError, match="FJARR_QUANTIZATION=nf4 needs a CUDA device"):
        choose_placement(CPU_ONLY, "auto", "auto", "nf4", GIB)


@pytest.mark.parametrize(
    ("wanted", "capability", "dtype", "obstacle", "expected"),
    [
        ("auto", None, "bfloat16", "", "sdpa"),
        ("auto", (8, 0), "bfloat16", "", "flash_attention_2"),
        ("auto", (9, 0), "float16", "", "flash_attention_2"),
        ("auto", (8, 0), "float32", "", "sdpa"),
        ("auto", (7, 5), "float16", "", "sdpa"),
        ("auto", (8, 0), "bfloat16", "the package is missing", "sdpa"),
        ("sdpa", (8, 0), "bfloat16", "", "sdpa"),
        ("eager", (8, 0), "bfloat16", "", "eager"),
        ("eager", None, "float32", "", "eager"),
        ("flash_attention_2", (8, 0), "bfloat16", "", "flash_attention_2"),
    ],
)
def test_attention_follows_the_setting_then_the_card(
    wanted: str, capability: tuple[int, int] | None, dtype: str, obstacle: str, expected: str
) -> None:
    assert choose_attention(wanted, capability, dtype, obstacle) == expected


@pytest.mark.parametrize(
    ("capability", "dtype", "obstacle", "reason"),
    [
        (None, "bfloat16", "", "it needs a CUDA device, and the model is on the CPU"),
        (
            (7, 5),
            "float16",
            "",
            "it needs a GPU of compute capability 8.0 or more, and this one has 7.5",
        ),
        ((9, 0), "float32", "", "it computes in bfloat16 or float16, and the model is in float32"),
        ((9, 0), "bfloat16", "the package is missing", "the package is missing"),
    ],
)
def test_flash_attention_that_cannot_be_had_is_an_error(
    capability: tuple[int, int] | None, dtype: str, obstacle: str, reason: str
) -> None:
    with pytest.raises(LoadError) as caught:
        choose_attention("flash_attention_2", capability, dtype, obstacle)
    assert str(caught.value) == (
        f"FJARR_ATTENTION=flash_attention_2 is not available: {reason}; leave it at auto"
    )


def test_the_cache_follows_the_memory() -> None:
    assert size_cache("cpu", 16 * GIB, 23040, 2, None) == CacheSize(256, 512)
    assert size_cache("cpu", GIB, 131072, 2, None) == CacheSize(12, 384)
    assert size_cache("cuda", 60 * GIB, 131072, 2, None).tokens == 147456
    assert size_cache("cpu", 16 * GIB, 23040, 2, 1000) == CacheSize(31, 512)
    # Attention without a mask is as fast with a larger cache, which has room for more answers.
    assert size_cache("cpu", 16 * GIB, 23040, 2, None, is_masked=False) == CacheSize(512, 512)
    assert size_cache("cpu", GIB, 131072, 2, None, is_masked=False) == CacheSize(12, 384)
    assert size_cache("cpu", 16 * GIB, 23040, 2, 1000, is_masked=False) == CacheSize(31, 512)


def test_too_little_memory_says_what_to_do() -> None:
    with pytest.raises(LoadError, match="take a smaller model"):
        size_cache("cpu", GIB // 100, 131072, 2, None)


def test_a_cache_that_is_asked_for_and_does_not_fit_is_an_error() -> None:
    with pytest.raises(LoadError) as caught:
        size_cache("cuda", GIB, 131072, 2, 10_000)
    assert str(caught.value) == (
        "FJARR_KV_CACHE_TOKENS=10000 needs 2500 MiB for 2 key-value caches, and 1024 MiB are free after"
        " loading: set 2457 or less"
    )


def test_a_cache_smaller_than_the_context_is_said() -> None:
    assert context_warning("org/name", 8192, 8192, 23040, 2) is None
    assert context_warning("org/name", 131072, 8192, 23040, 2) == (
        "the context of org/name is 8192 tokens, and not the 131072 that it supports: its key-value cache"
        " holds no more (FJARR_KV_CACHE_TOKENS=131072 takes 5760 MiB for 2 of them)"
    )


@pytest.mark.parametrize(
    ("limit", "stat", "free"),
    [
        ("1000", "anon 300\ninactive_file 250\n", 750),
        ("1000", "anon 300\n", 500),
        ("max", "inactive_file 250\n", sys.maxsize),
    ],
)
def test_files_that_were_read_are_no_memory_in_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, stat: str, free: int
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("500")
    (tmp_path / "memory.stat").write_text(stat)
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert hardware.container_free_bytes() == free

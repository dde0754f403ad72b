"""Detect the hardware, and choose device, dtype, quantisation, attention and cache sizes for it.

All functions are pure except `detect_hardware`, `detect_cores` and `multiplies_bf16`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from inference.errors import LoadError

Quantization = Literal["none", "nf4", "int8"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]

BF16_CAPABILITY: Final = (8, 0)
"""The first compute capability with bfloat16 units (Ampere). Source: CUDA C++ programming guide, "Compute
capabilities"."""

FLASH_CAPABILITY: Final = (8, 0)
"""The first compute capability that flash attention 2 supports (Ampere), in half precision only.
Source: the README of flash-attention, "NVIDIA CUDA Support"."""

FITTING_SHARE: Final = 0.75
"""Weights may take this share of a GPU's memory; the rest is for the cache and the activations."""

FLOAT32_SHARE: Final = 0.5
"""Weights in float32 may take this share of a machine's memory; larger ones stay in bfloat16."""

CACHE_SHARE: Final = {"cpu": 0.1, "cuda": 0.6}
"""All key-value caches together may take this share of the memory that is free after loading. On a CPU the
memory is shared with everything else on the machine, and a larger cache makes steps slower long before memory
runs out."""

_CGROUP: Final = Path("/sys/fs/cgroup")

PAGE_TOKENS: Final = 32
MIN_CACHE_TOKENS: Final = 256
"""The minimum size of a useful key-value cache: a short conversation."""

MAX_BATCH_TOKENS: Final = {"cpu": 512, "cuda": 4096}
MAX_CACHE_TOKENS: Final = {"cpu": 8192, "cuda": 262_144}
"""Without flash attention the mask has a column for each cached token, so a cache larger than needed costs
time."""

MAX_UNMASKED_CACHE_TOKENS: Final = {"cpu": 16_384, "cuda": 262_144}
"""The same for attention that needs no mask. Steps take equally long with 8,192 and with 65,536 tokens, but a
cache is filled with zeros at the start: each 10,000 tokens of a small model take a tenth of a second."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine's GPU, memory and CPU features.

    Attributes:
        gpu_capability: Compute capability of the first CUDA device; None without one.
        has_cpu_bf16: Whether the CPU's matrix library multiplies bfloat16. If it does not, every row of a
            batch costs as much as the first, and a batch of 32 takes four times as long as in float32.
        gpu_count: The number of GPUs, all of the first one's kind. Without a GPU it has no meaning.
        gpu_total_bytes: The memory of each; 0 if unknown. `gpu_free_bytes` is the first one's.
    """

    gpu_name: str | None
    gpu_capability: tuple[int, int] | None
    gpu_free_bytes: int
    cpu_free_bytes: int
    has_cpu_bf16: bool
    gpu_count: int = 1
    gpu_total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how the weights are loaded.

    Attributes:
        merge_adapters: Whether each adapter is merged into a copy of the weights that it changes. Otherwise
            adapters stay unmerged, unless they cannot be batched.
    """

    device: Literal["cpu", "cuda"]
    dtype: Literal["bfloat16", "float16", "float32"]
    quantization: Quantization
    merge_adapters: bool = True


@dataclass(frozen=True, slots=True)
class CacheSize:
    """The size of one key-value cache.

    Attributes:
        blocks: The number of pages of `PAGE_TOKENS` tokens.
        batch_tokens: The maximum number of tokens that one step processes.
    """

    blocks: int
    batch_tokens: int

    @property
    def tokens(self) -> int:
        """Return the number of tokens that fit."""
        return self.blocks * PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Cores:
    """The processor cores that this process may use.

    Attributes:
        allowed: The kernel's numbers of the cores.
        quota: The container's CPU limit in cores, at least 1; None without a limit.
    """

    allowed: tuple[int, ...]
    quota: int | None

    @property
    def usable(self) -> int:
        """Return the number of cores that can be kept busy."""
        return min(len(self.allowed), self.quota or len(self.allowed))


def detect_cores() -> Cores:
    """Read the processor cores from the kernel and the container's limits.

    Source: the kernel's documentation of control groups v2, "cpu.max".
    """
    allowed = tuple(sorted(os.sched_getaffinity(0)))
    try:
        limit, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return Cores(allowed, None)
    return Cores(allowed, None if limit == "max" else max(1, int(limit) // int(period)))


def detect_hardware() -> Hardware:
    """Return what the machine has, as psutil and torch report it."""
    import psutil  # noqa: PLC0415 - both are slow to import, and only the loading thread needs them
    import torch  # noqa: PLC0415

    cpu_free = min(int(psutil.virtual_memory().available), container_free_bytes())
    has_cpu_bf16 = multiplies_bf16()
    if not torch.cuda.is_available():
        return Hardware(None, None, 0, cpu_free, has_cpu_bf16)
    free, total = torch.cuda.mem_get_info()
    return Hardware(
        torch.cuda.get_device_name(0),
        torch.cuda.get_device_capability(0),
        int(free),
        cpu_free,
        has_cpu_bf16,
        gpu_count=torch.cuda.device_count(),
        gpu_total_bytes=int(total),
    )


def multiplies_bf16() -> bool:
    """Return whether the CPU's matrix library multiplies bfloat16."""
    import torch  # noqa: PLC0415 - slow to import, as above

    # torch checks the same before it passes a product to oneDNN.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - there is no public way


def choose_placement(
    hardware: Hardware, device: str, dtype: str, quantization: str, weight_bytes: int
) -> Placement:
    """Choose where and how to load weights.

    Args:
        hardware: The machine's hardware.
        device: `auto`, `cpu` or `cuda`.
        dtype: `auto`, or the type to use on any hardware.
        quantization: `auto`, `none`, `nf4` or `int8`.
        weight_bytes: The size of the weights with two bytes a number.

    Raises:
        LoadError: If the hardware does not support what is required.
    """
    chosen_device = choose_device(hardware, device)
    chosen_dtype = dtype if dtype != "auto" else _choose_dtype(hardware, chosen_device, weight_bytes)
    chosen_quantization = quantization
    if quantization == "auto":
        is_tight = chosen_device == "cuda" and weight_bytes > FITTING_SHARE * hardware.gpu_free_bytes
        chosen_quantization = "nf4" if is_tight else "none"
    if chosen_quantization != "none" and chosen_device == "cpu":
        raise LoadError(
            f"FJARR_QUANTIZATION={chosen_quantization} needs a CUDA device, and the model is on the CPU"
        )
    return Placement(chosen_device, chosen_dtype, chosen_quantization)  # type: ignore[arg-type]  # validated by settings


def choose_device(hardware: Hardware, device: str) -> Literal["cpu", "cuda"]:
    """Return the device that the model runs on.

    Args:
        hardware: The machine's hardware.
        device: `auto`, `cpu` or `cuda`.

    Raises:
        LoadError: If a GPU is required and there is none.
    """
    if device == "cuda" and hardware.gpu_capability is None:
        raise LoadError("FJARR_DEVICE=cuda, but this machine has no CUDA device that torch can use")
    return "cuda" if device != "cpu" and hardware.gpu_capability is not None else "cpu"


def choose_attention(wanted: str, capability: tuple[int, int] | None, dtype: str, obstacle: str) -> Attention:
    """Choose the attention implementation.

    Args:
        wanted: `auto`, `sdpa`, `eager` or `flash_attention_2`.
        capability: Compute capability of the GPU that the model is on; None on a CPU.
        dtype: The type that the model computes in.
        obstacle: Why the model or the packages do not support flash attention; empty if they do.

    Raises:
        LoadError: If flash attention is required and not available.
    """
    if wanted in {"sdpa", "eager"}:
        return "sdpa" if wanted == "sdpa" else "eager"
    if capability is None:
        obstacle = "it needs a CUDA device, and the model is on the CPU"
    elif capability < FLASH_CAPABILITY:
        obstacle = "it needs a GPU of compute capability 8.0 or more, and this one has {}.{}".format(
            *capability
        )
    elif dtype == "float32":
        obstacle = "it computes in bfloat16 or float16, and the model is in float32"
    if not obstacle:
        return "flash_attention_2"
    if wanted == "flash_attention_2":
        raise LoadError(f"FJARR_ATTENTION=flash_attention_2 is not available: {obstacle}; leave it at auto")
    return "sdpa"


def size_cache(  # noqa: PLR0913 - what the size of a cache depends on
    device: str,
    free_bytes: int,
    bytes_per_token: int,
    caches: int,
    wanted_tokens: int | None,
    *,
    is_masked: bool = True,
) -> CacheSize:
    """Return the size of each key-value cache.

    Args:
        device: `cpu` or `cuda`.
        free_bytes: The memory that is free after loading.
        bytes_per_token: The size of one token's keys and values in all layers.
        caches: The number of caches.
        wanted_tokens: The size that the settings require; None derives it from the memory.
        is_masked: Whether the attention needs a mask over the whole cache.

    Raises:
        LoadError: If that size, or else the minimum, does not fit.
    """
    fitting_tokens = int(CACHE_SHARE[device] * free_bytes / caches / bytes_per_token)
    if wanted_tokens is not None and wanted_tokens * caches * bytes_per_token > free_bytes:
        wanted_bytes = wanted_tokens * caches * bytes_per_token
        raise LoadError(
            f"FJARR_KV_CACHE_TOKENS={wanted_tokens} needs {wanted_bytes // 2**20} MiB for {caches} key-value"
            f" caches, and {free_bytes // 2**20} MiB are free after loading: set {fitting_tokens} or less"
        )
    most = MAX_CACHE_TOKENS if is_masked else MAX_UNMASKED_CACHE_TOKENS
    tokens = wanted_tokens or min(most[device], fitting_tokens)
    blocks = tokens // PAGE_TOKENS
    if wanted_tokens is None and tokens < MIN_CACHE_TOKENS:
        raise LoadError(
            f"only {free_bytes // 2**20} MiB are free after loading, which is too little for key-value caches"
            f" of {caches} x {MIN_CACHE_TOKENS} tokens: take a smaller model, fewer adapters,"
            " FJARR_QUANTIZATION=nf4 on a GPU, or a larger machine"
        )
    return CacheSize(blocks, min(MAX_BATCH_TOKENS[device], blocks * PAGE_TOKENS))


def context_warning(
    model: str, known: int, cache_tokens: int, bytes_per_token: int, caches: int
) -> str | None:
    """Return a warning if a key-value cache holds less than the context that a model supports, else None."""
    if cache_tokens >= known:
        return None
    return (
        f"the context of {model} is {cache_tokens} tokens, and not the {known} that it supports: its"
        f" key-value cache holds no more (FJARR_KV_CACHE_TOKENS={known} takes"
        f" {known * bytes_per_token * caches // 2**20} MiB for {caches} of them)"
    )


def container_free_bytes() -> int:
    """Return the memory that the container's limit leaves free; `sys.maxsize` without a limit.

    Cached files, such as the packages, count as used, but the kernel frees them when memory is needed.

    Source: the kernel's documentation of control groups v2, "memory.max", "memory.current", "memory.stat".
    """
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        entries = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return sys.maxsize
    used -= int(entries.get("inactive_file", 0))
    return sys.maxsize if limit == "max" else max(0, int(limit) - used)


def _choose_dtype(hardware: Hardware, device: str, weight_bytes: int) -> str:
    if device == "cpu":
        fits_float32 = 2 * weight_bytes < FLOAT32_SHARE * hardware.cpu_free_bytes
        return "float32" if fits_float32 and not hardware.has_cpu_bf16 else "bfloat16"
    return "bfloat16" if hardware.gpu_capability and hardware.gpu_capability >= BF16_CAPABILITY else "float16"

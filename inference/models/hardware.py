"""Choose device, dtype, quantisation and attention from the hardware, unless the settings say.

All of it is pure, but for `look` and `look_at_cores`, which ask the machine.
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
"""The first compute capability that flash attention 2 runs on (Ampere), and then in half precision only.
Source: the README of flash-attention, "NVIDIA CUDA Support"."""

FITTING_SHARE: Final = 0.75
"""Weights may take this share of a card; the rest is for the cache and the activations."""

FLOAT32_SHARE: Final = 0.5
"""Weights in float32 may take this share of a machine's memory; larger ones stay in bfloat16."""

CACHE_SHARE: Final = {"cpu": 0.1, "cuda": 0.6}
"""Which share of the memory left after loading all key-value caches together may take. On a CPU the memory is
shared with everything else on the machine, and the cost of a step grows with the cache long before memory
ends."""

_CGROUP: Final = Path("/sys/fs/cgroup")

PAGE_TOKENS: Final = 32
LEAST_CACHE_TOKENS: Final = 256
"""What a key-value cache has to hold to be of use: a short conversation."""

MAX_BATCH_TOKENS: Final = {"cpu": 512, "cuda": 4096}
MAX_CACHE_TOKENS: Final = {"cpu": 8192, "cuda": 262_144}
"""Without flash attention the mask has a column a cached token, so a cache larger than its use costs time."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Say what the machine has.

    Attributes:
        gpu_capability: Compute capability of the first CUDA device; None without one.
        has_cpu_bf16: Whether the CPU's matrix library multiplies bfloat16. Where it does not, every row of a
            batch costs as much as the first, and a batch of 32 takes four times as long as in float32.
    """

    gpu_name: str | None
    gpu_capability: tuple[int, int] | None
    gpu_free_bytes: int
    cpu_free_bytes: int
    has_cpu_bf16: bool


@dataclass(frozen=True, slots=True)
class Placement:
    """Say where and how the weights are loaded.

    Attributes:
        are_adapters_merged: Whether each adapter gets weights of its own, with it in them. Otherwise those
            that can stay beside the base's weights.
    """

    device: Literal["cpu", "cuda"]
    dtype: Literal["bfloat16", "float16", "float32"]
    quantization: Quantization
    are_adapters_merged: bool = True


@dataclass(frozen=True, slots=True)
class CacheSize:
    """Say how large the key-value cache of one lane is.

    Attributes:
        blocks: Pages of `PAGE_TOKENS` tokens.
        batch_tokens: The most tokens that one step processes.
    """

    blocks: int
    batch_tokens: int

    @property
    def tokens(self) -> int:
        """Return how many tokens fit."""
        return self.blocks * PAGE_TOKENS


@dataclass(frozen=True, slots=True)
class Cores:
    """Say which processor cores this process may use.

    Attributes:
        allowed: The kernel's numbers of them.
        quota: How many cores' time the container's limit allows, at least 1; None without a limit.
    """

    allowed: tuple[int, ...]
    quota: int | None

    @property
    def usable(self) -> int:
        """Return how many cores' time there is."""
        return min(len(self.allowed), self.quota or len(self.allowed))


def look_at_cores() -> Cores:
    """Ask the kernel and the container's limits about processor cores.

    Source: the kernel's documentation of control groups v2, "cpu.max".
    """
    allowed = tuple(sorted(os.sched_getaffinity(0)))
    try:
        limit, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return Cores(allowed, None)
    return Cores(allowed, None if limit == "max" else max(1, int(limit) // int(period)))


def look() -> Hardware:
    """Ask the machine what it has."""
    import psutil  # noqa: PLC0415 - both are slow to import, and only the loading thread needs them
    import torch  # noqa: PLC0415

    cpu_free = min(int(psutil.virtual_memory().available), _container_free_bytes())
    has_cpu_bf16 = multiplies_bf16()
    if not torch.cuda.is_available():
        return Hardware(None, None, 0, cpu_free, has_cpu_bf16)
    free, _ = torch.cuda.mem_get_info()
    return Hardware(
        torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0), int(free), cpu_free, has_cpu_bf16
    )


def multiplies_bf16() -> bool:
    """Return whether the CPU's matrix library multiplies bfloat16."""
    import torch  # noqa: PLC0415 - slow to import, as above

    # The same question that torch itself asks before it hands a product to oneDNN.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - there is no public way


def choose(hardware: Hardware, device: str, dtype: str, quantization: str, weight_bytes: int) -> Placement:
    """Choose how to load weights of a size (in their two-byte form).

    Args:
        hardware: What the machine has.
        device: `auto`, `cpu` or `cuda`.
        dtype: `auto`, or one to use whatever the hardware.
        quantization: `auto`, `none`, `nf4` or `int8`.
        weight_bytes: Their size.

    Raises:
        LoadError: If what is asked for is not there.
    """
    chosen_device = _choose_device(hardware, device)
    chosen_dtype = dtype if dtype != "auto" else _choose_dtype(hardware, chosen_device, weight_bytes)
    chosen_quantization = quantization
    if quantization == "auto":
        is_tight = chosen_device == "cuda" and weight_bytes > FITTING_SHARE * hardware.gpu_free_bytes
        chosen_quantization = "nf4" if is_tight else "none"
    if chosen_quantization != "none" and chosen_device == "cpu":
        raise LoadError(
            f"FJARR_QUANTIZATION={chosen_quantization} needs a CUDA device, and the model goes to the CPU"
        )
    return Placement(chosen_device, chosen_dtype, chosen_quantization)  # type: ignore[arg-type]  # judged by settings


def choose_attention(wanted: str, capability: tuple[int, int] | None, dtype: str, lacks: str) -> Attention:
    """Choose how attention is computed.

    Args:
        wanted: `auto`, `sdpa`, `eager` or `flash_attention_2`.
        capability: Compute capability of the card that the model is on; None on a CPU.
        dtype: What the model computes in.
        lacks: What the model or the packages lack for flash attention; empty if nothing.

    Raises:
        LoadError: If flash attention is asked for and cannot be had.
    """
    if wanted in {"sdpa", "eager"}:
        return "sdpa" if wanted == "sdpa" else "eager"
    if capability is None:
        lacks = "it needs a CUDA device, and the model is on the CPU"
    elif capability < FLASH_CAPABILITY:
        lacks = "it needs a card of compute capability 8.0 or more, and this one has {}.{}".format(
            *capability
        )
    elif dtype == "float32":
        lacks = "it computes in bfloat16 or float16, and the model is in float32"
    if not lacks:
        return "flash_attention_2"
    if wanted == "flash_attention_2":
        raise LoadError(f"FJARR_ATTENTION=flash_attention_2 cannot be had: {lacks}; leave it at auto")
    return "sdpa"


def size_cache(
    device: str, free_bytes: int, bytes_per_token: int, lanes: int, wanted_tokens: int | None
) -> CacheSize:
    """Size the key-value cache of each of some lanes.

    Args:
        device: `cpu` or `cuda`.
        free_bytes: Memory left after loading.
        bytes_per_token: Keys and values of one token in all layers.
        lanes: How many caches there are.
        wanted_tokens: What the settings say; None derives it.

    Raises:
        LoadError: If what is wanted, or else a short conversation, would not fit.
    """
    room = int(CACHE_SHARE[device] * free_bytes / lanes / bytes_per_token)
    if wanted_tokens is not None and wanted_tokens * lanes * bytes_per_token > free_bytes:
        wanted_bytes = wanted_tokens * lanes * bytes_per_token
        raise LoadError(
            f"FJARR_KV_CACHE_TOKENS={wanted_tokens} needs {wanted_bytes // 2**20} MiB for {lanes} key-value"
            f" caches, and {free_bytes // 2**20} MiB are free after loading: set {room} or less"
        )
    tokens = wanted_tokens or min(MAX_CACHE_TOKENS[device], room)
    blocks = tokens // PAGE_TOKENS
    if wanted_tokens is None and tokens < LEAST_CACHE_TOKENS:
        raise LoadError(
            f"only {free_bytes // 2**20} MiB are free after loading, which is too little for key-value caches"
            f" of {lanes} x {LEAST_CACHE_TOKENS} tokens: take a smaller model, fewer adapters,"
            " FJARR_QUANTIZATION=nf4 on a GPU, or a larger machine"
        )
    return CacheSize(blocks, min(MAX_BATCH_TOKENS[device], blocks * PAGE_TOKENS))


def context_limit(model: str, known: int, cache_tokens: int, bytes_per_token: int, lanes: int) -> str | None:
    """Say so if a key-value cache holds less than the context that a model knows; else None."""
    if cache_tokens >= known:
        return None
    return (
        f"the context of {model} is {cache_tokens} tokens, and not the {known} that it knows: its key-value"
        f" cache holds no more (FJARR_KV_CACHE_TOKENS={known} takes"
        f" {known * bytes_per_token * lanes // 2**20} MiB for {lanes} of them)"
    )


def _container_free_bytes() -> int:
    """Return what the container's own limit leaves free; much, if there is no limit.

    Files that were read, such as the packages, count as used, and are given up where memory is wanted.

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


def _choose_device(hardware: Hardware, device: str) -> Literal["cpu", "cuda"]:
    if device == "cuda" and hardware.gpu_capability is None:
        raise LoadError("FJARR_DEVICE=cuda, but this machine has no CUDA device that torch can use")
    return "cuda" if device != "cpu" and hardware.gpu_capability is not None else "cpu"


def _choose_dtype(hardware: Hardware, device: str, weight_bytes: int) -> str:
    if device == "cpu":
        has_room = 2 * weight_bytes < FLOAT32_SHARE * hardware.cpu_free_bytes
        return "float32" if has_room and not hardware.has_cpu_bf16 else "bfloat16"
    return "bfloat16" if hardware.gpu_capability and hardware.gpu_capability >= BF16_CAPABILITY else "float16"

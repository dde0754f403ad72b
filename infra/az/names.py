"""Compute the default names of the template's resources, before anything exists.

Inference finds the resources of the fine-tuning step only because that step's template uses the same formula,
so the names must be exactly the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from infra.az.commands import Group

_MASK: Final = 0xFFFFFFFF
_C1: Final = 0x239B961B
_C2: Final = 0xAB0E9789
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_SUFFIX_LENGTH: Final = 5

PREFIXES: Final = {
    "storageAccountName": "aistorage",
    "fileShareName": "aifileshare",
    "acaEnvironmentName": "aienv",
    "acaEnvironmentStorageName": "aienvstorage",
    "acaAppName": "aiacaapp",
    "acaLogAnalyticsName": "ailog",
}
"""The parameters that are names, with the prefix of each default."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the resources that a deployment creates or uses."""

    storage_account: str
    file_share: str
    environment: str
    environment_storage: str
    app: str
    workspace: str


def resource_suffix(group: Group) -> str:
    """Return the template's default for `resourceSuffix`: `take(uniqueString(resourceGroup().id), 5)`."""
    return unique_string(group.id)[:_SUFFIX_LENGTH]


def default_name(parameter: str, suffix: str) -> str:
    """Return the name that the template uses if a name parameter is null."""
    return PREFIXES[parameter] + suffix


def unique_string(*values: str) -> str:
    """Return the 13 letters that the template function `uniqueString` returns for these values.

    Source: not documented by Microsoft; a 64-bit hash similar to Murmur over the values joined by `-`, on
    which several independent implementations agree. Case-sensitive.
    """
    bits = _hash("-".join(values).encode()) << 1  # 65 bits: 13 letters of 5
    return "".join(_ALPHABET[bits >> shift & 31] for shift in range(60, -1, -5))


def _hash(data: bytes) -> int:
    """Hash bytes to 64 bits, seed 0."""
    low = high = 0
    whole = len(data) - len(data) % 8
    for start in range(0, whole, 8):
        first, second = (int.from_bytes(data[i : i + 4], "little") for i in (start, start + 4))
        low ^= _scramble(first, _C1, 15, _C2)
        low = ((_rotate(low, 19) + high) * 5 + 0x561CCD1B) & _MASK
        high ^= _scramble(second, _C2, 17, _C1)
        high = ((_rotate(high, 13) + low) * 5 + 0x0BCAA747) & _MASK
    tail = data[whole:]
    low ^= _scramble(int.from_bytes(tail[:4], "little"), _C1, 15, _C2)
    high ^= _scramble(int.from_bytes(tail[4:], "little"), _C2, 17, _C1)
    return _finish(low ^ len(data), high ^ len(data))


def _finish(low: int, high: int) -> int:
    low = (low + high) & _MASK
    high = (high + low) & _MASK
    low, high = _avalanche(low), _avalanche(high)
    low = (low + high) & _MASK
    high = (high + low) & _MASK
    return high << 32 | low


def _scramble(word: int, before: int, bits: int, after: int) -> int:
    return _rotate(word * before & _MASK, bits) * after & _MASK


def _avalanche(word: int) -> int:
    word = (word ^ word >> 16) * 0x85EBCA6B & _MASK
    word = (word ^ word >> 13) * 0xC2B2AE35 & _MASK
    return word ^ word >> 16


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 32 - bits) & _MASK

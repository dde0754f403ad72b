"""API keys, as the environment sets them. Only their digests are kept. Imports the standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

API_KEYS_VARIABLE: Final = "FJARR_API_KEYS"

DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
"""An entry that gives the key's digest instead of the key."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The name and the digest of an API key."""

    name: str
    digest: bytes


def parse_api_keys(text: str) -> tuple[ApiKey, ...]:
    """Read entries `name=key`, separated by commas or newlines; a bare key is named `default`.

    Raises:
        ValueError: If a name or a key is empty, or two keys have the same name.
    """
    keys: list[ApiKey] = []
    for entry in text.replace("\n", ",").split(","):
        name, equals, key = entry.strip().partition("=")
        if not equals:
            name, key = "default", name
        if not name and not key:
            continue
        if not name.strip() or not key.strip():
            # The entry may be a secret: the message has its position, not its text.
            raise ValueError(
                f"entry {len(keys) + 1} has an empty name or key; entries are name=key, or a bare key"
            )
        digest = DIGEST.fullmatch(key.strip())
        keys.append(
            ApiKey(name.strip(), bytes.fromhex(digest.group(1)) if digest else digest_of(key.strip()))
        )
    names = [key.name for key in keys]
    if len(set(names)) != len(names):
        raise ValueError("two keys have the same name (a bare key is named 'default')")
    return tuple(keys)


def hide_keys(environ: MutableMapping[str, str], keys: tuple[ApiKey, ...]) -> None:
    """Replace the keys in an environment by their digests, so that child processes do not get them."""
    if environ.get(API_KEYS_VARIABLE):
        environ[API_KEYS_VARIABLE] = ",".join(f"{key.name}=sha256:{key.digest.hex()}" for key in keys)


def digest_of(key: str) -> bytes:
    """Return the digest by which a key is stored and compared."""
    return sha256(key.encode()).digest()

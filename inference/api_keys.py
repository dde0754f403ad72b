"""API keys, as the environment and the share set them. Only their digests are kept.

Imports the standard library only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

API_KEYS_VARIABLE: Final = "FJARR_API_KEYS"
ADMIN_KEY_VARIABLE: Final = "FJARR_ADMIN_KEY"

DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
"""An entry that gives the key's digest instead of the key."""


KEYS_FILE: Final = "api-keys.json"
"""The file on the share with keys that were changed while replicas run. It contains digests, no keys."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """The name and the digest of an API key."""

    name: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class ChangedKeys:
    """The keys of the file on the share, for processes that were started with older ones.

    Attributes:
        keys: The keys that are valid now.
        replaced: The fingerprints of the sets of keys that were valid before. A process whose environment has
            another set was started later than the change, and keeps its own.
    """

    keys: tuple[ApiKey, ...]
    replaced: frozenset[str]

    def apply_to(self, configured: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        """Return the valid keys of a process that was started with the keys `configured`."""
        return self.keys if fingerprint(configured) in self.replaced else configured


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


def parse_changed_keys(text: str) -> ChangedKeys:
    """Read the file on the share: `{"keys": {NAME: "sha256:..."}, "replaced": [FINGERPRINT, ...]}`.

    Raises:
        ValueError: If it is not such a document.
    """
    document = json.loads(text)
    try:
        digests = {str(name): DIGEST.fullmatch(value) for name, value in document["keys"].items()}
        keys = tuple(ApiKey(name, bytes.fromhex(found[1])) for name, found in digests.items() if found)
        replaced = frozenset(map(str, document["replaced"]))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"it has no keys and replaced sets of keys ({error!r})") from error
    if not keys or len(keys) != len(digests):
        raise ValueError("a key's digest is not sha256: with 64 hexadecimal digits, or there is no key")
    return ChangedKeys(keys, replaced)


def fingerprint(keys: Iterable[ApiKey]) -> str:
    """Return a digest of a set of keys with their names; their order makes no difference."""
    lines = sorted(f"{key.name}={key.digest.hex()}\n" for key in keys)
    return sha256("".join(lines).encode()).hexdigest()


def hide_keys(
    environ: MutableMapping[str, str], keys: tuple[ApiKey, ...], variable: str = API_KEYS_VARIABLE
) -> None:
    """Replace the keys in an environment by their digests, so that child processes do not get them."""
    if environ.get(variable):
        environ[variable] = ",".join(f"{key.name}=sha256:{key.digest.hex()}" for key in keys)


def digest_of(key: str) -> bytes:
    """Return the digest by which a key is stored and compared."""
    return sha256(key.encode()).digest()

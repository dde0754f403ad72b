"""Find API keys by their digests, with comparisons in constant time."""

from __future__ import annotations

import hmac
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from inference.api_keys import ApiKey, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator

LENT_NAME: Final = "self-test"


class Keyring:
    """The digests of the valid API keys, which can change while requests are served."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = keys
        self._lent: tuple[ApiKey, ...] = ()

    def replace(self, keys: tuple[ApiKey, ...]) -> None:
        """Make these keys the valid ones."""
        self._keys = keys

    @contextmanager
    def lend(self) -> Iterator[str]:
        """Return a random key that is valid for the length of a `with` block."""
        key = secrets.token_urlsafe(32)
        self._lent = (ApiKey(LENT_NAME, digest_of(key)),)
        try:
            yield key
        finally:
            self._lent = ()

    def find(self, key: str) -> str | None:
        """Return the name of a key, or None. The time does not depend on which key matches."""
        digest = digest_of(key)
        name = None
        for known in (*self._keys, *self._lent):
            if hmac.compare_digest(known.digest, digest):
                name = known.name
        return name

    def derive_secret(self, name: str, purpose: str) -> bytes | None:
        """Return a secret for a purpose, which changes with the key of that name; None if there is none."""
        for known in self._keys:
            if known.name == name:
                return hmac.digest(known.digest, purpose.encode(), "sha256")
        return None

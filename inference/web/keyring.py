"""Find API keys by their digests, with comparisons in constant time."""

from __future__ import annotations

import hmac

from inference.api_keys import ApiKey, digest_of


class Keyring:
    """The digests of the API keys."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = keys

    def find(self, key: str) -> str | None:
        """Return the name of a key, or None. The time does not depend on which key matches."""
        digest = digest_of(key)
        name = None
        for known in self._keys:
            if hmac.compare_digest(known.digest, digest):
                name = known.name
        return name

    def derive_secret(self, purpose: str) -> bytes:
        """Return a secret for a purpose; it changes whenever the keys change."""
        digests = b"".join(sorted(key.digest for key in self._keys))
        return hmac.digest(digests or b"no keys", purpose.encode(), "sha256")

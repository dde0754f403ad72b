"""Create, read and change the API keys, which are kept as a secret of the container app.

A running replica does not see a changed secret. So a change is also written to a file on the share, which
every server reads: it has the digests of the valid keys, and fingerprints of the sets of keys that it
replaces. A replica that was started later has the changed secret, and does not need the file.

Apart from the secret, keys are only in private files while az runs; they are never on a command line.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from infra.az.errors import NotFoundError
from infra.document import Json, as_list, as_object, load_json
from infra.errors import UsageError
from infra.resources.app_secrets import read_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from infra.az.client import Az
    from infra.az.commands import Group
    from infra.share.protocol import Share

SECRET_NAME: Final = "api-key"  # noqa: S105  # the name of the secret, as in the template
DEFAULT_NAME: Final = "default"
KEYS_FILE: Final = "api-keys.json"
"""The file on the share with the digests of changed keys. Source: `inference.api_keys`."""

_NO_KEY: Final = "invoke provision makes one, unless environmentVariables sets FJARR_AUTH to off"
_KEY_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_GIVEN_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_SEPARATORS: Final = re.compile(r"[,\s=]")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and the name of its user."""

    name: str
    value: str


def new_key() -> str:
    """Return a new key of 256 random bits, in characters that no shell, URL or parser of options changes."""
    return secrets.token_hex(_KEY_BYTES)


def read_keys(az: Az, group: Group, app: str) -> tuple[ApiKey, ...]:
    """Read the keys of an app; none if it has no keys, or if there is no such app.

    Raises:
        UsageError: They are in a Key Vault.
        RemoteError: Azure rejects the request.
    """
    try:
        return keys_in(read_secrets(az, group, app).get(SECRET_NAME, {}), app)
    except NotFoundError:
        return ()


def keys_in(secret: Mapping[str, Json], app: str) -> tuple[ApiKey, ...]:
    """Return the keys in an app's secret.

    Raises:
        UsageError: They are in a Key Vault.
    """
    address = secret.get("keyVaultUrl")
    if address:
        what = f"the API keys of the app {app!r} are in a Key Vault, and are read and changed there"
        raise UsageError(what, hint=f"az keyvault secret show --query value --output tsv --id {address}")
    return parse_keys(str(secret.get("value") or ""))


def require_keys(keys: tuple[ApiKey, ...], app: str) -> tuple[ApiKey, ...]:
    """Return the keys of an app.

    Raises:
        UsageError: There are none.
    """
    if not keys:
        raise UsageError(f"the app {app!r} has no API key", hint=_NO_KEY)
    return keys


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Parse `name=key` entries, separated by commas or newlines; a key without a name is named `default`."""
    entries = [entry.strip() for entry in text.replace("\n", ",").split(",") if entry.strip()]
    return tuple(_parse_entry(entry) for entry in entries)


def format_keys(keys: Iterable[ApiKey]) -> str:
    """Return the text of the secret for these keys, in the form that `parse_keys` reads."""
    return ",".join(f"{key.name}={key.value}" for key in keys)


def merge_keys(deployed: str, wanted: str) -> str:
    """Return the text of the secret for the keys of the parameter `apiKey` and those that the app has.

    A key of the parameter replaces the one of the same name. The others were added with `invoke key`: they
    stay.
    """
    asked = {key.name: key for key in parse_keys(wanted)}
    kept = [key for key in parse_keys(deployed) if key.name not in asked]
    return format_keys([*asked.values(), *kept]) if kept else wanted


def check_name(name: str) -> None:
    """Check the name of a key.

    Raises:
        UsageError: It is empty, too long, or has characters that the secret's text cannot contain.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of an API key",
            hint="use up to 64 letters, digits and ._@-, and begin with a letter or a digit",
        )


def check_value(value: str) -> None:
    """Check the text of a key.

    Raises:
        UsageError: It is empty, or has a comma, an equals sign or white space, which would end it.
    """
    if not value or _SEPARATORS.search(value):
        raise UsageError(
            "this text cannot be an API key", hint="it must not be empty or contain a comma, '=' or a space"
        )


def publish_keys(share: Share, before: tuple[ApiKey, ...], after: tuple[ApiKey, ...]) -> None:
    """Write changed keys to the share, for the replicas that were started with older ones.

    Raises:
        RemoteError: The share cannot be written.
    """
    replaced = {fingerprint(before), *_replaced_before(share.read(KEYS_FILE))}
    document = {"keys": {key.name: f"sha256:{_digest(key)}" for key in after}, "replaced": sorted(replaced)}
    share.write(KEYS_FILE, (json.dumps(document, indent=1) + "\n").encode())


def fingerprint(keys: Iterable[ApiKey]) -> str:
    """Return a digest of a set of keys with their names. Source: `inference.api_keys.fingerprint`."""
    lines = sorted(f"{key.name}={_digest(key)}\n" for key in keys)
    return sha256("".join(lines).encode()).hexdigest()


def _replaced_before(content: bytes | None) -> tuple[str, ...]:
    try:
        document: Mapping[str, Json] = as_object(load_json(content or b"{}"))
    except ValueError:
        return ()  # the server does not use such a file either
    return tuple(map(str, as_list(document.get("replaced"))))


def _digest(key: ApiKey) -> str:
    """Return the digest of a key, which may be given as its digest already."""
    given = _GIVEN_DIGEST.fullmatch(key.value)
    return given[1] if given else sha256(key.value.encode()).hexdigest()


def _parse_entry(entry: str) -> ApiKey:
    name, equals, value = entry.partition("=")
    return ApiKey(name.strip(), value.strip()) if equals else ApiKey(DEFAULT_NAME, name)

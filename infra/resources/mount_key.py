"""Tell whether an environment still mounts the share with a valid key of its storage account. Pure.

Azure does not return the key that an environment storage was given. So the template sets a digest of that key
as an environment variable of the server, `STORAGE_KEY_DIGEST`. When the key is rotated, the next deployment
changes the variable, and with it the revision, whose replicas mount the share anew.

The digest is the template function `uniqueString`: 65 bits of a hash, from which a key of 512 bits cannot be
computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from infra.az.names import unique_string
from infra.config.template import CONTAINER
from infra.document import Json, as_objects, object_at

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGEST_VARIABLE: Final = "STORAGE_KEY_DIGEST"

KeyState = Literal["valid", "rotated", "unknown"]


def parse_account_keys(answer: Json) -> tuple[str, ...]:
    """Parse the keys of a storage account, as az lists them. The result is secret."""
    return tuple(str(entry["value"]) for entry in as_objects(answer) if entry.get("value"))


def mounted_digest(app: Mapping[str, Json]) -> str:
    """Return the digest of the key that an app's share was mounted with; empty if it is not recorded."""
    for container in as_objects(object_at(app, "properties", "template").get("containers")):
        variables = container.get("env") if container.get("name") == CONTAINER else None
        for variable in as_objects(variables):
            if variable.get("name") == DIGEST_VARIABLE:
                return str(variable.get("value") or "")
    return ""


def key_state(app: Mapping[str, Json], keys: tuple[str, ...]) -> KeyState:
    """Return whether the key that an app's share was mounted with is one of its account's keys.

    Args:
        app: The app as az shows it.
        keys: The account's keys; none if they could not be read.
    """
    digest = mounted_digest(app)
    if not digest or not keys:
        return "unknown"
    return "valid" if digest in map(unique_string, keys) else "rotated"

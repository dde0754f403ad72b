"""Create and read the API keys, which are kept as a secret of the container app.

Apart from that secret, they are only in the parameters file while a deployment runs; they are never on a
command line.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import app_secret_show
from infra.document import Json, as_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.az.commands import Group
    from infra.session import Session

SECRET_NAME: Final = "api-key"  # noqa: S105  # the name of the secret, as in the template
DEFAULT_NAME: Final = "default"
_KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key and the name of its user."""

    name: str
    value: str


def new_key() -> str:
    """Return a new key of 256 random bits, in characters that need no quoting in a shell or a URL."""
    return secrets.token_urlsafe(_KEY_BYTES)


def has_secret(app: Mapping[str, Json]) -> bool:
    """Return whether an app, as az shows it, has keys."""
    listed = as_object(as_object(app.get("properties")).get("configuration")).get("secrets")
    names = [as_object(item).get("name") for item in listed] if isinstance(listed, list) else []
    return SECRET_NAME in names


def read_secret(session: Session, group: Group, app: str) -> str:
    """Read the keys of an app as one text, in the form that the server takes."""
    return str(as_object(session.az.run(app_secret_show(group, app, SECRET_NAME))).get("value") or "")


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Parse `name=key` entries, separated by commas or newlines; a key without a name is named `default`."""
    entries = [entry.strip() for entry in text.replace("\n", ",").split(",") if entry.strip()]
    return tuple(_parse_entry(entry) for entry in entries)


def _parse_entry(entry: str) -> ApiKey:
    name, equals, value = entry.partition("=")
    return ApiKey(name.strip(), value.strip()) if equals else ApiKey(DEFAULT_NAME, name)

"""Keep the API key: made once, kept as a secret of the app, read back from there when it is needed.

It is in no file and on no command line of ours, but in the parameters file while a deployment runs.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.az.commands import app_secret_show
from infra.az.errors import NotFoundError
from infra.document import Json, as_object
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.az.commands import Group
    from infra.session import Session

SECRET_NAME = "api-key"  # noqa: S105  # what the secret is called, as in the template
DEFAULT_NAME = "default"
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """Hold one key with the name that its user has."""

    name: str
    value: str


def new_key() -> str:
    """Return a new key of 256 random bits, in letters that no shell and no URL minds."""
    return secrets.token_urlsafe(_KEY_BYTES)


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """Hold the keys of an app, the first of them the one to hand out."""

    keys: tuple[ApiKey, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {"key": self.keys[0].value, "keys": {key.name: key.value for key in self.keys}}

    def to_text(self) -> str:
        """Return the first key alone, so that `$(invoke key)` is one."""
        return self.keys[0].value


def find_keys(session: Session) -> ApiKeys:
    """Return the keys of a stage's app.

    Raises:
        UsageError: The stage is not provisioned, or its app asks for no key.
    """
    config = session.config()
    session.require_cloud()
    try:
        keys = parse_keys(read_secret(session, session.group(), config.aca_app_name))
    except NotFoundError:
        keys = ()
    if not keys:
        hint = "invoke provision makes one, unless environmentVariables sets FJARR_AUTH to off"
        raise UsageError(f"the app {config.aca_app_name!r} has no API key", hint=hint)
    return ApiKeys(keys)


def read_secret(session: Session, group: Group, app: str) -> str:
    """Read the keys that an app keeps, as one text, in the form that the server takes them."""
    return str(as_object(session.az.run(app_secret_show(group, app, SECRET_NAME))).get("value") or "")


def has_secret(app: Mapping[str, Json]) -> bool:
    """Say whether a shown app keeps keys."""
    listed = as_object(as_object(app.get("properties")).get("configuration")).get("secrets")
    names = [as_object(item).get("name") for item in listed] if isinstance(listed, list) else []
    return SECRET_NAME in names


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Take `name=key` entries apart, parted by commas or newlines; a bare key has the name `default`."""
    entries = [entry.strip() for entry in text.replace("\n", ",").split(",") if entry.strip()]
    return tuple(_entry(entry) for entry in entries)


def _entry(entry: str) -> ApiKey:
    name, equals, value = entry.partition("=")
    return ApiKey(name.strip(), value.strip()) if equals else ApiKey(DEFAULT_NAME, name)

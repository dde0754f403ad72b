"""Print the API keys of a stage's app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.az.errors import NotFoundError
from infra.errors import UsageError
from infra.resources.api_keys import ApiKey, parse_keys, read_secret

if TYPE_CHECKING:
    from infra.session import Session


@dataclass(frozen=True, slots=True)
class ApiKeys:
    """The keys of an app. The first is the one to hand out."""

    keys: tuple[ApiKey, ...]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return {"key": self.keys[0].value, "keys": {key.name: key.value for key in self.keys}}

    def to_text(self) -> str:
        """Return the first key alone, so that `$(invoke key)` expands to it."""
        return self.keys[0].value


def find_keys(session: Session) -> ApiKeys:
    """Return the keys of a stage's app.

    Raises:
        UsageError: The stage is not provisioned, or its app requires no key.
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

"""Find where models are: the endpoint of a stage, or an address that the user gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from infra.errors import UsageError
from infra.evaluation.asking import Endpoint
from infra.resources.api_keys import read_keys

if TYPE_CHECKING:
    from infra.session import Session

KEY_VARIABLE: Final = "OPENAI_API_KEY"
"""The environment variable with the key for an address, unless a flag names another."""


def find_endpoint(address: str | None, session: Session | None, key: str) -> Endpoint | None:
    """Return the endpoint of an address, else that of a stage, else None.

    Args:
        address: An address that the user gave.
        session: The stage.
        key: The key for the address; the stage's own is read from Azure.

    Raises:
        UsageError: The address is none, or the stage is not provisioned or is stopped.
    """
    if address is not None:
        return Endpoint(normalize_url(address), key)
    if session is None:
        return None
    config = session.config()
    session.require_cloud()
    keys = read_keys(session.az, session.group(), config.aca_app_name)
    return Endpoint(normalize_url(config.endpoint_url), keys[0].value if keys else "")


def normalize_url(text: str) -> str:
    """Return an address with a scheme and a path, by default `/v1`.

    Raises:
        UsageError: It is not the address of a server.
    """
    text = text.strip().rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"{text!r} is not the address of a server", hint="such as http://127.0.0.1:8000/v1")
    return text if parts.path else f"{text}/v1"

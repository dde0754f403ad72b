"""Where a stage's endpoint and key are found, and what counts as an address."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from infra.errors import UsageError
from infra.resources.model_endpoint import find_endpoint, normalize_url
from tests.doubles.azure_stage import CONFIG, GONE

if TYPE_CHECKING:
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz


def test_the_stage_has_an_address_and_a_key(session: Session, az: ScriptedAz) -> None:
    az.answers["containerapp secret list"] = [{"name": "api-key", "value": "abc"}]
    endpoint = find_endpoint(None, session, "of another server")
    assert endpoint is not None
    assert (endpoint.url, endpoint.api_key) == (f"{CONFIG.endpoint_url}/v1", "abc")
    assert "abc" not in repr(endpoint)


def test_a_stage_without_a_key(session: Session, az: ScriptedAz) -> None:
    az.answers["containerapp secret list"] = GONE
    endpoint = find_endpoint(None, session, "of another server")
    assert endpoint is not None
    assert endpoint.api_key == ""


def test_a_stopped_stage(session: Session) -> None:
    with pytest.raises(UsageError, match="is stopped"):
        find_endpoint(None, replace(session, is_connected=False), "")


def test_addresses() -> None:
    assert normalize_url("http://host:1/") == "http://host:1/v1"
    assert normalize_url("https://host/v1/") == "https://host/v1"
    assert normalize_url("https://host/openai/v2") == "https://host/openai/v2"
    for wrong in ("here", "ftp://host", "http://", ""):
        with pytest.raises(UsageError, match="is not the address of a server"):
            normalize_url(wrong)


def test_an_address_comes_before_the_stage(session: Session, az: ScriptedAz) -> None:
    endpoint = find_endpoint("http://host", session, "key")
    assert endpoint is not None
    assert (endpoint.url, endpoint.api_key, az.lines) == ("http://host/v1", "key", [])
    assert find_endpoint(None, None, "key") is None

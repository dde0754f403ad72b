"""Where `invoke evaluate` finds a stage's endpoint and key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.errors import UsageError
from infra.verbs.evaluate import EvaluationRequest, _find_endpoint
from tests.doubles.azure_stage import CONFIG, GONE

if TYPE_CHECKING:
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz

REQUEST = EvaluationRequest(Path("data.jsonl"))


def test_the_stage_has_an_address_and_a_key(session: Session, az: ScriptedAz) -> None:
    az.answers["containerapp secret list"] = [{"name": "api-key", "value": "abc"}]
    endpoint = _find_endpoint(REQUEST, session, "of another server")
    assert endpoint is not None
    assert (endpoint.url, endpoint.api_key) == (f"{CONFIG.endpoint_url}/v1", "abc")
    assert "abc" not in repr(endpoint)


def test_a_stage_without_a_key(session: Session, az: ScriptedAz) -> None:
    az.answers["containerapp secret list"] = GONE
    endpoint = _find_endpoint(REQUEST, session, "of another server")
    assert endpoint is not None
    assert endpoint.api_key == ""


def test_a_stopped_stage(session: Session) -> None:
    with pytest.raises(UsageError, match="is stopped"):
        _find_endpoint(REQUEST, replace(session, is_connected=False), "")

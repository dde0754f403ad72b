"""Where `invoke key` finds the key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from infra.errors import UsageError
from infra.verbs.key import find_keys
from infra.verbs.open import open_page
from tests.doubles.azure_stage import GONE

if TYPE_CHECKING:
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz


def test_the_key_is_read_from_the_app(session: Session, az: ScriptedAz) -> None:
    az.answers["containerapp secret show"] = {"name": "api-key", "value": "abc"}
    keys = find_keys(session)
    assert keys.to_text() == "abc"
    assert keys.to_json() == {"key": "abc", "keys": {"default": "abc"}}
    (line,) = az.lines
    assert line.startswith(
        "az containerapp secret show --name app --secret-name api-key --resource-group my-rg"
    )


@pytest.mark.parametrize("answer", [GONE, {"value": ""}, {}])
def test_an_app_without_a_key(session: Session, az: ScriptedAz, answer: Any) -> None:
    az.answers["containerapp secret show"] = answer
    with pytest.raises(UsageError) as caught:
        find_keys(session)
    assert str(caught.value) == (
        "error: the app 'app' has no API key\n"
        "hint: invoke provision makes one, unless environmentVariables sets FJARR_AUTH to off"
    )


@pytest.mark.parametrize("verb", [find_keys, open_page])
def test_a_stopped_local_cloud_cannot_be_asked(session: Session, verb: Any) -> None:
    with pytest.raises(UsageError) as caught:
        verb(replace(session, is_connected=False))
    assert (
        str(caught.value)
        == "error: the local cloud of stage 'azure' is stopped\nhint: invoke up --stage azure"
    )

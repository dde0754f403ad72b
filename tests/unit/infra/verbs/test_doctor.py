"""What `invoke doctor` checks."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.names import unique_string
from infra.config.stage import load_stage
from infra.console import Console
from infra.errors import RemoteError, ToolError, UsageError
from infra.verbs.doctor import Diagnosis, diagnose
from tests.doubles.accepting_azure import ACCEPTING
from tests.doubles.azure_stage import GONE

if TYPE_CHECKING:
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz


def test_the_doctor_finds_what_is_missing(session: Session, az: ScriptedAz) -> None:
    az.answers |= {
        **ACCEPTING,
        "version": {"azure-cli": "2.91.0"},
        "account show": UsageError("you are not signed in to Azure", hint="az login"),
    }
    diagnosis = diagnose(session)
    assert [(check.name, check.is_ok) for check in diagnosis.checks] == [
        ("Python", True),
        ("az", True),
        ("bicep", True),
        ("disk", True),
        ("sign-in", False),
    ]
    assert diagnosis.to_text().endswith("BLOCKED sign-in: you are not signed in to Azure\n        az login")
    with pytest.raises(ToolError, match="something is missing: sign-in"):
        diagnosis.require_health()


def test_without_az_nothing_is_asked_of_azure(session: Session, az: ScriptedAz) -> None:
    az.answers["version"] = ToolError("az is not installed")
    diagnosis = diagnose(session)
    assert diagnosis.checks[-1].name == "disk"
    assert az.lines == ["az version --output json"]
    assert diagnosis.checks[1].remedy == f"{sys.executable} -m pip install -e ."


def states(diagnosis: Diagnosis) -> dict[str, str]:
    return {check.name: check.state for check in diagnosis.checks}


def test_the_doctor_makes_the_checks_of_a_provision(session: Session, az: ScriptedAz) -> None:
    app: Any = {"properties": {"template": {"containers": [{"name": "inference"}]}}}
    az.answers |= {
        **ACCEPTING,
        "version": {"azure-cli": "2.91.0"},
        "containerapp show": app,
        "containerapp env show": GONE,
        "resource list": [],
        "deployment group show": GONE,
    }
    diagnosis = diagnose(session, location="swedencentral")
    assert (
        states(diagnosis).items()
        >= {
            "sign-in": "ok",
            "resource provider Microsoft.App": "ok",
            "rights": "ok",
            "region swedencentral": "ok",
            "quota SubscriptionNCA100Gpus in swedencentral": "ok",
            "shared keys": "ok",
            "mount key": "unknown",
        }.items()
    )
    diagnosis.require_health()


@pytest.mark.parametrize(("mounted", "state"), [("first", "ok"), ("before", "blocked")])
def test_the_doctor_compares_the_mounts_key_with_the_accounts(
    session: Session, az: ScriptedAz, mounted: str, state: str
) -> None:
    variable = {"name": "STORAGE_KEY_DIGEST", "value": unique_string(mounted)}
    app: Any = {"properties": {"template": {"containers": [{"name": "inference", "env": [variable]}]}}}
    az.answers |= {
        **ACCEPTING,
        "version": {"azure-cli": "2.91.0"},
        "containerapp show": app,
        "containerapp env show": GONE,
        "resource list": [],
        "deployment group show": GONE,
        "storage account keys list": [{"value": "first"}, {"value": "second"}],
    }
    key = diagnose(session).checks[-1]
    assert (key.name, key.state) == ("mount key", state)
    assert key.remedy == ("" if state == "ok" else "invoke provision --stage azure")


def test_without_a_group_the_doctor_checks_the_region(
    session: Session, az: ScriptedAz, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Console, "is_interactive", True)  # nobody is asked
    session.stage.config_path.unlink()
    az.answers |= {**ACCEPTING, "version": {"azure-cli": "2.91.0"}}
    found = states(diagnose(session, location="swedencentral"))
    assert (found["region swedencentral"], found["rights"]) == ("ok", "ok")
    assert states(diagnose(session))["region"] == "unknown"


def test_the_doctor_says_what_is_wrong_with_the_settings(session: Session, az: ScriptedAz) -> None:
    az.answers |= {**ACCEPTING, "version": {"azure-cli": "2.91.0"}}
    session.stage.config_path.write_text("{")
    (found,) = [check for check in diagnose(session).checks if not check.is_ok]
    assert found.name == "settings"
    assert "inference.config.json" in found.found


def test_what_cannot_be_read_is_unknown(session: Session, az: ScriptedAz) -> None:
    az.answers |= {
        **ACCEPTING,
        "version": {"azure-cli": "2.91.0"},
        "containerapp show": RemoteError("no network"),
        "containerapp env show": GONE,
        "resource list": [],
        "deployment group show": GONE,
    }
    last = diagnose(session).checks[-1]
    assert (last.name, last.state, last.found) == ("what is deployed", "unknown", "no network")


def test_a_local_stage_needs_no_account(session: Session, az: ScriptedAz) -> None:
    az.answers["version"] = {"azure-cli": "2.91.0"}
    local = replace(session, stage=load_stage(session.root, "local"))
    diagnosis = diagnose(local)
    assert [check.name for check in diagnosis.checks] == ["Python", "az", "bicep", "disk", "memory", "bash"]
    assert Diagnosis("local", ()).to_json() == {"stage": "local", "ok": True, "checks": []}

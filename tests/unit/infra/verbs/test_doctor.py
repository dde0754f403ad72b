"""What `invoke doctor` checks."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from infra.config.stage import load_stage
from infra.errors import ToolError, UsageError
from infra.verbs.doctor import Diagnosis, diagnose
from tests.doubles.azure_stage import SUBSCRIPTION

if TYPE_CHECKING:
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz


def test_the_doctor_finds_what_is_missing(session: Session, az: ScriptedAz) -> None:
    az.answers |= {
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
    assert diagnosis.to_text().endswith("MISSING sign-in: you are not signed in to Azure\n        az login")
    with pytest.raises(ToolError, match="something is missing: sign-in"):
        diagnosis.require_health()


def test_without_az_nothing_is_asked_of_azure(session: Session, az: ScriptedAz) -> None:
    az.answers["version"] = ToolError("az is not installed")
    diagnosis = diagnose(session)
    assert diagnosis.checks[-1].name == "disk"
    assert az.lines == ["az version --output json"]
    assert diagnosis.checks[1].remedy == f"{sys.executable} -m pip install -e ."


@pytest.mark.parametrize(
    ("profiles", "is_ok", "found"),
    [
        (["D4", "NC24-A100"], True, "NC24-A100 is offered"),
        (
            ["D4", "Consumption-GPU-NC8as-T4"],
            False,
            "NC24-A100 is not offered; GPU profiles: Consumption-GPU-NC8as-T4",
        ),
    ],
)
def test_the_region_and_its_quota(
    session: Session, az: ScriptedAz, profiles: list[str], *, is_ok: bool, found: str
) -> None:
    az.answers |= {
        "version": {"azure-cli": "2.91.0"},
        "account show": {"user": {"name": "me"}, "name": "Mine", "id": SUBSCRIPTION},
        "containerapp env workload-profile list-supported": [{"name": name} for name in profiles],
        "containerapp list-usages": [
            {"name": {"value": "ManagedEnvironmentCount"}, "currentValue": 1, "limit": 15}
        ],
    }
    region, quota = diagnose(session, location="swedencentral").checks[-2:]
    assert (region.is_ok, region.found) == (is_ok, found)
    assert bool(region.remedy) is not is_ok
    assert quota.found == "ManagedEnvironmentCount 1 of 15"


def test_a_local_stage_needs_no_account(session: Session, az: ScriptedAz) -> None:
    az.answers["version"] = {"azure-cli": "2.91.0"}
    local = replace(session, stage=load_stage(session.root, "local"))
    diagnosis = diagnose(local)
    assert [check.name for check in diagnosis.checks] == ["Python", "az", "bicep", "disk", "memory", "bash"]
    assert Diagnosis("local", ()).to_json() == {"stage": "local", "ok": True, "checks": []}

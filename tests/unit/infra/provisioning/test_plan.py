"""The plan as people and machines read it, and the words about the workload profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.az.commands import Group
from infra.config.kept import Edit, KeptFlags
from infra.config.settings import Hidden, Setting
from infra.config.template import effective_values, read_template
from infra.provisioning.changes import PropertyChange, ResourceChange
from infra.provisioning.plan import ProvisionPlan
from infra.provisioning.profile import plan_profile

TEMPLATE = read_template(Path(__file__).resolve().parents[4] / "infra/provision/inference.json")


def profile_text(existing: dict[str, Any] | None = None, **parameters: Any) -> str:
    return plan_profile(effective_values(parameters, TEMPLATE), existing or {}).to_text()


DEDICATED = "is billed by the node, also while idle, because minReplicas is"
SECOND = "is billed by the second,"


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, f"workload profile GPU (NC24-A100), dedicated, at most 1 node: {DEDICATED} 1; at most 1 GPU"),
        (
            {"gpu": "a100x4", "maxReplicas": 2},
            (
                "workload profile gpu-a100x4 (NC96-A100), dedicated, at most 2 nodes: "
                f"{DEDICATED} 1; at most 8 GPUs"
            ),
        ),
        (
            {"gpu": "t4", "minReplicas": 0},
            (
                f"workload profile gpu-t4 (Consumption-GPU-NC8as-T4), {SECOND} and not while idle, because "
                "minReplicas is 0; at most 1 GPU"
            ),
        ),
        (
            {"gpu": "none", "minReplicas": 2},
            f"workload profile Consumption, {SECOND} also while idle, because minReplicas is 2",
        ),
        (
            {"minReplicas": 0},
            (
                "workload profile GPU (NC24-A100), dedicated, at most 1 node: is billed by the node, and not "
                "while idle, because minReplicas is 0; at most 1 GPU"
            ),
        ),
    ],
)
def test_the_profile_and_whether_it_bills_while_idle(parameters: dict[str, Any], text: str) -> None:
    assert profile_text(**parameters) == text


def test_an_existing_profile_is_described_as_it_is() -> None:
    existing = {"name": "GPU", "workloadProfileType": "NC48-A100", "maximumCount": 3}
    assert "(NC48-A100), dedicated, at most 3 nodes" in profile_text(existing)


LOSS = PropertyChange("template.scale.maxReplicas", 3, 1, is_foreign=True)
PLAN = ProvisionPlan(
    stage="azure",
    group=Group("sub", "rg"),
    changes=(
        ResourceChange("create", "file share", "data"),
        ResourceChange("change", "container app", "app", (LOSS, PropertyChange("tags.a", None, "b"))),
    ),
    profile=plan_profile(effective_values({}, TEMPLATE), {}),
    kept_before=(("gpu", "t4"), ("apiKey", "s3cret"), ("minReplicas", 0)),
    kept=KeptFlags(
        (Edit(("parameters", "minReplicas"), None), Edit(("parameters", "tags", "a"), "b")), ("apiKey",)
    ),
    unmanaged=("secret mine", "identity SystemAssigned"),
    hidden=(Hidden("gpu", "a100", "the file", Setting("gpu", "t4", "stage azure in infra/stages.toml")),),
    warnings=("something",),
    secrets=frozenset({"apiKey"}),
    replaces_revision=True,
)


def test_the_plan_for_people() -> None:
    assert PLAN.to_text().splitlines() == [
        "plan for stage azure: resource group rg in subscription sub",
        "  + create file share data",
        "  ~ change container app app",
        "      ~ template.scale.maxReplicas: 3 -> 1   (set by others)",
        '      + tags.a: "b"',
        (
            "  the app is down until the new revision serves: the workload profile has no room for a second "
            "replica (maximumInstanceCount)"
        ),
        f"  {PLAN.profile.to_text()}",
        '  kept for this stage in infra/stages.toml: gpu = "t4", apiKey = "***"',
        '  kept from now on: tags.a = "b"',
        "  no longer kept: minReplicas",
        "  not kept, because it is a secret: apiKey",
        "  stays as it is on Azure: secret mine, identity SystemAssigned",
        ('  gpu = "a100" in the file has no effect: stage azure in infra/stages.toml sets another value'),
        "  warning: something",
        "  to keep it: --set maxReplicas=3",
    ]


def test_the_plan_for_machines() -> None:
    document = PLAN.to_json()
    assert document["has_changes"]
    assert document["is_destructive"]
    assert document["kept_settings"] == {"gpu": "t4", "apiKey": "***", "tags.a": "b"}
    assert document["unset"] == ["minReplicas"]
    assert document["changes"] == [
        {"action": "create", "kind": "file share", "name": "data", "properties": []},
        {
            "action": "change",
            "kind": "container app",
            "name": "app",
            "properties": [
                {
                    "path": "template.scale.maxReplicas",
                    "action": "change",
                    "before": 3,
                    "after": 1,
                    "set_by_others": True,
                },
                {"path": "tags.a", "action": "create", "before": None, "after": "b", "set_by_others": False},
            ],
        },
    ]
    assert "s3cret" not in str(document)

"""Who set a value that a deployment would change: an earlier deployment, or somebody else since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.config.template import read_template
from infra.provisioning.attribution import attribute, keeping_flag
from infra.provisioning.changes import PropertyChange, ResourceChange

TEMPLATE = read_template(Path(__file__).resolve().parents[4] / "infra/provision/inference.json")
SERVER = "template.containers[inference]"


def found(
    change: PropertyChange, last: dict[str, Any] | None, *, is_unchanged: bool = False
) -> PropertyChange | None:
    resource = ResourceChange("change", "container app", "app", (change,))
    kept = attribute((resource,), last, TEMPLATE, is_unchanged=is_unchanged)
    return kept[0].properties[0] if kept else None


@pytest.mark.parametrize(
    ("path", "before", "last", "is_foreign"),
    [
        ("template.scale.maxReplicas", 3, {}, True),
        ("template.scale.maxReplicas", 3, {"maxReplicas": 3}, False),
        ("template.scale.maxReplicas", 1, {"maxReplicas": None}, False),
        (f"{SERVER}.resources.cpu", 24, {}, False),
        (f"{SERVER}.resources.cpu", 8.0, {"gpu": "t4"}, False),
        (f"{SERVER}.resources.memory", "28Gi", {"gpu": "t4"}, True),
        (f"{SERVER}.image", "docker.io/pytorch/pytorch:1", {"image": "docker.io/mine:1"}, True),
        (f"{SERVER}.image", "docker.io/pytorch/pytorch:1", {}, False),
        ("configuration.ingress.stickySessions.affinity", "sticky", {}, True),
        ("configuration.ingress.stickySessions.affinity", "sticky", {"maxReplicas": 2}, False),
        ("configuration.ingress.allowInsecure", True, {"allowInsecure": True}, False),
        (f"{SERVER}.env[FJARR_ADAPTER].value", "theirs", {"adapterPath": "ours"}, True),
        (f"{SERVER}.env[FJARR_ADAPTER].value", "ours", {"adapterPath": "ours"}, False),
        (f"{SERVER}.env[FJARR_CHAT_SIGN_IN].value", "on", {}, False),
        (f"{SERVER}.env[MINE].value", "a", {"environmentVariables": {"MINE": "a"}}, False),
        (f"{SERVER}.env[MINE].value", "b", {"environmentVariables": {"MINE": "a"}}, True),
        (
            f"{SERVER}.env[MINE]",
            {"name": "MINE", "value": "a"},
            {"environmentVariables": {"MINE": "a"}},
            False,
        ),
        (f"{SERVER}.command", ["x"], {}, False),
        ("configuration.ingress.external", None, {}, False),
    ],
)
def test_a_value_is_others_if_the_last_deployment_did_not_set_it(
    path: str, before: Any, last: dict[str, Any], *, is_foreign: bool
) -> None:
    change = found(PropertyChange(path, before, "new"), last)
    assert change is not None
    assert change.is_foreign is is_foreign


def test_without_a_last_deployment_nobody_is_blamed() -> None:
    change = found(PropertyChange("template.scale.maxReplicas", 3, 1), None)
    assert change is not None
    assert not change.is_foreign


@pytest.mark.parametrize(
    "path",
    ["template.scale.maxReplicas", f"{SERVER}.env[A].value", f"{SERVER}.command", f"{SERVER}.probes[x].y"],
)
def test_where_nothing_was_changed_here_others_changed_it(path: str) -> None:
    change = found(PropertyChange(path, "x", "y"), None, is_unchanged=True)
    assert change is not None
    assert change.is_foreign


def test_where_nothing_was_changed_here_what_would_go_was_filled_in_by_azure() -> None:
    assert found(PropertyChange("configuration.newThing", "x", None), {}, is_unchanged=True) is None
    assert found(PropertyChange("configuration.newThing", "x", None), {}) is not None


@pytest.mark.parametrize(
    ("path", "before", "flag"),
    [
        ("template.scale.maxReplicas", 3, "maxReplicas=3"),
        ("configuration.ingress.external", False, "externalIngress=false"),
        ("configuration.ingress.stickySessions.affinity", "sticky", "stickySessions=true"),
        (f"{SERVER}.env[A].value", "b c", "environmentVariables.A=b c"),
        (f"{SERVER}.env[A]", {"name": "A", "value": "b"}, "environmentVariables.A=b"),
        (f"{SERVER}.env[HF_TOKEN].value", "x", None),
        (f"{SERVER}.env[A]", {"name": "A", "secretRef": "b"}, None),
        (f"{SERVER}.command", ["x"], None),
    ],
)
def test_the_flag_that_keeps_a_value(path: str, before: Any, flag: str | None) -> None:
    assert keeping_flag(PropertyChange(path, before, "new")) == flag

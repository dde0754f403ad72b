"""A what-if in words: what counts as a change, what is noise, and what must not be shown."""

from __future__ import annotations

from typing import Any

import pytest

from infra.provisioning.changes import ResourceChange, parse_changes, planned_creation

GROUP = "/subscriptions/s/resourceGroups/rg"
APP = f"{GROUP}/providers/Microsoft.App/containerApps/app"


def modified(*delta: dict[str, Any], before: Any = None, after: Any = None) -> tuple[ResourceChange, ...]:
    change = {
        "resourceId": APP,
        "changeType": "Modify",
        "before": before,
        "after": after,
        "delta": list(delta),
    }
    return parse_changes({"changes": [change]})


def entry(path: str, before: Any, after: Any, kind: str = "Modify") -> dict[str, Any]:
    return {"path": path, "propertyChangeType": kind, "before": before, "after": after, "children": None}


def lines(changes: tuple[ResourceChange, ...]) -> list[str]:
    return [each.to_text() for change in changes for each in change.properties]


def test_resources_by_what_happens_to_them() -> None:
    share = f"{GROUP}/providers/Microsoft.Storage/storageAccounts/a/fileServices/default/shares/data"
    kinds = {"Create": share, "Delete": APP, "NoChange": APP, "Ignore": APP, "Unsupported": APP}
    answer: Any = {"changes": [{"changeType": kind, "resourceId": id_} for kind, id_ in kinds.items()]}
    assert [change.to_text() for change in parse_changes(answer)] == [
        "+ create file share data",
        "- remove container app app",
    ]
    assert planned_creation(share) == ResourceChange("create", "file share", "data")
    assert planned_creation(f"{GROUP}/providers/Some.New/things/x").kind == "Some.New/things"


def test_properties_with_their_values() -> None:
    found = modified(
        entry("properties.template.scale.maxReplicas", 1, 3),
        entry("tags.team", None, "a", "Create"),
        entry("properties.configuration.dapr", {"enabled": True, "appId": "x"}, None, "Delete"),
    )
    assert lines(found) == [
        "~ template.scale.maxReplicas: 1 -> 3",
        '+ tags.team: "a"',
        '- configuration.dapr: {"enabled": true, "appId": "x"}',
    ]


def env(**values: str) -> dict[str, Any]:
    variables = [{"name": name, "value": value} for name, value in values.items()]
    return {"properties": {"template": {"containers": [{"name": "inference", "env": variables}]}}}


def test_lists_are_compared_by_name_and_not_by_position() -> None:
    path = "properties.template.containers"
    array = {**entry(path, None, None, "Array"), "children": [entry("0", None, None)]}
    found = modified(array, before=env(A="1", B="2", C="3"), after=env(B="2", C="4", D="5"))
    assert lines(found) == [
        '- template.containers[inference].env[A]: "1"',
        '~ template.containers[inference].env[C].value: "3" -> "4"',
        '+ template.containers[inference].env[D]: "5"',
    ]


def test_children_are_taken_where_the_documents_lack_the_list() -> None:
    array = {**entry("properties.x", None, None, "Array"), "children": [entry("0", 1, 2)]}
    assert lines(modified(array)) == ["~ x.0: 1 -> 2"]


@pytest.mark.parametrize(
    ("path", "before", "after", "kind"),
    [
        ("location", "Sweden Central", "swedencentral", "Modify"),
        ("properties.configuration.ingress.transport", "Auto", "auto", "Modify"),
        ("properties.environmentId", "/subscriptions/S/x", "/subscriptions/s/x", "Modify"),
        ("properties.template.x.resources.cpu", 4.0, 4, "Modify"),
        ("properties.template.x.metadata.concurrentRequests", "32", 32, "Modify"),
        ("properties.outboundIpAddresses", ["1.2.3.4"], ["1.2.3.4"], "NoEffect"),
        ("properties.customerId", "x", "[reference('w').customerId]", "Modify"),
        ("properties.configuration.service", None, "", "Create"),
        ("properties.configuration.maxInactiveRevisions", 100, None, "Delete"),
        ("properties.template.probes.successThreshold", 1, None, "Delete"),
        ("properties.configuration.registries", [], None, "Delete"),
        ("tags.fjarr-provision", "a", "b", "Modify"),
    ],
)
def test_noise(path: str, before: Any, after: Any, kind: str) -> None:
    assert modified(entry(path, before, after, kind)) == ()


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("properties.template.scale.cooldownPeriod", 60, None),
        ("properties.template.scale.minReplicas", 0, 1),
        ("properties.template.containers.env.value", "a", "A"),
        ("properties.configuration.ingress.external", True, False),
    ],
)
def test_what_resembles_noise(path: str, before: Any, after: Any) -> None:
    assert len(lines(modified(entry(path, before, after)))) == 1


def test_secrets_are_never_shown() -> None:
    secrets = [{"name": "mine", "value": "s3cret"}]
    found = modified(
        {**entry("properties.configuration.secrets", None, None, "Array")},
        entry("properties.azureFile.accountKey", "s3cret", "s3cret2"),
        {**entry("properties.template.containers", None, None, "Array")},
        before={"properties": {"configuration": {"secrets": []}, **env()["properties"]}},
        after={"properties": {"configuration": {"secrets": secrets}, **env(HF_TOKEN="s3cret")["properties"]}},
    )
    shown = "".join((*lines(found), *(str(change.to_json()) for change in found)))
    assert "s3cret" not in shown
    assert len(lines(found)) == 3

"""The specification's data, its spelling of bodies, and what it rules out.

Source: Azure/azure-rest-api-specs, by way of the Bicep CLI's types (`localcloud.specifications.trim`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import localcloud.specifications
from localcloud.arm.resource_kinds import is_unknown
from localcloud.specifications import (
    canonical_body,
    find_violations,
    known_versions,
    namespace_versions,
)
from localcloud.specifications.trim import BODIES

if TYPE_CHECKING:
    from tests.doubles.local_cloud import ArmClient

APPS = "Microsoft.App/containerApps"
WORKSPACES = "Microsoft.OperationalInsights/workspaces"
DATA = Path(localcloud.specifications.__file__).parent / "data"


def violations(full_type: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    canonical = canonical_body(full_type, body)
    return [(found.json_path, found.rule) for found in find_violations(full_type, canonical, is_unknown)]


def app(**template: Any) -> dict[str, Any]:
    return {"location": "x", "properties": {"template": template}}


def test_names_enumerations_and_numbers_get_the_specifications_spelling() -> None:
    sent = {
        "LOCATION": "x",
        "Tags": {"Kept": "As Is"},
        "properties": {
            "Configuration": {"ActiveRevisionsMode": "single", "ingress": {"traffic": [{"Weight": "50"}]}},
            "template": {"containers": [{"NAME": "Web", "resources": {"CPU": "0.5"}}]},
        },
    }
    assert canonical_body(APPS, sent) == {
        "location": "x",
        "tags": {"Kept": "As Is"},
        "properties": {
            "configuration": {"activeRevisionsMode": "Single", "ingress": {"traffic": [{"weight": 50}]}},
            "template": {"containers": [{"name": "Web", "resources": {"cpu": 0.5}}]},
        },
    }


@pytest.mark.parametrize(
    ("body", "path", "rule"),
    [
        (app(containers="web"), "$.properties.template.containers", "type"),
        (app(containers=["web"]), "$.properties.template.containers[0]", "type"),
        (
            app(containers=[{"env": [{"value": 1}]}]),
            "$.properties.template.containers[0].env[0].value",
            "type",
        ),
        (app(scale={"minReplicas": "one"}), "$.properties.template.scale.minReplicas", "type"),
        (app(scale={"minReplicas": 1.5}), "$.properties.template.scale.minReplicas", "type"),
        (app(scale={"minReplicas": True}), "$.properties.template.scale.minReplicas", "type"),
        (app(scale={"least": 1}), "$.properties.template.scale.least", "unknown"),
        (app(volumes=[{"storageType": "Nfs"}]), "$.properties.template.volumes[0].storageType", "enum"),
        (
            app(containers=[{"probes": [{"httpGet": {"path": "/"}}]}]),
            "$.properties.template.containers[0].probes[0].httpGet.port",
            "required",
        ),
        ({"location": "x", "tags": {"a": 1}}, "$.tags.a", "type"),
        ({"location": "x", "zone": "1"}, "$.zone", "unknown"),
        ({}, "$.location", "required"),
    ],
)
def test_each_rule_is_reported_with_the_path(body: dict[str, Any], path: str, rule: str) -> None:
    assert violations(APPS, body) == [(path, rule)]


def test_nulls_unknown_values_and_read_only_properties_pass() -> None:
    body = app(containers=None, scale={"minReplicas": "[parameters('least')]"})
    body["properties"] |= {"provisioningState": 7, "latestRevisionName": None}
    assert violations(APPS, body) == []


def test_all_violations_are_found_in_order() -> None:
    body = {
        "location": "x",
        "properties": {"sku": {"name": "Best"}, "retentionInDays": "long", "tone": "loud"},
    }
    assert violations(WORKSPACES, body) == [
        ("$.properties.tone", "unknown"),
        ("$.properties.retentionInDays", "type"),
        ("$.properties.sku.name", "enum"),
    ]


def test_versions_are_known_by_type_and_by_namespace() -> None:
    assert "2026-01-01" in known_versions("microsoft.app/CONTAINERAPPS")
    assert known_versions("Microsoft.App/spaceships") == ()
    assert "2015-06-15" in namespace_versions("Microsoft.Storage")
    assert namespace_versions("Contoso.Web") == ()


@pytest.mark.parametrize("full_type", BODIES)
def test_every_definition_that_is_referred_to_is_there(full_type: str) -> None:
    document = json.loads((DATA / f"{full_type.partition('/')[0].lower()}.json").read_text("utf-8"))
    references = json.dumps(document).split('"$ref": "#/$defs/')[1:]
    assert {reference.partition('"')[0] for reference in references} <= set(document["$defs"])
    assert document["types"][full_type.lower()]["apiVersion"] in known_versions(full_type)


async def test_what_readers_see_conforms_to_the_specification(arm: ArmClient) -> None:
    await arm.make_app()
    versions = {"Microsoft.Storage": "2025-08-01", "Microsoft.App": "2025-07-01"}
    for resource in arm.cloud.resources.all():
        namespace = resource.type.partition("/")[0]
        shown = await arm.request("GET", f"{resource.id}?api-version={versions[namespace]}")
        # Azure shows some enumerations in another case than the specification's.
        body = canonical_body(resource.type, shown.body)
        assert find_violations(resource.type, body, is_unknown) == (), resource.id

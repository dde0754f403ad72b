"""Deployments: a small template, sent as the real az sends one.

Source: Azure Resource Manager REST API 2025-04-01, Deployments; the Azure CLI's recorded tests and calls
on the wire; error bodies as quoted in public issues.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.deployments.property_changes import property_changes, resource_change
from tests.doubles.local_cloud import FakeHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.arm.requests import ArmResponse
    from tests.doubles.local_cloud import ArmClient

    Reopen = Callable[[FakeHost], ArmClient]

V = "api-version=2025-04-01"
DEPLOYMENT = "providers/Microsoft.Resources/deployments/d"
TEMPLATE = {
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "languageVersion": "2.0",
    "contentVersion": "1.0.0.0",
    "parameters": {
        "name": {"type": "string", "defaultValue": "acct"},
        "quota": {"type": "int", "defaultValue": 5},
        "profile": {"type": "string", "defaultValue": "Consumption"},
        "secret": {"type": "securestring", "defaultValue": "s3cret"},
    },
    "resources": {
        "account": {
            "type": "Microsoft.Storage/storageAccounts",
            "apiVersion": "2025-08-01",
            "name": "[parameters('name')]",
            "location": "[resourceGroup().location]",
            "sku": {"name": "Standard_LRS"},
            "kind": "StorageV2",
        },
        "share": {
            "type": "Microsoft.Storage/storageAccounts/fileServices/shares",
            "apiVersion": "2025-08-01",
            "name": "[format('{0}/default/data', parameters('name'))]",
            "properties": {"shareQuota": "[parameters('quota')]"},
            "dependsOn": ["account"],
        },
        "environment": {
            "type": "Microsoft.App/managedEnvironments",
            "apiVersion": "2026-01-01",
            "name": "env",
            "location": "[resourceGroup().location]",
            "properties": {
                "workloadProfiles": [{"name": "Consumption", "workloadProfileType": "Consumption"}]
            },
        },
        "storage": {
            "type": "Microsoft.App/managedEnvironments/storages",
            "apiVersion": "2026-01-01",
            "name": "env/share",
            "properties": {
                "azureFile": {
                    "accountName": "[parameters('name')]",
                    "accountKey": "[listKeys('account', '2025-08-01').keys[0].value]",
                    "shareName": "data",
                    "accessMode": "ReadWrite",
                }
            },
            "dependsOn": ["environment", "account", "share"],
        },
        "app": {
            "type": "Microsoft.App/containerApps",
            "apiVersion": "2026-01-01",
            "name": "app",
            "location": "[resourceGroup().location]",
            "properties": {
                "environmentId": "[resourceId('Microsoft.App/managedEnvironments', 'env')]",
                "workloadProfileName": "[parameters('profile')]",
                "configuration": {
                    "ingress": {"external": True, "targetPort": 7860},
                    "secrets": [{"name": "key", "value": "[parameters('secret')]"}],
                },
                "template": {
                    "containers": [
                        {
                            "name": "web",
                            "image": "x",
                            "resources": {"cpu": 0.5, "memory": "1Gi"},
                            "volumeMounts": [{"volumeName": "v", "mountPath": "/mount"}],
                        }
                    ],
                    "volumes": [{"name": "v", "storageType": "AzureFile", "storageName": "share"}],
                },
            },
            "dependsOn": ["environment", "storage"],
        },
    },
    "outputs": {
        "ENDPOINT": {"type": "string", "value": "[reference('app').configuration.ingress.fqdn]"},
        "GROUP": {"type": "string", "value": "[resourceGroup().name]"},
    },
}


def body(template: Any = None, **parameters: Any) -> str:
    """Return a body as az sends it: one key is not quoted, and the file has its comments."""
    given = json.dumps({name: {"value": value} for name, value in parameters.items()})
    text = f"// a comment\n{json.dumps(template or TEMPLATE)}"
    return f'{{"properties": {{"parameters": {given}, "mode": "Incremental", template:{text}\n}}}}'


async def deploy(arm: ArmClient, text: str) -> ArmResponse:
    accepted = await arm.request("PUT", f"{DEPLOYMENT}?{V}", text)
    assert accepted.status in {200, 201}
    assert "/deployments/d/operationStatuses/" in accepted.headers["Azure-AsyncOperation"]
    return await arm.poll(accepted)


async def test_a_template_is_validated_as_a_whole_before_anything_is_made(arm: ArmClient) -> None:
    await arm.make_group()
    found = await arm.request("POST", f"{DEPLOYMENT}/validate?{V}", body())
    properties = found.body["properties"]
    assert (found.status, properties["provisioningState"]) == (200, "Succeeded")
    names = [entry["id"].rpartition("/")[2] for entry in properties["validatedResources"]]
    assert set(names) == {"acct", "data", "env", "share", "app"}
    assert arm.cloud.resources.all() == []


async def test_a_deployment_creates_everything_and_shows_its_outputs(arm: ArmClient) -> None:
    await arm.make_group()
    assert (await deploy(arm, body(secret="hidden"))).body == {"status": "Succeeded"}
    shown = await arm.request("GET", f"{DEPLOYMENT}?{V}")
    properties = shown.body["properties"]
    assert properties["outputs"]["ENDPOINT"] == {"type": "String", "value": "127.0.0.1:20000"}
    assert properties["outputs"]["GROUP"]["value"] == "rg"
    assert properties["parameters"]["quota"] == {"type": "Int", "value": 5}
    assert properties["parameters"]["secret"] == {"type": "SecureString"}
    assert "hidden" not in json.dumps(shown.body)
    assert len(properties["outputResources"]) == 5
    assert arm.cloud.files.share_path("acct", "data").is_dir()
    operations = await arm.request("GET", f"{arm.group}/deployments/d/operations?{V}")
    kinds = [found["properties"]["provisioningOperation"] for found in operations.body["value"]]
    assert kinds == ["Create"] * 5 + ["EvaluateDeploymentOutput"]
    target = operations.body["value"][0]["properties"]["targetResource"]
    assert (target["symbolicName"], target["resourceName"]) == ("account", "acct")
    one = operations.body["value"][0]
    single = await arm.request("GET", f"{arm.group}/deployments/d/operations/{one['operationId']}?{V}")
    assert single.body == one


async def test_a_second_deployment_changes_nothing(arm: ArmClient) -> None:
    await arm.make_group()
    await deploy(arm, body())
    first = (await arm.show_app())["properties"]["latestRevisionName"]
    again = await arm.request("PUT", f"{DEPLOYMENT}?{V}", body())
    assert again.status == 200
    await arm.poll(again)
    assert (await arm.show_app())["properties"]["latestRevisionName"] == first


async def test_a_refusal_is_nested_as_azure_nests_it(arm: ArmClient) -> None:
    await arm.make_group()
    found = await arm.request("POST", f"{DEPLOYMENT}/validate?{V}", body(profile="None"))
    error = found.body["error"]
    assert (found.status, error["code"]) == (400, "InvalidTemplateDeployment")
    start = (
        "The template deployment 'd' is not valid according to the validation procedure. The tracking id is '"
    )
    assert error["message"].startswith(start)
    assert error["details"] == [
        {
            "code": "ValidationForResourceFailed",
            "message": "Validation failed for a resource. Check 'Error.Details[0]' for more information.",
            "details": [
                {
                    "code": "WorkloadProfileNotFound",
                    "message": "Workload Profile name 'None' does not exist for the environment 'env'.",
                }
            ],
        }
    ]


async def test_what_depends_on_a_refused_resource_is_not_refused_too(arm: ArmClient) -> None:
    await arm.make_group()
    found = await arm.request("POST", f"{DEPLOYMENT}/validate?{V}", body(name="UPPER"))
    (detail,) = found.body["error"]["details"]
    assert detail["code"] == "PreflightValidationCheckFailed"
    assert detail["details"][0]["code"] == "AccountNameInvalid"
    assert detail["details"][0]["target"] == "UPPER"


async def test_a_failure_while_it_runs_is_json_in_a_string(arm: ArmClient) -> None:
    await arm.make_group()
    template = json.loads(json.dumps(TEMPLATE))
    template["resources"]["app"]["properties"]["template"]["revisionSuffix"] = "one"
    await deploy(arm, body(template))
    template["resources"]["app"]["properties"]["template"]["containers"][0]["image"] = "y"
    status = await deploy(arm, body(template))
    assert status.body["status"] == "Failed"
    error = status.body["error"]
    assert error["code"] == "DeploymentFailed"
    inner = json.loads(error["details"][0]["message"])
    assert inner["status"] == "Failed"
    assert inner["error"]["details"][0]["code"] == "ContainerAppOperationError"
    shown = await arm.request("GET", f"{DEPLOYMENT}?{V}")
    assert shown.body["properties"]["provisioningState"] == "Failed"
    assert shown.body["properties"]["error"]["code"] == "DeploymentFailed"
    operations = await arm.request("GET", f"{arm.group}/deployments/d/operations?{V}")
    assert operations.body["value"][-1]["properties"]["provisioningState"] == "Failed"


async def test_a_running_deployment_refuses_another_and_can_be_cancelled(arm: ArmClient) -> None:
    await arm.make_group()
    arm.host.hold = asyncio.Event()
    running = await arm.request("PUT", f"{DEPLOYMENT}?{V}", body())
    assert (await arm.poll(running)).body == {"status": "Running"}
    refused = await arm.request("POST", f"{DEPLOYMENT}/validate?{V}", body())
    assert (refused.status, refused.body["error"]["code"]) == (409, "DeploymentActive")
    assert (await arm.request("DELETE", f"{DEPLOYMENT}?{V}")).status == 409
    assert (await arm.request("POST", f"{DEPLOYMENT}/cancel?{V}")).status == 204
    shown = await arm.request("GET", f"{DEPLOYMENT}?{V}")
    assert shown.body["properties"]["provisioningState"] == "Canceled"
    again = await arm.request("POST", f"{DEPLOYMENT}/cancel?{V}")
    assert again.body["error"]["code"] == "DeploymentCannotBeCancelled"
    arm.host.hold.set()


async def test_a_deployment_that_a_stop_interrupted_is_failed_afterwards(
    arm: ArmClient, reopen: Reopen
) -> None:
    await arm.make_group()
    arm.host.hold = asyncio.Event()
    await arm.request("PUT", f"{DEPLOYMENT}?{V}", body())
    await arm.settle()
    await arm.cloud.close()
    again = reopen(FakeHost())
    await again.cloud.open()
    shown = await again.request("GET", f"{DEPLOYMENT}?{V}")
    assert shown.body["properties"]["provisioningState"] == "Failed"
    assert shown.body["properties"]["error"]["code"] == "DeploymentInterrupted"
    await again.cloud.close()


async def test_deployments_are_listed_found_and_forgotten(arm: ArmClient) -> None:
    await arm.make_group()
    assert (await arm.request("HEAD", f"{DEPLOYMENT}?{V}")).status == 404
    await deploy(arm, body())
    assert (await arm.request("HEAD", f"{DEPLOYMENT}?{V}")).status == 204
    listed = await arm.request("GET", f"providers/Microsoft.Resources/deployments/?{V}")
    assert [found["name"] for found in listed.body["value"]] == ["d"]
    assert (await arm.request("DELETE", f"{DEPLOYMENT}?{V}")).status == 204
    missing = await arm.request("GET", f"{DEPLOYMENT}?{V}")
    assert missing.body["error"]["code"] == "DeploymentNotFound"
    assert (await arm.show_app())["name"] == "app"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"properties": {"mode": "Complete", "template": {}}}', "NotImplementedByLocalCloud"),
        (
            '{"properties": {"mode": "Incremental", "templateLink": {"uri": "x"}}}',
            "NotImplementedByLocalCloud",
        ),
        ('{"properties": {"mode": "Incremental"}}', "InvalidRequestContent"),
        (body(nope=1), "InvalidTemplate"),
    ],
)
async def test_a_bad_request_is_refused(arm: ArmClient, text: str, code: str) -> None:
    await arm.make_group()
    found = await arm.request("POST", f"{DEPLOYMENT}/validate?{V}", text)
    assert found.body["error"]["code"] == code


async def test_an_unknown_type_is_refused_by_name(arm: ArmClient) -> None:
    await arm.make_group()
    resources: Any = TEMPLATE["resources"]
    machine = {**resources["account"], "type": "Microsoft.Compute/virtualMachines"}
    template = {**TEMPLATE, "outputs": {}, "resources": {"x": machine}}
    found = await arm.request("POST", f"{DEPLOYMENT}/validate?{V}", body(template))
    (detail,) = found.body["error"]["details"]
    assert detail["details"][0]["code"] == "NotImplementedByLocalCloud"
    assert "'Microsoft.Compute/virtualMachines'" in detail["details"][0]["message"]


async def what_if(arm: ArmClient, text: str) -> Any:
    accepted = await arm.request("POST", f"{DEPLOYMENT}/whatIf?{V}", text)
    assert (accepted.status, "/operationresults/" in accepted.headers["Location"]) == (202, True)
    assert (await arm.request("GET", accepted.headers["Location"])).status == 202
    return (await arm.poll(accepted)).body


async def test_a_what_if_shows_what_would_be_created(arm: ArmClient) -> None:
    await arm.make_group()
    found = await what_if(arm, body(secret="hidden"))
    assert found["status"] == "Succeeded"
    changes = found["properties"]["changes"]
    assert {change["changeType"] for change in changes} == {"Create"}
    assert "hidden" not in json.dumps(found)
    assert arm.cloud.resources.all() == []


async def test_a_what_if_shows_each_property_that_would_change(arm: ArmClient) -> None:
    await arm.make_group()
    await deploy(arm, body())
    other = {"location": "swedencentral", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}
    await arm.request(
        "PUT", "providers/Microsoft.Storage/storageAccounts/other?api-version=2025-08-01", other
    )
    found = await what_if(arm, body(quota=7))
    kinds = {
        change["resourceId"].rpartition("/")[2]: change["changeType"]
        for change in found["properties"]["changes"]
    }
    assert kinds == {
        "acct": "NoChange",
        "data": "Modify",
        "env": "NoChange",
        "share": "NoChange",
        "app": "NoChange",
        "other": "Ignore",
    }
    (delta,) = [
        change["delta"] for change in found["properties"]["changes"] if change["changeType"] == "Modify"
    ]
    quota = {"path": "properties.shareQuota", "propertyChangeType": "Modify", "before": 5, "after": 7}
    assert delta == [quota]


async def test_a_what_if_creates_again_what_an_app_needs(arm: ArmClient) -> None:
    await arm.make_group()
    await deploy(arm, body())
    storage = "providers/Microsoft.App/managedEnvironments/env/storages/share?api-version=2025-07-01"
    assert (await arm.request("DELETE", storage)).status < 300
    found = await what_if(arm, body())
    kinds = {
        change["resourceId"].rpartition("/")[2]: change["changeType"]
        for change in found["properties"]["changes"]
    }
    assert (kinds["share"], kinds["app"]) == ("Create", "NoChange")


async def test_a_what_if_reports_a_refusal_in_its_result(arm: ArmClient) -> None:
    await arm.make_group()
    found = await what_if(arm, body(profile="None"))
    assert found["error"]["code"] == "InvalidTemplateDeployment"


def test_property_changes_show_additions_removals_and_lists() -> None:
    before = {"a": 1, "gone": 2, "list": [{"x": 1}, 2], "same": {"y": [1]}, "later": 1}
    after = {"a": 1, "new": 3, "list": [{"x": 2}, 2, 3], "same": {"y": [1]}, "later": "[reference('x').y]"}
    found = {entry["path"]: entry for entry in property_changes(before, after)}
    assert found["gone"]["propertyChangeType"] == "Delete"
    assert found["new"]["propertyChangeType"] == "Create"
    assert found["later"]["propertyChangeType"] == "NoEffect"
    assert found["list"]["propertyChangeType"] == "Array"
    children = [(entry["path"], entry["propertyChangeType"]) for entry in found["list"]["children"]]
    assert children == [("0", "Modify"), ("2", "Create")]
    assert found["list"]["children"][0]["children"][0]["path"] == "x"
    assert set(found) == {"gone", "new", "later", "list"}


def test_a_value_that_only_a_run_knows_is_no_change() -> None:
    change = resource_change("id", {"a": 1}, {"a": "[reference('x').y]"}, is_planned=True)
    assert change["changeType"] == "NoChange"


async def test_the_clock_and_new_guids_are_those_of_the_deployment(arm: ArmClient) -> None:
    await arm.make_group()
    template = {
        "$schema": TEMPLATE["$schema"],
        "contentVersion": "1.0.0.0",
        "parameters": {
            "now": {"type": "string", "defaultValue": "[utcNow('yyyy')]"},
            "id": {"type": "string", "defaultValue": "[newGuid()]"},
        },
        "resources": [],
        "outputs": {
            "NOW": {"type": "string", "value": "[parameters('now')]"},
            "ID": {"type": "string", "value": "[parameters('id')]"},
        },
    }
    await deploy(arm, body(template))
    outputs = (await arm.request("GET", f"{DEPLOYMENT}?{V}")).body["properties"]["outputs"]
    assert int(outputs["NOW"]["value"]) >= 2026
    assert uuid.UUID(outputs["ID"]["value"])


async def test_operations_show_what_runs(arm: ArmClient) -> None:
    await arm.make_group()
    arm.host.hold = asyncio.Event()
    await arm.request("PUT", f"{DEPLOYMENT}?{V}", body())
    await arm.settle()
    operations = await arm.request("GET", f"{DEPLOYMENT}/operations?{V}")
    states = {
        found["properties"]["targetResource"]["resourceName"]: found["properties"]["provisioningState"]
        for found in operations.body["value"]
    }
    assert states == {
        "acct": "Succeeded",
        "acct/default/data": "Succeeded",
        "env": "Succeeded",
        "env/share": "Succeeded",
        "app": "Running",
    }
    arm.host.hold.set()
    await arm.settle()


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("2022-05-01", "NotImplementedByLocalCloud"),
        ("2026-09-01", "NotImplementedByLocalCloud"),
        ("2026-09-02", "NoRegisteredProviderFound"),
    ],
)
async def test_a_version_that_azure_has_is_never_called_unregistered(
    arm: ArmClient, version: str, code: str
) -> None:
    await arm.make_group()
    template: Any = deepcopy(TEMPLATE)
    template["resources"]["account"]["apiVersion"] = version
    rejected = await arm.request("POST", f"{DEPLOYMENT}/validate?{V}", body(template))
    assert rejected.body["error"]["details"][0]["details"][0]["code"] == code
    url = f"providers/Microsoft.Storage/storageAccounts/other?api-version={version}"
    assert (await arm.request("GET", url)).body["error"]["code"] == code


async def test_a_function_that_azure_has_is_not_called_invalid(arm: ArmClient) -> None:
    await arm.make_group()
    for expression, code in (
        ("[like('a', 'a*')]", "NotImplementedByLocalCloud"),
        ("[listSas('x', '2025-08-01')]", "InvalidTemplate"),
        ("[nosuch('a')]", "InvalidTemplate"),
    ):
        template = TEMPLATE | {"outputs": {"X": {"type": "string", "value": expression}}}
        rejected = await arm.request("POST", f"{DEPLOYMENT}/validate?{V}", body(template))
        assert rejected.body["error"]["code"] == code, rejected.body

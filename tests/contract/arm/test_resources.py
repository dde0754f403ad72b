"""Paths, groups, resources of every type.

Source: Azure Resource Manager REST API 2024-11-01, Microsoft.Storage 2025-08-01,
Microsoft.OperationalInsights 2025-02-01; the Azure CLI's recorded tests and calls on the wire.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.arm.regions import checked_region
from localcloud.arm.resource_ids import parse_path, resource_id
from localcloud.arm.resources import merged
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from tests.doubles.local_cloud import ArmClient

V = "api-version=2024-11-01"
STORAGE = "api-version=2025-08-01"
APP = "api-version=2025-07-01"
ACCOUNT = "providers/Microsoft.Storage/storageAccounts/acct"
ACCOUNT_BODY = {"location": "swedencentral", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}


@pytest.mark.parametrize(
    ("path", "pattern", "names"),
    [
        ("/subscriptions/S/resourcegroups/G/", "subscription /resourcegroups/{}", ("G",)),
        (
            "//subscriptions/S/resourceGroups/G//providers/Microsoft.App/containerApps/A/restart",
            "group microsoft.app/containerapps/{}/restart",
            ("A",),
        ),
        (
            "/subscriptions/S/resourcegroups/G/deployments/D/operations/",
            "group microsoft.resources/deployments/{}/operations",
            ("D",),
        ),
        ("/subscriptions/S", "tenant /subscriptions/{}", ("S",)),
        ("/subscriptions/S/providers/Microsoft.App", "subscription /providers/{}", ("Microsoft.App",)),
        (
            "/subscriptions/S/providers/Microsoft.App/locations/l/usages",
            "subscription microsoft.app/locations/{}/usages",
            ("l",),
        ),
    ],
)
def test_paths_are_read_whatever_their_case_and_slashes(
    path: str, pattern: str, names: tuple[str, ...]
) -> None:
    found = parse_path(path)
    assert (found.pattern, found.names) == (pattern, names)


def test_an_id_is_composed_and_parsed_back() -> None:
    composed = resource_id("S", "G", "Microsoft.App/managedEnvironments/storages", ("e", "s"))
    path = parse_path(composed)
    assert composed.endswith("/providers/Microsoft.App/managedEnvironments/e/storages/s")
    assert path.full_type == "Microsoft.App/managedEnvironments/storages"
    assert (path.group, path.subscription, path.names) == ("G", "S", ("e", "s"))


def test_merge_patch_follows_the_examples_of_rfc_7396() -> None:
    assert merged({"a": "b"}, {"a": None}) == {}
    assert merged({"a": [1]}, {"a": [2, 3]}) == {"a": [2, 3]}
    assert merged({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}) == {"a": {"b": "d"}}
    assert merged({"a": "x"}, {"a": {"b": 1}}) == {"a": {"b": 1}}


def test_a_region_that_is_none_is_refused() -> None:
    assert checked_region("Sweden Central", "T/t") == "swedencentral"
    with pytest.raises(AzureError, match="The provided location 'mars' is not available"):
        checked_region("mars", "T/t")


async def test_a_group_is_made_shown_listed_and_found(arm: ArmClient) -> None:
    path = f"{arm.subscription}/resourcegroups/rg?{V}"
    created = await arm.request("PUT", path, {"location": "Sweden Central", "tags": {"a": "b"}})
    assert created.status == 201
    assert created.body["location"] == "swedencentral"
    assert created.body["properties"] == {"provisioningState": "Succeeded"}
    assert (await arm.request("PUT", path, {"location": "swedencentral"})).status == 200
    assert (await arm.request("GET", path)).body["name"] == "rg"
    assert (await arm.request("HEAD", path)).status == 204
    listed = await arm.request("GET", f"{arm.subscription}/resourcegroups?{V}")
    assert [group["name"] for group in listed.body["value"]] == ["rg"]


async def test_a_missing_group_is_azures_404(arm: ArmClient) -> None:
    path = f"{arm.subscription}/resourcegroups/none?{V}"
    found = await arm.request("GET", path)
    message = "Resource group 'none' could not be found."
    assert found.status == 404
    assert found.body == {"error": {"code": "ResourceGroupNotFound", "message": message}}
    assert (await arm.request("HEAD", path)).status == 404


async def test_a_group_stays_where_it_is(arm: ArmClient) -> None:
    await arm.make_group()
    found = await arm.request("PUT", f"{arm.group}?{V}", {"location": "westeurope"})
    assert (found.status, found.body["error"]["code"]) == (409, "InvalidResourceGroupLocation")


async def test_group_deletion_is_polled_and_takes_everything_along(arm: ArmClient) -> None:
    await arm.make_app()
    accepted = await arm.request("DELETE", f"{arm.group}?{V}")
    assert accepted.status == 202
    assert accepted.headers["Retry-After"] == "1"
    assert "/operationresults/" in accepted.headers["Location"]
    assert (await arm.request("GET", accepted.headers["Location"])).status == 202
    refused = await arm.request("PUT", f"{ACCOUNT}2?{STORAGE}", ACCOUNT_BODY)
    assert refused.body["error"]["code"] == "ResourceGroupBeingDeleted"
    assert (await arm.poll(accepted)).status == 200
    assert (await arm.request("HEAD", f"{arm.group}?{V}")).status == 404
    assert arm.host.removed == ["app"]
    assert arm.cloud.resources.all() == []
    assert not (arm.cloud.files.share_exists("acct", "data"))


async def test_versions_are_checked(arm: ArmClient) -> None:
    async def code(url: str) -> str:
        response = await arm.request("GET", url)
        assert response.status == 400
        return str(response.body["error"]["code"])

    await arm.make_group()
    assert await code(f"{arm.group}") == "MissingApiVersionParameter"
    assert await code(f"{arm.group}?api-version=2000-01-01") == "InvalidApiVersionParameter"
    assert await code(f"{ACCOUNT}?api-version=2000-01-01") == "NoRegisteredProviderFound"


async def test_what_is_not_emulated_is_refused_by_name(arm: ArmClient) -> None:
    await arm.make_group()
    found = await arm.request("GET", f"providers/Microsoft.App/sessionPools/p?{APP}")
    assert found.status == 501
    assert found.body["error"]["code"] == "NotImplementedByLocalCloud"
    assert "/providers/Microsoft.App/sessionPools/p" in found.body["error"]["message"]


async def test_another_subscription_does_not_exist(arm: ArmClient) -> None:
    found = await arm.request("GET", f"/subscriptions/other/resourcegroups?{V}")
    assert found.body["error"]["code"] == "SubscriptionNotFound"


async def test_subscription_tenant_locations_and_providers_are_listed(arm: ArmClient) -> None:
    version = "api-version=2022-12-01"
    identity = arm.cloud.identity
    subscriptions = await arm.request("GET", f"/subscriptions?{version}")
    assert subscriptions.body["value"][0]["subscriptionId"] == identity.subscription_id
    assert subscriptions.body["value"][0]["state"] == "Enabled"
    tenants = await arm.request("GET", f"/tenants?{version}")
    assert tenants.body["value"][0]["tenantId"] == identity.tenant_id
    locations = await arm.request("GET", f"{arm.subscription}/locations?{version}")
    assert "swedencentral" in [found["name"] for found in locations.body["value"]]
    provider = await arm.request("GET", f"{arm.subscription}/providers/microsoft.app?{V}")
    assert provider.body["registrationState"] == "Registered"
    types = {found["resourceType"]: found["apiVersions"] for found in provider.body["resourceTypes"]}
    assert "2026-01-01" in types["containerApps"]


async def test_resources_of_a_group_are_listed(arm: ArmClient) -> None:
    await arm.make_environment()
    url = f"{arm.subscription}/resources?$filter=resourceGroup eq 'rg'&$expand=createdTime&{V}"
    found = await arm.request("GET", url)
    assert [entry["name"] for entry in found.body["value"]] == ["acct", "env"]
    assert all(entry["provisioningState"] == "Succeeded" for entry in found.body["value"])


async def test_an_account_has_keys_that_open_its_shares(arm: ArmClient) -> None:
    await arm.make_group()
    created = await arm.request("PUT", f"{ACCOUNT}?{STORAGE}", ACCOUNT_BODY)
    assert created.status == 200
    endpoints = created.body["properties"]["primaryEndpoints"]
    assert endpoints == {"file": "https://localhost:1/acct/"}
    keys = await arm.request("POST", f"{ACCOUNT}/listKeys?{STORAGE}&$expand=kerb")
    assert [key["keyName"] for key in keys.body["keys"]] == ["key1", "key2"]
    assert keys.body["keys"][0]["permissions"] == "FULL"
    renewed = await arm.request("POST", f"{ACCOUNT}/regenerateKey?{STORAGE}", {"keyName": "key1"})
    assert renewed.body["keys"][0]["value"] != keys.body["keys"][0]["value"]
    assert renewed.body["keys"][1]["value"] == keys.body["keys"][1]["value"]
    again = await arm.request("PUT", f"{ACCOUNT}?{STORAGE}", ACCOUNT_BODY)
    assert again.status == 200
    same = await arm.request("POST", f"{ACCOUNT}/listKeys?{STORAGE}")
    assert same.body == renewed.body


async def test_a_share_comes_without_its_file_service(arm: ArmClient) -> None:
    await arm.make_group()
    await arm.request("PUT", f"{ACCOUNT}?{STORAGE}", ACCOUNT_BODY)
    shares = f"{ACCOUNT}/fileServices/default/shares"
    body = {"properties": {"shareQuota": 7}}
    assert (await arm.request("PUT", f"{shares}/data?{STORAGE}", body)).status == 201
    assert arm.cloud.files.share_path("acct", "data").is_dir()
    listed = await arm.request("GET", f"{shares}?{STORAGE}")
    assert [share["properties"]["shareQuota"] for share in listed.body["value"]] == [7]
    service = await arm.request("GET", f"{ACCOUNT}/fileServices/default?{STORAGE}")
    assert service.body["properties"]["shareDeleteRetentionPolicy"] == {"enabled": True, "days": 7}
    assert (await arm.request("DELETE", f"{shares}/data?{STORAGE}")).status == 200
    assert not arm.cloud.files.share_exists("acct", "data")
    assert (await arm.request("DELETE", f"{shares}/data?{STORAGE}")).status == 204


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("storageAccounts/UPPER", ACCOUNT_BODY, "AccountNameInvalid"),
        ("storageAccounts/subscriptions", ACCOUNT_BODY, "StorageAccountAlreadyTaken"),
        ("storageAccounts/acct", {"location": "swedencentral"}, "InvalidValuesForRequestParameters"),
        ("storageAccounts/acct", {"sku": {"name": "x"}, "kind": "y"}, "LocationRequired"),
        (
            "storageAccounts/acct",
            ACCOUNT_BODY | {"properties": {"immutableStorageWithVersioning": {}}},
            "NotImplementedByLocalCloud",
        ),
        (
            "storageAccounts/none/fileServices/default/shares/data",
            {},
            "ParentResourceNotFound",
        ),
    ],
)
async def test_a_bad_account_or_share_is_refused(arm: ArmClient, path: str, body: Any, code: str) -> None:
    await arm.make_group()
    found = await arm.request("PUT", f"providers/Microsoft.Storage/{path}?{STORAGE}", body)
    assert found.body["error"]["code"] == code


async def test_account_names_are_checked(arm: ArmClient) -> None:
    async def check(name: str) -> dict[str, Any]:
        path = f"{arm.subscription}/providers/Microsoft.Storage/checkNameAvailability?{STORAGE}"
        response = await arm.request(
            "POST", path, {"name": name, "type": "Microsoft.Storage/storageAccounts"}
        )
        assert isinstance(response.body, dict)
        return response.body

    await arm.make_environment()
    assert (await check("fresh"))["nameAvailable"] is True
    assert (await check("acct"))["reason"] == "AlreadyExists"
    assert (await check("A"))["reason"] == "AccountNameInvalid"


async def test_a_resource_stays_where_it_is(arm: ArmClient) -> None:
    await arm.make_environment()
    found = await arm.request("PUT", f"{ACCOUNT}?{STORAGE}", ACCOUNT_BODY | {"location": "westus"})
    assert (found.status, found.body["error"]["code"]) == (409, "InvalidResourceLocation")


async def test_a_workspace_has_an_id_and_shared_keys(arm: ArmClient) -> None:
    await arm.make_group()
    path = "providers/Microsoft.OperationalInsights/workspaces/work"
    body = {"location": "swedencentral", "properties": {"sku": {"name": "PerGB2018"}}}
    created = await arm.request("PUT", f"{path}?api-version=2025-02-01", body)
    assert created.body["properties"]["retentionInDays"] == 30
    assert created.body["properties"]["customerId"]
    keys = await arm.request("POST", f"{path}/sharedKeys?api-version=2020-08-01")
    assert set(keys.body) == {"primarySharedKey", "secondarySharedKey"}


async def test_a_second_change_waits_for_the_first(arm: ArmClient) -> None:
    await arm.make_environment()
    arm.host.hold = asyncio.Event()
    accepted = await arm.put_app(arm.app_body())
    await arm.settle()
    refused = await arm.put_app(arm.app_body())
    assert refused.status == 409
    assert refused.body["error"]["code"] == "ContainerAppOperationInProgress"
    running = await arm.poll(accepted)
    assert running.body["status"] == "InProgress"
    arm.host.hold.set()
    assert (await arm.poll(accepted)).body["status"] == "Succeeded"
    assert (await arm.put_app(arm.app_body())).status == 201


async def test_a_body_that_is_no_json_is_refused(arm: ArmClient) -> None:
    await arm.make_group()
    found = await arm.request("PUT", f"{ACCOUNT}?{STORAGE}", "{nope")
    assert (found.status, found.body["error"]["code"]) == (400, "InvalidRequestContent")

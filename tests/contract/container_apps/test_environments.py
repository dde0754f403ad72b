"""Environments, their workload profiles, storages and usages.

Source: Microsoft.App REST API 2025-07-01; the Azure CLI's recorded tests and calls on the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.doubles.local_cloud import ArmClient

V = "api-version=2025-07-01"
ENVIRONMENT = "providers/Microsoft.App/managedEnvironments/env"


@pytest.mark.parametrize(
    ("profile", "code", "message"),
    [
        (
            {"name": "g", "workloadProfileType": "Consumption-GPU-NC24-A100", "minimumCount": 0},
            "WorkloadProfilePropertyNotSupported",
            "Workload Profile property 'MinimumCount' is not supported for Consumption_GPU_NC24_A100",
        ),
        ({"name": "g", "workloadProfileType": "NC1"}, "WorkloadProfileTypeNotSupported", ""),
        (
            {"name": "g", "workloadProfileType": "D4", "minimumCount": 3, "maximumCount": 2},
            "WorkloadProfileInvalidCount",
            "",
        ),
        ({"name": "g" * 16, "workloadProfileType": "D4"}, "WorkloadProfileInvalidNameTooLong", ""),
        ({"name": "g", "workloadProfileType": "D4", "x": 1}, "ManagedEnvironmentInvalidSchema", ""),
    ],
)
async def test_bad_profiles_are_refused(
    arm: ArmClient, profile: dict[str, Any], code: str, message: str
) -> None:
    await arm.make_environment()
    body = {"location": "swedencentral", "properties": {"workloadProfiles": [profile]}}
    refused = await arm.request("PUT", f"{ENVIRONMENT}2?{V}", body)
    assert refused.body["error"]["code"] == code
    assert refused.body["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("top", "properties", "feature"),
    [
        ({"identity": {"type": "SystemAssigned"}}, {}, "a managed identity of an environment"),
        (
            {},
            {"vnetConfiguration": {"infrastructureSubnetId": "/s"}},
            "an environment in a virtual network",
        ),
        ({}, {"zoneRedundant": True}, "a zone redundant environment"),
        (
            {},
            {"peerTrafficConfiguration": {"encryption": {"enabled": True}}},
            "encryption between the apps of an environment",
        ),
        (
            {},
            {"peerAuthentication": {"mtls": {"enabled": True}}},
            "encryption between the apps of an environment",
        ),
        ({}, {"daprAIInstrumentationKey": "k"}, "Dapr"),
        ({}, {"daprAIConnectionString": "c"}, "Dapr"),
        ({}, {"customDomainConfiguration": {"dnsSuffix": "x.example"}}, "a custom domain of an environment"),
    ],
)
async def test_features_that_are_not_emulated_are_rejected_by_name(
    arm: ArmClient, top: dict[str, Any], properties: dict[str, Any], feature: str
) -> None:
    await arm.make_environment()
    body = {"location": "swedencentral", "properties": properties, **top}
    refused = await arm.request("PUT", f"{ENVIRONMENT}2?{V}", body)
    assert (refused.status, refused.body["error"]["code"]) == (501, "NotImplementedByLocalCloud")
    assert feature in refused.body["error"]["message"]


async def test_features_that_are_switched_off_are_accepted(arm: ArmClient) -> None:
    await arm.make_environment()
    properties = {
        "zoneRedundant": False,
        "peerTrafficConfiguration": {"encryption": {"enabled": False}},
        "peerAuthentication": {"mtls": {"enabled": False}},
    }
    body = {"location": "swedencentral", "properties": properties, "identity": {"type": "None"}}
    assert (await arm.request("PUT", f"{ENVIRONMENT}2?{V}", body)).status == 201


async def test_a_patch_adds_a_profile_but_takes_none_in_use_away(arm: ArmClient) -> None:
    await arm.make_app()
    kept = {"Name": "Consumption", "workloadProfileType": "Consumption"}
    added = {"name": "T4", "workloadProfileType": "CONSUMPTION-GPU-NC8AS-T4"}
    body = {"properties": {"workloadProfiles": [kept, added]}}
    accepted = await arm.request("PATCH", f"{ENVIRONMENT}?{V}", body)
    assert (accepted.status, "managedEnvironmentOperationResults" in accepted.headers["Location"]) == (
        202,
        True,
    )
    done = await arm.poll(accepted)
    assert done.body["properties"]["workloadProfiles"] == [
        {"name": "Consumption", "workloadProfileType": "Consumption"},
        {"name": "T4", "workloadProfileType": "Consumption-GPU-NC8as-T4"},
    ]
    body = {"properties": {"workloadProfiles": [added]}}
    refused = await arm.request("PATCH", f"{ENVIRONMENT}?{V}", body)
    assert (refused.status, refused.body["error"]["code"]) == (409, "WorkloadProfileInUse")


async def test_profiles_states_and_usages_show_what_apps_use(arm: ArmClient) -> None:
    await arm.make_app()
    states = await arm.request("GET", f"{ENVIRONMENT}/workloadProfileStates?{V}")
    assert [found["name"] for found in states.body["value"]] == ["Consumption", "GPU"]
    assert states.body["value"][1]["properties"] == {"minimumCount": 0, "maximumCount": 2, "currentCount": 0}
    usages = await arm.request("GET", f"{ENVIRONMENT}/usages?{V}")
    used = {found["name"]["value"]: found["usage"] for found in usages.body["value"]}
    assert used["ManagedEnvironmentConsumptionCores"] == 0.5
    region = f"{arm.subscription}/providers/Microsoft.App/locations/swedencentral"
    count = await arm.request("GET", f"{region}/usages?{V}")
    assert count.body["value"][0]["currentValue"] == 1
    types = await arm.request("GET", f"{region}/availableManagedEnvironmentsWorkloadProfileTypes?{V}")
    assert "NC24-A100" in [found["name"] for found in types.body["value"]]


async def test_an_environment_hides_keys_and_goes_only_when_empty(arm: ArmClient) -> None:
    logs = {
        "destination": "log-analytics",
        "logAnalyticsConfiguration": {"customerId": "c", "sharedKey": "hidden"},
    }
    await arm.make_environment(appLogsConfiguration=logs)
    shown = await arm.request("GET", f"{ENVIRONMENT}?{V}")
    assert shown.body["properties"]["appLogsConfiguration"]["logAnalyticsConfiguration"]["sharedKey"] is None
    storages = await arm.request("GET", f"{ENVIRONMENT}/storages?{V}")
    azure_file = {"accountName": "acct", "shareName": "data", "accessMode": "ReadWrite"}
    assert storages.body["value"][0]["properties"] == {"azureFile": azure_file}
    missing = await arm.request("GET", f"{ENVIRONMENT}/storages/none?{V}")
    assert missing.body["error"]["code"] == "ManagedEnvironmentStorageNotFound"
    await arm.put_app(arm.app_body())
    await arm.settle()
    refused = await arm.request("DELETE", f"{ENVIRONMENT}?{V}")
    assert refused.body["error"]["code"] == "ManagedEnvironmentHasContainerApps"

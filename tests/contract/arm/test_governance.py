"""Quotas, policies, rights, taken names and provider registrations, as `subscription.json` and az set them.

Source: bodies of these errors as quoted in public issues (see `localcloud.arm.governance`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.doubles.local_cloud import ArmClient

ACCOUNT = "providers/Microsoft.Storage/storageAccounts/acct?api-version=2025-08-01"
ACCOUNT_BODY = {"location": "swedencentral", "sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}
ENVIRONMENT = "providers/Microsoft.App/managedEnvironments/env"
APP = "api-version=2025-07-01"
GROUPS = "api-version=2024-11-01"


def set_rules(state: Path, **rules: Any) -> None:
    (state / "subscription.json").write_text(json.dumps(rules), "utf-8")


async def put_environment(arm: ArmClient, name: str, *profiles: dict[str, Any]) -> Any:
    body = {"location": "swedencentral", "properties": {"workloadProfiles": list(profiles)}}
    response = await arm.request("PUT", f"providers/Microsoft.App/managedEnvironments/{name}?{APP}", body)
    await arm.settle()
    return response.body


async def test_an_unregistered_provider_rejects_changes_until_it_is_registered(arm: ArmClient) -> None:
    await arm.make_group()
    provider = f"{arm.subscription}/providers/Microsoft.Storage"
    await arm.request("POST", f"{provider}/unregister?{GROUPS}")
    shown = await arm.request("GET", f"{provider}?{GROUPS}")
    assert shown.body["registrationState"] == "NotRegistered"
    rejected = await arm.request("PUT", ACCOUNT, ACCOUNT_BODY)
    assert rejected.status == 409
    error = rejected.body["error"]
    assert error["code"] == "MissingSubscriptionRegistration"
    assert error["message"].startswith(
        "The subscription is not registered to use namespace 'Microsoft.Storage'."
    )
    assert error["details"][0]["target"] == "Microsoft.Storage"
    registering = await arm.request("POST", f"{provider}/register?{GROUPS}")
    assert registering.body["registrationState"] == "Registering"
    assert (await arm.request("GET", f"{provider}?{GROUPS}")).body["registrationState"] == "Registered"
    assert (await arm.request("PUT", ACCOUNT, ACCOUNT_BODY)).status == 200


async def test_a_provider_with_resources_cannot_be_unregistered(arm: ArmClient) -> None:
    await arm.make_group()
    await arm.request("PUT", ACCOUNT, ACCOUNT_BODY)
    rejected = await arm.request(
        "POST", f"{arm.subscription}/providers/Microsoft.Storage/unregister?{GROUPS}"
    )
    assert rejected.body["error"]["code"] == "CannotUnregisterResourceProviderWithResources"


async def test_a_policy_denies_a_resource(arm: ArmClient, tmp_path: Path) -> None:
    await arm.make_group()
    policy = {
        "name": "no-shared-keys",
        "type": "Microsoft.Storage/storageAccounts",
        "property": "properties.allowSharedKeyAccess",
        "allowed": [False],
    }
    set_rules(tmp_path, policies=[policy])
    rejected = await arm.request("PUT", ACCOUNT, ACCOUNT_BODY)
    error = rejected.body["error"]
    assert (rejected.status, error["code"], error["target"]) == (403, "RequestDisallowedByPolicy", "acct")
    assert error["message"].startswith("Resource 'acct' was disallowed by policy. Policy identifiers: '[{")
    assert error["additionalInfo"][0]["info"]["policyAssignmentName"] == "no-shared-keys"
    allowed = ACCOUNT_BODY | {"properties": {"allowSharedKeyAccess": False}}
    assert (await arm.request("PUT", ACCOUNT, allowed)).status == 200
    url = f"{arm.subscription}/providers/Microsoft.Authorization/policyAssignments?api-version=2024-05-01"
    assert [found["name"] for found in (await arm.request("GET", url)).body["value"]] == ["no-shared-keys"]


async def test_a_policy_and_a_missing_registration_reject_a_deployment(
    arm: ArmClient, tmp_path: Path
) -> None:
    await arm.make_group()
    schema = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
    account = {
        "type": "Microsoft.Storage/storageAccounts",
        "apiVersion": "2025-08-01",
        "name": "acct",
        **ACCOUNT_BODY,
    }
    template = {"$schema": schema, "contentVersion": "1.0.0.0", "resources": [account]}
    body = {"properties": {"mode": "Incremental", "template": template}}
    url = "providers/Microsoft.Resources/deployments/d/validate?api-version=2025-04-01"
    policy = {"name": "p", "type": account["type"], "property": "kind", "allowed": ["FileStorage"]}
    set_rules(tmp_path, policies=[policy])
    error = (await arm.request("POST", url, body)).body["error"]
    assert error["code"] == "InvalidTemplateDeployment"
    assert [detail["code"] for detail in error["details"]] == ["RequestDisallowedByPolicy"]
    set_rules(tmp_path)
    await arm.request("POST", f"{arm.subscription}/providers/Microsoft.Storage/unregister?{GROUPS}")
    error = (await arm.request("POST", url, body)).body["error"]
    assert error["code"] == "MissingSubscriptionRegistration"


async def test_an_account_name_can_be_taken_by_somebody_else(arm: ArmClient, tmp_path: Path) -> None:
    await arm.make_group()
    set_rules(tmp_path, takenAccountNames=["acct"])
    rejected = await arm.request("PUT", ACCOUNT, ACCOUNT_BODY)
    assert (rejected.status, rejected.body["error"]["code"]) == (409, "StorageAccountAlreadyTaken")
    url = f"{arm.subscription}/providers/Microsoft.Storage/checkNameAvailability?api-version=2025-08-01"
    answer = await arm.request("POST", url, {"name": "acct", "type": "Microsoft.Storage/storageAccounts"})
    assert (answer.body["nameAvailable"], answer.body["reason"]) == (False, "AlreadyExists")


async def test_an_action_without_a_right_is_rejected(arm: ArmClient, tmp_path: Path) -> None:
    await arm.make_group()
    await arm.request("PUT", ACCOUNT, ACCOUNT_BODY)
    set_rules(tmp_path, deniedActions=["Microsoft.Storage/storageAccounts/*"])
    for method, url, action in (
        ("PUT", ACCOUNT, "write"),
        ("DELETE", ACCOUNT, "delete"),
        ("GET", ACCOUNT, "read"),
        ("POST", ACCOUNT.replace("?", "/listKeys?"), "listKeys/action"),
    ):
        rejected = await arm.request(method, url, ACCOUNT_BODY)
        error = rejected.body["error"]
        assert (rejected.status, error["code"]) == (403, "AuthorizationFailed")
        assert f"perform action 'Microsoft.Storage/storageAccounts/{action}'" in error["message"]
    url = "providers/Microsoft.Authorization/permissions?api-version=2022-04-01"
    (permission,) = (await arm.request("GET", url)).body["value"]
    assert permission["notActions"] == ["Microsoft.Storage/storageAccounts/*"]


async def test_a_dedicated_profile_counts_with_its_most_nodes(arm: ArmClient, tmp_path: Path) -> None:
    await arm.make_group()
    set_rules(tmp_path, quotas={"SubscriptionNCA100Gpus": 3})
    profile = {"name": "G", "workloadProfileType": "NC48-A100", "minimumCount": 0, "maximumCount": 2}
    error = (await put_environment(arm, "env", profile))["error"]
    assert error["code"] == "MaxRegionalQuotaExceeded"
    assert "Maximum allowed: 3, Current in use: 0, Additional requested: 4" in error["message"]
    await put_environment(arm, "env", profile | {"maximumCount": 1})
    # A change of the same environment does not count twice.
    assert "error" not in await put_environment(arm, "env", profile | {"maximumCount": 1})
    one = {"name": "G", "workloadProfileType": "NC24-A100", "minimumCount": 0, "maximumCount": 1}
    assert "error" not in await put_environment(arm, "env2", one)
    assert (await put_environment(arm, "env3", one))["error"]["code"] == "MaxRegionalQuotaExceeded"
    url = f"{arm.subscription}/providers/Microsoft.App/locations/swedencentral/usages?{APP}"
    rows = {row["name"]["value"]: row for row in (await arm.request("GET", url)).body["value"]}
    gpus = rows["SubscriptionNCA100Gpus"]
    assert (gpus["currentValue"], gpus["limit"]) == (3, 3)
    assert rows["ManagedEnvironmentCount"]["currentValue"] == 2


async def test_environments_are_limited_by_region(arm: ArmClient, tmp_path: Path) -> None:
    await arm.make_group()
    set_rules(tmp_path, quotas={"ManagedEnvironmentCount": 1})
    await put_environment(arm, "env")
    error = (await put_environment(arm, "env2"))["error"]
    assert error == {
        "code": "MaxNumberOfRegionalEnvironmentsInSubExceeded",
        "message": "The subscription cannot have more than 1 Container App Environments in Sweden Central.",
    }


async def test_an_app_on_a_serverless_gpu_needs_quota_in_its_environment(
    arm: ArmClient, tmp_path: Path
) -> None:
    await arm.make_environment(
        workloadProfiles=[
            {"name": "Consumption", "workloadProfileType": "Consumption"},
            {"name": "T4", "workloadProfileType": "Consumption-GPU-NC8as-T4"},
        ]
    )
    set_rules(tmp_path, quotas={"ManagedEnvironmentConsumptionT4Gpus": 0})
    body = arm.app_body(resources={"cpu": 8, "memory": "56Gi"})
    body["properties"]["workloadProfileName"] = "T4"
    assert (await arm.put_app(body)).body["error"]["code"] == "MaxRegionalQuotaExceeded"
    set_rules(tmp_path, quotas={"ManagedEnvironmentConsumptionT4Gpus": 1})
    assert (await arm.put_app(body)).status == 201
    await arm.settle()
    usages = await arm.request("GET", f"{ENVIRONMENT}/usages?{APP}")
    rows = {row["name"]["value"]: row for row in usages.body["value"]}
    row = rows["ManagedEnvironmentConsumptionT4Gpus"]
    assert (row["currentValue"], row["limit"]) == (1, 1)


@pytest.mark.parametrize("text", ["{", '{"quota": {}}', '{"quotas": {"A": -1}}'])
async def test_a_damaged_file_is_an_error_that_names_it(arm: ArmClient, tmp_path: Path, text: str) -> None:
    await arm.make_group()
    (tmp_path / "subscription.json").write_text(text, "utf-8")
    rejected = await arm.request("PUT", ACCOUNT, ACCOUNT_BODY)
    assert rejected.body["error"]["code"] == "InvalidSubscriptionFile"
    assert "subscription.json" in rejected.body["error"]["message"]


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({"a?b": "x"}, "InvalidTagNameCharacters"),
        ({"x" * 513: "x"}, "InvalidTagNameLength"),
        ({"a": "x" * 257}, "InvalidTagValueLength"),
        ({f"t{number}": "x" for number in range(51)}, "TooManyTags"),
        ({"a": 1}, "InvalidRequestContent"),
        ("a=b", "InvalidRequestContent"),
    ],
)
async def test_tags_of_a_group_have_limits(arm: ArmClient, tags: Any, code: str) -> None:
    for method in ("PUT", "PATCH"):
        body = {"location": "swedencentral", "tags": tags}
        rejected = await arm.request(method, f"{arm.group}?{GROUPS}", body)
        assert (rejected.status, rejected.body["error"]["code"]) == (400, code)
        await arm.make_group()


async def test_a_resource_can_be_checked_against_the_policies_before_it_exists(
    arm: ArmClient, tmp_path: Path
) -> None:
    await arm.make_group()
    policy = {
        "name": "no-shared-keys",
        "type": "Microsoft.Storage/storageAccounts",
        "property": "properties.allowSharedKeyAccess",
        "allowed": [False],
    }
    check = "providers/Microsoft.PolicyInsights/checkPolicyRestrictions?api-version=2024-10-01"
    content = {"type": "Microsoft.Storage/storageAccounts", "properties": {"allowSharedKeyAccess": True}}
    body = {"resourceDetails": {"resourceContent": content}}
    for scope in ("", f"{arm.subscription}/"):
        set_rules(tmp_path)
        allowed = await arm.request("POST", f"{scope}{check}", body)
        assert allowed.body["contentEvaluationResult"]["policyEvaluations"] == []
        set_rules(tmp_path, policies=[policy])
        denied = await arm.request("POST", f"{scope}{check}", body)
        (evaluation,) = denied.body["contentEvaluationResult"]["policyEvaluations"]
        assert evaluation["effectDetails"] == {"policyEffect": "Deny"}
        assert evaluation["policyInfo"]["policyAssignmentId"].endswith("/policyAssignments/no-shared-keys")
    wrong = await arm.request("POST", check, {"resourceDetails": {}})
    assert (wrong.status, wrong.body["error"]["code"]) == (400, "InvalidCheckRestrictionsRequest")

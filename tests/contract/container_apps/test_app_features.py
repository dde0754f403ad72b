"""Identities, registries, domains, CORS, restrictions and sessions of an app are stored, shown and used.

Source: Microsoft.App REST API 2025-07-01; the requests that az sends for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from localcloud.runtime import CorsPolicy, IngressPolicy

if TYPE_CHECKING:
    from tests.doubles.local_cloud import ArmClient

V = "api-version=2025-07-01"
USER = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u"


async def patch(arm: ArmClient, body: dict[str, Any]) -> Any:
    response = await arm.request("PATCH", f"{arm.app_path()}?{V}", body)
    await arm.settle()
    return response.body


async def patch_ingress(arm: ArmClient, **ingress: Any) -> Any:
    return await patch(arm, {"properties": {"configuration": {"ingress": ingress}}})


async def test_identities_are_assigned_and_removed(arm: ArmClient) -> None:
    shown = await arm.make_app()
    assert shown["identity"] == {"type": "None"}
    await patch(arm, {"identity": {"type": "SystemAssigned"}})
    system = (await arm.show_app())["identity"]
    assert (system["type"], system["tenantId"]) == ("SystemAssigned", arm.cloud.identity.tenant_id)
    await patch(
        arm, {"identity": {"type": "SystemAssigned, UserAssigned", "userAssignedIdentities": {USER: {}}}}
    )
    both = (await arm.show_app())["identity"]
    assert both["type"] == "SystemAssigned, UserAssigned"
    assert both["principalId"] == system["principalId"]
    assert set(both["userAssignedIdentities"][USER]) == {"principalId", "clientId"}
    await patch(arm, {"identity": {"type": "None", "userAssignedIdentities": {USER: None}}})
    assert (await arm.show_app())["identity"] == {"type": "None"}


async def test_an_id_that_is_no_identity_is_rejected(arm: ArmClient) -> None:
    await arm.make_app()
    rejected = await patch(arm, {"identity": {"type": "UserAssigned", "userAssignedIdentities": {"u": {}}}})
    assert rejected["error"]["code"] == "LinkedInvalidPropertyId"


async def test_the_ingress_gets_its_policy(arm: ArmClient) -> None:
    await arm.make_app()
    assert arm.host.policies["app"] == IngressPolicy()
    rules = [{"name": "a", "action": "Deny", "ipAddressRange": "10.0.0.0/8"}]
    cors = {"allowedOrigins": ["https://a.example"], "allowedMethods": ["GET"], "maxAge": 60}
    await patch_ingress(
        arm, ipSecurityRestrictions=rules, corsPolicy=cors, stickySessions={"affinity": "Sticky"}
    )
    shown = (await arm.show_app())["properties"]["configuration"]["ingress"]
    assert shown["ipSecurityRestrictions"] == rules
    assert shown["corsPolicy"] == cors
    assert shown["stickySessions"] == {"affinity": "sticky"}
    policy = CorsPolicy(("https://a.example",), methods=("GET",), max_age_s=60)
    assert arm.host.policies["app"] == IngressPolicy(
        ("10.0.0.0/8",), are_networks_allowed=False, cors=policy, is_sticky=True
    )


async def test_what_others_set_is_kept_by_an_update(arm: ArmClient) -> None:
    await arm.make_app()
    domain = {"name": "www.example.com", "bindingType": "Disabled"}
    registry = {"server": "x.azurecr.io", "identity": "system"}
    await patch_ingress(arm, customDomains=[domain])
    await patch(arm, {"properties": {"configuration": {"registries": [registry]}}})
    await patch(arm, {"properties": {"template": {"scale": {"minReplicas": 0, "maxReplicas": 3}}}})
    shown = (await arm.show_app())["properties"]
    assert shown["configuration"]["ingress"]["customDomains"] == [domain]
    assert shown["configuration"]["registries"] == [registry]
    assert (shown["template"]["scale"]["minReplicas"], shown["template"]["scale"]["maxReplicas"]) == (0, 3)


async def test_members_that_are_null_are_not_shown(arm: ArmClient) -> None:
    await arm.make_app()
    http = {"metadata": {"concurrentRequests": "5"}, "auth": None}
    rules = [{"name": "r", "http": http, "custom": None}]
    await patch(arm, {"properties": {"template": {"scale": {"rules": rules}}}})
    shown = (await arm.show_app())["properties"]["template"]["scale"]["rules"]
    assert shown == [{"name": "r", "http": {"metadata": {"concurrentRequests": "5"}}}]


@pytest.mark.parametrize(
    ("ingress", "code"),
    [
        (
            {
                "ipSecurityRestrictions": [
                    {"name": "a", "action": "Allow", "ipAddressRange": "10.0.0.0/8"},
                    {"name": "b", "action": "Deny", "ipAddressRange": "11.0.0.0/8"},
                ]
            },
            "ContainerAppInvalidIpSecurityRestriction",
        ),
        (
            {"corsPolicy": {"allowedOrigins": ["*"], "allowCredentials": True}},
            "ContainerAppInvalidCorsPolicy",
        ),
        (
            {"customDomains": [{"name": "a.example", "bindingType": "SniEnabled"}]},
            "ContainerAppInvalidCustomDomain",
        ),
        ({"traffic": [{"latestRevision": True, "weight": "x"}]}, "ContainerAppInvalidSchema"),
        ({"traffic": [{"weight": 100}]}, "ContainerAppInvalidTrafficWeight"),
        ({"traffic": [{"revisionName": "app--none", "weight": 100}]}, "RevisionNotFound"),
    ],
)
async def test_an_invalid_ingress_is_rejected(arm: ArmClient, ingress: dict[str, Any], code: str) -> None:
    await arm.make_app()
    assert (await patch_ingress(arm, **ingress))["error"]["code"] == code


async def test_session_affinity_needs_a_single_revision(arm: ArmClient) -> None:
    await arm.make_app()
    await patch(arm, {"properties": {"configuration": {"activeRevisionsMode": "Multiple"}}})
    rejected = await patch_ingress(arm, stickySessions={"affinity": "sticky"})
    assert rejected["error"]["code"] == "ContainerAppInvalidStickySessions"


async def test_several_errors_of_an_app_come_together(arm: ArmClient) -> None:
    await arm.make_environment()
    body = arm.app_body(
        name="Web", env=[{"name": "A B", "value": "x"}], resources={"cpu": 0.3, "memory": "1Gi"}
    )
    rejected = await arm.put_app(body, name="App")
    error = rejected.body["error"]
    assert (rejected.status, error["code"]) == (400, "ContainerAppInvalidName")
    assert [detail["code"] for detail in error["details"]] == [
        "ContainerAppInvalidName",
        "InvalidParameterValueInContainerTemplate",
        "ContainerAppInvalidEnvVarName",
        "ContainerAppInvalidResourceTotal",
    ]


async def test_forbidden_shared_keys_and_a_new_key_break_the_mount(arm: ArmClient) -> None:
    await arm.make_app()
    account = f"{arm.group}/providers/Microsoft.Storage/storageAccounts/acct"
    storage = "api-version=2025-08-01"
    url = f"{arm.app_path()}/revisions/{{}}/restart?{V}"
    revision = (await arm.show_app())["properties"]["latestRevisionName"]

    async def mount() -> str:
        await arm.request("POST", url.format(revision))
        return str(arm.host.specs[revision].container.mounts[0][0])

    assert "files/acct/data" in await mount()
    await arm.request("PATCH", f"{account}?{storage}", {"properties": {"allowSharedKeyAccess": False}})
    assert await mount() == (
        "/dev/null/permission denied: key based authentication is not permitted on storage account 'acct'"
    )
    await arm.request("PATCH", f"{account}?{storage}", {"properties": {"allowSharedKeyAccess": True}})
    await arm.request("POST", f"{account}/regenerateKey?{storage}", {"keyName": "key1"})
    assert "the key is none of storage account 'acct'" in await mount()


async def test_a_secret_is_removed_together_with_its_variable(arm: ArmClient) -> None:
    await arm.make_app()
    shown = (await arm.show_app())["properties"]
    (container,) = shown["template"]["containers"]
    key = {"name": "api-key", "value": "s3cret"}
    for variables, secrets in (
        (
            [*container["env"], {"name": "TOKEN", "secretRef": "token"}],
            [key, {"name": "token", "value": "t"}],
        ),
        (container["env"], [key]),
    ):
        template = {"containers": [{**container, "env": variables}]}
        await patch(arm, {"properties": {"configuration": {"secrets": secrets}, "template": template}})
        shown = (await arm.show_app())["properties"]
        assert shown["provisioningState"] == "Succeeded"
        assert {each["name"] for each in shown["configuration"]["secrets"]} == {
            each["name"] for each in secrets
        }
    assert shown["template"]["containers"][0]["env"] == container["env"]


CRON: dict[str, Any] = {"name": "c", "custom": {"type": "cron", "metadata": {"desiredReplicas": "1"}}}


@pytest.mark.parametrize(
    ("scale", "ingress", "idle_s"),
    [
        ({"minReplicas": 0, "cooldownPeriod": 60}, True, 60.0),
        ({"minReplicas": 0, "rules": [{"name": "h", "http": {"metadata": {}}}]}, True, 300.0),
        ({}, True, 300.0),
        ({"minReplicas": 1, "cooldownPeriod": 60}, True, None),
        ({"minReplicas": 0, "rules": [CRON]}, True, None),
        ({"minReplicas": 0}, False, None),
    ],
)
async def test_an_app_without_a_least_replica_sleeps_after_its_cooldown(
    arm: ArmClient, scale: dict[str, Any], idle_s: float | None, *, ingress: bool
) -> None:
    await arm.make_environment()
    body = arm.app_body()
    body["properties"]["template"]["scale"] = scale
    if not ingress:
        del body["properties"]["configuration"]["ingress"]
    created = await arm.put_app(body)
    assert created.status in {200, 201}, created.body
    await arm.settle()
    (spec,) = arm.host.specs.values()
    assert (spec.replicas, spec.idle_s) == (1, idle_s)

"""Wrong variants of our own compiled template: each is rejected with a code before anything is created.

A variant changes one value of a resource. `ACCEPTED` lists those that the local cloud lets through, each with
its reason: they are wrong on Azure, or may be.
"""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.template import Deployment, Scope, load_template

if TYPE_CHECKING:
    from tests.doubles.local_cloud import ArmClient

TEMPLATE = json.loads(
    (Path(__file__).parents[3] / "infra" / "provision" / "inference.json").read_text("utf-8")
)
URL = "providers/Microsoft.Resources/deployments/d"
V = "api-version=2025-04-01"
PARAMETERS = {
    "workloadProfileName": "Consumption",
    "containerCpu": "0.5",
    "containerMemory": "1Gi",
    "apiKey": "k3y",
    "acaAppName": "app",
    "acaEnvironmentName": "env",
    "storageAccountName": "acct",
    "fileShareName": "share",
    "acaEnvironmentStorageName": "envshare",
    "acaLogAnalyticsName": "logs",
}
MANY = {f"t{number}": "x" for number in range(51)}

ACCOUNT, FILES, SHARE = "account", "account::files", "account::files::share"
WORKSPACE, ENVIRONMENT, STORAGE, APP = "workspace", "environment", "environmentStorage", "app"
SPEC = "properties.template"
CONTAINER = f"{SPEC}.containers.0"
LOGS = "properties.appLogsConfiguration"
REGISTRIES = "properties.configuration.registries"
SECRETS = "properties.configuration.secrets"
PROFILE = "properties.workloadProfiles.0"
INGRESS = "properties.configuration.ingress"
PROBES = f"{CONTAINER}.probes"
PROBE = f"{PROBES}.0"

VARIANTS: tuple[tuple[str, str, Any, str], ...] = (
    # The storage account.
    (ACCOUNT, "name", "Acct_1", "AccountNameInvalid"),
    (ACCOUNT, "name", "ab", "AccountNameInvalid"),
    (ACCOUNT, "sku.name", "Standard_XYZ", "InvalidValuesForRequestParameters"),
    (ACCOUNT, "sku", "Standard_LRS", "InvalidValuesForRequestParameters"),
    (ACCOUNT, "sku", None, "InvalidValuesForRequestParameters"),
    (ACCOUNT, "kind", "StorageV9", "InvalidValuesForRequestParameters"),
    (ACCOUNT, "kind", None, "InvalidValuesForRequestParameters"),
    (ACCOUNT, "kind", "FileStorage", "InvalidValuesForRequestParameters"),
    (ACCOUNT, "sku.name", "Premium_ZRS", "InvalidValuesForRequestParameters"),
    (ACCOUNT, "location", "atlantis", "LocationNotAvailableForResourceType"),
    (ACCOUNT, "properties.accessTier", "Warm", "InvalidRequestPropertyValue"),
    (ACCOUNT, "properties.minimumTlsVersion", "TLS9", "InvalidRequestPropertyValue"),
    (ACCOUNT, "properties.minimumTlsVersion", "TLS1_3", "InvalidRequestPropertyValue"),
    (ACCOUNT, "properties.largeFileSharesState", "Maybe", "InvalidRequestPropertyValue"),
    (ACCOUNT, "properties.publicNetworkAccess", "Sometimes", "InvalidRequestPropertyValue"),
    (ACCOUNT, "properties.allowSharedKeyAccess", "yes", "InvalidRequestContent"),
    (ACCOUNT, "properties.supportsHttpsTrafficOnly", "true", "InvalidRequestContent"),
    (ACCOUNT, "properties.networkAcls", {"defaultAction": "Perhaps"}, "InvalidRequestPropertyValue"),
    (ACCOUNT, "properties.networkAcls", [], "InvalidRequestContent"),
    (ACCOUNT, "properties", "none", "InvalidRequestContent"),
    (ACCOUNT, "tags", MANY, "TooManyTags"),
    (ACCOUNT, "tags", {"a/b": "x"}, "InvalidTagNameCharacters"),
    (ACCOUNT, "tags", {"x" * 129: "x"}, "InvalidTagNameLength"),
    (ACCOUNT, "tags", {"a": "x" * 257}, "InvalidTagValueLength"),
    (ACCOUNT, "tags", {"a": 1}, "InvalidRequestContent"),
    (ACCOUNT, "tags", ["a"], "InvalidRequestContent"),
    (ACCOUNT, "apiVersion", "2025-01-02", "NoRegisteredProviderFound"),
    (ACCOUNT, "apiVersion", "2026-09-01", "NotImplementedByLocalCloud"),
    (ACCOUNT, "properties.accessTyer", "Hot", "NotImplementedByLocalCloud"),
    # Its file service and share.
    (FILES, "properties.shareDeleteRetentionPolicy.days", 0, "InvalidRequestPropertyValue"),
    (FILES, "properties.shareDeleteRetentionPolicy.days", 366, "InvalidRequestPropertyValue"),
    (FILES, "properties.shareDeleteRetentionPolicy.days", "week", "InvalidRequestContent"),
    (FILES, "properties.shareDeleteRetentionPolicy.enabled", "yes", "InvalidRequestContent"),
    (FILES, "properties.shareDeleteRetentionPolicy", [], "InvalidRequestContent"),
    (SHARE, "name", "acct/default/Share", "InvalidResourceName"),
    (SHARE, "name", "acct/default/a--b", "InvalidResourceName"),
    (SHARE, "properties.shareQuota", 0, "InvalidHeaderValue"),
    (SHARE, "properties.shareQuota", 102401, "InvalidHeaderValue"),
    (SHARE, "properties.shareQuota", "much", "InvalidRequestContent"),
    (SHARE, "properties.enabledProtocols", "FTP", "InvalidRequestPropertyValue"),
    (SHARE, "properties.accessTier", "Lukewarm", "InvalidRequestPropertyValue"),
    # The workspace.
    (WORKSPACE, "name", "ab", "InvalidResourceName"),
    (WORKSPACE, "name", "-logs", "InvalidResourceName"),
    (WORKSPACE, "properties.sku.name", "PerTB2018", "BadRequest"),
    (WORKSPACE, "properties.sku", {}, "InvalidRequestContent"),
    (WORKSPACE, "properties.sku", "PerGB2018", "InvalidRequestContent"),
    (WORKSPACE, "properties.retentionInDays", 29, "BadRequest"),
    (WORKSPACE, "properties.retentionInDays", 731, "BadRequest"),
    (WORKSPACE, "properties.retentionInDays", "month", "InvalidRequestContent"),
    (WORKSPACE, "properties.publicNetworkAccessForQuery", "Off", "BadRequest"),
    (WORKSPACE, "tags", {"<b>": "x"}, "InvalidTagNameCharacters"),
    # The environment.
    (ENVIRONMENT, "name", "my_env", "ManagedEnvironmentInvalidName"),
    (ENVIRONMENT, "name", "env--1", "ManagedEnvironmentInvalidName"),
    (ENVIRONMENT, f"{LOGS}.destination", "elastic", "ManagedEnvironmentInvalidSchema"),
    (ENVIRONMENT, LOGS, "log-analytics", "ManagedEnvironmentInvalidSchema"),
    (ENVIRONMENT, "properties.workloadProfiles", "Consumption", "ManagedEnvironmentInvalidSchema"),
    (ENVIRONMENT, f"{PROFILE}.workloadProfileType", "X9", "WorkloadProfileTypeNotSupported"),
    (ENVIRONMENT, f"{PROFILE}.name", "far-too-long-name", "WorkloadProfileInvalidNameTooLong"),
    (ENVIRONMENT, f"{PROFILE}.minimumCount", 1, "WorkloadProfilePropertyNotSupported"),
    (ENVIRONMENT, f"{PROFILE}.name", None, "ManagedEnvironmentInvalidSchema"),
    (ENVIRONMENT, "properties.zoneRedundant", "no", "ManagedEnvironmentInvalidSchema"),
    (ENVIRONMENT, "properties.zones", 3, "ManagedEnvironmentInvalidSchema"),
    (ENVIRONMENT, "properties.publicNetworkAccess", "Never", "ManagedEnvironmentInvalidSchema"),
    # Its storage.
    (STORAGE, "name", "env/Share", "ManagedEnvironmentStorageInvalidName"),
    (STORAGE, "properties.azureFile.accessMode", "Write", "ManagedEnvironmentInvalidSchema"),
    (STORAGE, "properties.azureFile.accountName", "Acct", "ManagedEnvironmentStorageInvalid"),
    (STORAGE, "properties.azureFile.shareName", "Sh", "ManagedEnvironmentStorageInvalid"),
    (STORAGE, "properties.azureFile.accountKey", None, "ManagedEnvironmentStorageInvalid"),
    (STORAGE, "properties.azureFile", [], "ManagedEnvironmentInvalidSchema"),
    # The app, outside of its template.
    (APP, "name", "My_App", "ContainerAppInvalidName"),
    (APP, "properties.environmentId", "env", "InvalidManagedEnvironmentId"),
    (APP, "properties.workloadProfileName", "GPU9", "WorkloadProfileNotFound"),
    (APP, "properties.configuration.activeRevisionsMode", "Double", "ContainerAppInvalidSchema"),
    (APP, SECRETS, [{"name": "api-key"}], "ContainerAppSecretInvalid"),
    (APP, SECRETS, [{"name": "api-key", "value": ""}], "ContainerAppSecretInvalid"),
    (APP, SECRETS, [{"name": "Api_Key", "value": "x"}], "ContainerAppInvalidSecretName"),
    (APP, SECRETS, [{"name": "a.b", "value": "x"}], "ContainerAppInvalidSecretName"),
    (APP, SECRETS, "api-key", "ContainerAppInvalidSchema"),
    (APP, SECRETS, [], "ContainerAppSecretRefNotFound"),
    (APP, f"{INGRESS}.targetPort", 0, "ContainerAppInvalidPort"),
    (APP, f"{INGRESS}.targetPort", "http", "ContainerAppInvalidSchema"),
    (APP, f"{INGRESS}.transport", "quic", "ContainerAppInvalidSchema"),
    (APP, f"{INGRESS}.external", "yes", "ContainerAppInvalidSchema"),
    (APP, f"{INGRESS}.traffic", [{"latestRevision": True, "weight": 90}], "ContainerAppInvalidTrafficWeight"),
    (APP, f"{INGRESS}.traffic", [{"revisionName": "app--x", "weight": 100}], "RevisionNotFound"),
    (APP, f"{INGRESS}.ipSecurityRestrictions", "10.0.0.0/8", "ContainerAppInvalidSchema"),
    (
        APP,
        f"{INGRESS}.ipSecurityRestrictions",
        [{"name": "a", "action": "Allow", "ipAddressRange": "10.0.0/8"}],
        "ContainerAppInvalidIpSecurityRestriction",
    ),
    (APP, f"{INGRESS}.corsPolicy", {"allowedMethods": ["GET"]}, "ContainerAppInvalidSchema"),
    (APP, f"{INGRESS}.customDomains", [{"name": "a b"}], "ContainerAppInvalidCustomDomain"),
    (APP, REGISTRIES, [{"username": "u"}], "ContainerAppRegistryInvalid"),
    (
        APP,
        REGISTRIES,
        [{"server": "s", "username": "u", "passwordSecretRef": "none"}],
        "ContainerAppSecretRefNotFound",
    ),
    (APP, "identity", {"type": "UserAssigned"}, "InvalidIdentityValues"),
    (APP, "identity", {"type": "Anyone"}, "ContainerAppInvalidSchema"),
    (APP, "tags", {"a": "x" * 257}, "InvalidTagValueLength"),
    # Its template.
    (APP, f"{SPEC}.containers", [], "ContainerAppCreateMustContainContainer"),
    (APP, f"{SPEC}.containers", {}, "ContainerAppInvalidSchema"),
    (APP, f"{CONTAINER}.name", "Inference", "InvalidParameterValueInContainerTemplate"),
    (APP, f"{CONTAINER}.name", "infer.ence", "InvalidParameterValueInContainerTemplate"),
    (APP, f"{CONTAINER}.image", "", "ContainerAppImageRequired"),
    (APP, f"{CONTAINER}.command", "/bin/bash", "ContainerAppInvalidSchema"),
    (APP, f"{CONTAINER}.args", [1], "ContainerAppInvalidSchema"),
    (APP, f"{CONTAINER}.env", [{"name": "MY VAR", "value": "x"}], "ContainerAppInvalidEnvVarName"),
    (APP, f"{CONTAINER}.env", [{"name": "1ST", "value": "x"}], "ContainerAppInvalidEnvVarName"),
    (APP, f"{CONTAINER}.env", [{"value": "x"}], "ContainerAppInvalidEnvVarName"),
    (APP, f"{CONTAINER}.env", [{"name": "A", "value": 5}], "ContainerAppInvalidSchema"),
    (APP, f"{CONTAINER}.env", [{"name": "A"}, {"name": "A"}], "ContainerAppInvalidEnvironmentVariable"),
    (APP, f"{CONTAINER}.env", {"A": "x"}, "ContainerAppInvalidSchema"),
    (APP, f"{CONTAINER}.resources.cpu", 0.3, "ContainerAppInvalidResourceTotal"),
    (APP, f"{CONTAINER}.resources.cpu", "half", "ContainerAppInvalidSchema"),
    (APP, f"{CONTAINER}.resources.memory", "1GB", "ContainerAppInvalidMemoryResource"),
    (APP, f"{CONTAINER}.resources.gpu", 1, "ContainerAppInvalidSchema"),
    (APP, f"{CONTAINER}.volumeMounts.0.volumeName", "none", "ContainerAppInvalidVolumeMount"),
    (APP, f"{CONTAINER}.volumeMounts.0.mountPath", "/a:b", "ContainerAppInvalidMountPath"),
    (APP, f"{CONTAINER}.volumeMounts.0.mountPath", "/", "ContainerAppInvalidMountPath"),
    (APP, f"{PROBE}.initialDelaySeconds", 61, "ContainerAppProbeInitialDelaySecondsOutOfRange"),
    (APP, f"{PROBE}.failureThreshold", 241, "ContainerAppProbeFailureThresholdOutOfRange"),
    (APP, f"{PROBE}.periodSeconds", 0, "ContainerAppProbePeriodSecondsOutOfRange"),
    (APP, f"{PROBE}.timeoutSeconds", 241, "ContainerAppProbeTimeoutSecondsOutOfRange"),
    (APP, f"{PROBE}.type", "Alive", "ContainerAppInvalidSchema"),
    (APP, f"{PROBE}.type", "Liveness", "ContainerAppProbeDuplicated"),
    (APP, f"{PROBE}.httpGet.port", None, "ContainerAppInvalidSchema"),
    (APP, f"{SPEC}.scale.minReplicas", -1, "ContainerAppInvalidScale"),
    (APP, f"{SPEC}.scale.maxReplicas", 1001, "ContainerAppInvalidScale"),
    (APP, f"{SPEC}.scale.maxReplicas", "many", "ContainerAppInvalidSchema"),
    (APP, f"{SPEC}.scale.rules.0.name", "HTTP rule", "ContainerAppInvalidPropertyValue"),
    (APP, f"{SPEC}.scale.rules.0.http", None, "ContainerAppInvalidScaleRule"),
    (APP, f"{SPEC}.scale.rules.0.http.metadata.concurrentRequests", "0", "ContainerAppInvalidScaleRule"),
    (APP, f"{SPEC}.terminationGracePeriodSeconds", 601, "ContainerAppInvalidTerminationGracePeriod"),
    (APP, f"{SPEC}.volumes.0.name", "Share.1", "InvalidParameterValueInContainerTemplate"),
    (APP, f"{SPEC}.volumes.0.storageName", "none", "ManagedEnvironmentStorageNotFound"),
    (APP, f"{SPEC}.volumes.0.storageType", "Nfs", "ContainerAppInvalidSchema"),
    (APP, f"{CONTAINER}.image", "Not An Image", "InvalidParameterValueInContainerTemplate"),
    (APP, f"{CONTAINER}.image", "example.io/Upper/case:1", "InvalidParameterValueInContainerTemplate"),
    (APP, f"{CONTAINER}.image", "x" * 256, "InvalidParameterValueInContainerTemplate"),
    (APP, f"{PROBES}.2.httpGet.httpHeaders.0.name", "A B", "InvalidParameterValueInContainerTemplate"),
    (APP, f"{SPEC}.contaners", [], "ContainerAppInvalidSchema"),
)  # fmt: skip

ACCEPTED: tuple[tuple[str, str, Any, str], ...] = (
    (WORKSPACE, "properties.sku.name", "Standard", "only old subscriptions have it"),
    (APP, f"{CONTAINER}.image", "docker.io/none/none:none", "images are not pulled"),
    (APP, f"{CONTAINER}.image", f"localhost:5000/a__b/c.d@sha256:{'0' * 64}", "images are not pulled"),
    (APP, f"{CONTAINER}.env.0.secretRef", "api-key", "a value beside it: not known"),
    (APP, REGISTRIES, [{"server": "s", "identity": "system"}], "not used"),
    (
        APP,
        "identity",
        {
            "type": "UserAssigned",
            "userAssignedIdentities": {
                "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/"
                "userAssignedIdentities/none": {}
            },
        },
        "user-assigned identities are not emulated as resources",
    ),
    (ENVIRONMENT, f"{LOGS}.logAnalyticsConfiguration.sharedKey", "x", "no logs are sent"),
)  # fmt: skip


def changed(arm: ArmClient, resource: str, path: str, value: Any) -> str:
    """Return the body of a deployment of the template with one value of a resource changed."""
    template = deepcopy(TEMPLATE)
    # The compiled template computes resources from the parameters; a variant changes what it computes.
    for name, properties in deepcopy(_computed_properties(arm.subscription)).items():
        template["resources"][name]["properties"] = properties
    target: Any = template["resources"][resource]
    *parts, last = path.split(".")
    for part in parts:
        target = _inside(target, part)
    if isinstance(target, list):
        target[int(last)] = value
    else:
        target[last] = value
    parameters = {name: {"value": given} for name, given in PARAMETERS.items()}
    return json.dumps({"properties": {"mode": "Incremental", "template": template, "parameters": parameters}})


@cache
def _computed_properties(subscription: str) -> dict[str, Any]:
    """Return the properties that the template computes from `PARAMETERS`, by the resource's name in it."""
    scope = Scope(subscription.rpartition("/")[2], "tenant", "rg", "swedencentral", "d")
    parameters = {name: {"value": given} for name, given in PARAMETERS.items()}
    planned = Deployment(load_template(json.dumps(TEMPLATE)), parameters, scope).plan()
    types = {name: each["type"] for name, each in TEMPLATE["resources"].items()}
    return {
        name: each.body["properties"]
        for each in planned
        for name, kind in types.items()
        if each.type == kind and "properties" in each.body
    }


def _inside(target: Any, part: str) -> Any:
    if isinstance(target, list):
        return target[int(part)]
    found = target.setdefault(part, {})
    if isinstance(found, str):
        # The compiled template computes these; the variants replace an element of what they compute.
        target[part] = found = deepcopy(_COMPUTED[part])
    return found


_COMPUTED: dict[str, Any] = {
    "workloadProfiles": [{"name": "Consumption", "workloadProfileType": "Consumption"}],
    "env": [{"name": "A", "value": "b"}],
    "rules": [{"name": "http", "http": {"metadata": {"concurrentRequests": "10"}}}],
}


def codes(error: dict[str, Any]) -> set[str]:
    """Return the innermost codes of an error."""
    details = error.get("details") or ()
    return {error["code"]} if not details else set().union(*map(codes, details))


@pytest.mark.parametrize(("resource", "path", "value", "code"), VARIANTS)
async def test_a_wrong_variant_is_rejected(
    arm: ArmClient, resource: str, path: str, value: Any, code: str
) -> None:
    await arm.make_group()
    rejected = await arm.request("POST", f"{URL}/validate?{V}", changed(arm, resource, path, value))
    assert rejected.status in {400, 404, 501}
    assert code in codes(rejected.body["error"])


@pytest.mark.parametrize(("resource", "path", "value", "reason"), ACCEPTED)
async def test_what_is_accepted_has_a_reason(
    arm: ArmClient, resource: str, path: str, value: Any, reason: str
) -> None:
    await arm.make_group()
    accepted = await arm.request("POST", f"{URL}/validate?{V}", changed(arm, resource, path, value))
    assert accepted.status == 200, reason


async def test_the_template_itself_is_valid(arm: ArmClient) -> None:
    await arm.make_group()
    body = changed(arm, ACCOUNT, "kind", "StorageV2")
    assert (await arm.request("POST", f"{URL}/validate?{V}", body)).status == 200


async def test_all_errors_of_a_template_are_reported_at_once(arm: ArmClient) -> None:
    await arm.make_group()
    document = json.loads(changed(arm, ACCOUNT, "kind", "StorageV9"))
    resources = document["properties"]["template"]["resources"]
    resources["workspace"]["properties"]["retentionInDays"] = 1
    resources["workspace"]["tags"] = MANY
    rejected = await arm.request("POST", f"{URL}/validate?{V}", document)
    error = rejected.body["error"]
    assert error["code"] == "InvalidTemplateDeployment"
    storage, others = error["details"]
    assert storage["code"] == "PreflightValidationCheckFailed"
    assert others["code"] == "ValidationForResourceFailed"
    assert codes(error) == {"InvalidValuesForRequestParameters", "BadRequest", "TooManyTags"}

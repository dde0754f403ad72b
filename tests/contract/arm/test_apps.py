"""Container apps, revisions, replicas, logs.

Source: Microsoft.App REST API 2025-07-01; the Azure CLI's source, recorded tests and calls on the wire; the
platform's messages as quoted in public issues.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from localcloud.arm.resources import merged
from localcloud.container_apps.rules.ingress import traffic_weight
from localcloud.container_apps.schema import canonical, check_schema
from localcloud.errors import AzureError

V = "api-version=2025-07-01"
ENVIRONMENT = "providers/Microsoft.App/managedEnvironments/env"


async def test_a_new_app_is_polled_until_it_is_there(arm: Any) -> None:
    await arm.make_environment()
    accepted = await arm.put_app(arm.app_body())
    assert accepted.status == 201
    assert accepted.body["properties"]["provisioningState"] == "InProgress"
    assert (
        "/locations/swedencentral/containerappOperationStatuses/" in accepted.headers["Azure-AsyncOperation"]
    )
    assert accepted.headers["Retry-After"] == "1"
    assert (await arm.done(accepted)).body["status"] == "Succeeded"
    shown = await arm.show_app()
    properties = shown["properties"]
    assert shown["id"].endswith("/providers/Microsoft.App/containerapps/app")
    assert shown["location"] == "Sweden Central"
    assert properties["provisioningState"] == "Succeeded"
    assert properties["configuration"]["ingress"]["fqdn"] == "127.0.0.1:20000"
    assert properties["configuration"]["secrets"] == [{"name": "api-key"}]
    assert properties["latestRevisionName"].startswith("app--")
    assert len(properties["latestRevisionName"]) == len("app--") + 7
    assert properties["eventStreamEndpoint"].endswith("/resourceGroups/rg/containerApps/app/eventstream")


async def test_the_runtime_gets_secrets_share_and_probes(arm: Any) -> None:
    await arm.make_environment()
    probe = {"type": "Readiness", "httpGet": {"path": "/readyz", "port": 7860}, "periodSeconds": 5}
    await arm.put_app(arm.app_body(probes=[probe]))
    await arm.settle()
    (spec,) = arm.host.specs.values()
    assert spec.container.env == (("KEY", "s3cret"), ("A", "b"))
    assert spec.container.mounts == ((arm.cloud.files.share_path("acct", "data"), "/mount"),)
    assert (spec.target_port, spec.replicas, spec.grace_s) == (7860, 1, 30)
    assert spec.hostname == "127.0.0.1:20000"
    (sent,) = spec.container.probes
    assert (sent.kind, sent.path, sent.port, sent.period_s, sent.failure_threshold) == (
        "Readiness",
        "/readyz",
        7860,
        5,
        3,
    )


async def test_a_template_change_makes_a_revision_that_takes_over_when_ready(arm: Any) -> None:
    first = (await arm.make_app())["properties"]["latestRevisionName"]
    await arm.put_app(arm.app_body(image="y"))
    await arm.settle()
    properties = (await arm.show_app())["properties"]
    assert properties["latestRevisionName"] == "app--0000001"
    assert properties["latestReadyRevisionName"] == first
    assert arm.host.served["app"] == first
    arm.host.is_ready("app--0000001").set()
    await arm.settle()
    assert arm.host.served["app"] == "app--0000001"
    assert arm.host.stopped == [first]
    assert (await arm.show_app())["properties"]["latestReadyRevisionName"] == "app--0000001"
    revisions = await arm.call("GET", f"{arm.app_path()}/revisions?{V}")
    state = {
        found["name"]: (found["properties"]["active"], found["properties"]["trafficWeight"])
        for found in revisions.body["value"]
    }
    assert state == {first: (False, 0), "app--0000001": (True, 100)}


async def test_what_is_not_in_the_template_makes_no_revision(arm: Any) -> None:
    first = (await arm.make_app())["properties"]["latestRevisionName"]
    body = arm.app_body()
    body["tags"] = {"a": "b"}
    body["properties"]["configuration"]["secrets"][0]["value"] = "changed"
    body["properties"]["configuration"]["ingress"]["allowInsecure"] = True
    await arm.put_app(body)
    await arm.settle()
    shown = await arm.show_app()
    assert shown["tags"] == {"a": "b"}
    assert shown["properties"]["latestRevisionName"] == first
    # Replicas made from now on have the new secret.
    assert arm.host.specs[first].container.env[0] == ("KEY", "changed")
    assert arm.host.restarts == []


async def test_az_update_patches_and_keeps_what_it_does_not_send(arm: Any) -> None:
    first = (await arm.make_app())["properties"]["latestRevisionName"]
    template = {"template": {"revisionSuffix": None}}
    same = await arm.call("PATCH", f"{arm.app_path()}?{V}", {"properties": template})
    assert (same.status, "containerappOperationResults" in same.headers["Location"]) == (202, True)
    result = await arm.done(same)
    assert result.body["properties"]["latestRevisionName"] == first
    scale = {"template": {"scale": {"maxReplicas": 3}}}
    changed = await arm.done(await arm.call("PATCH", f"{arm.app_path()}?{V}", {"properties": scale}))
    assert changed.body["properties"]["template"]["scale"]["minReplicas"] == 1
    assert changed.body["properties"]["template"]["scale"]["maxReplicas"] == 3
    assert changed.body["properties"]["latestRevisionName"] == "app--0000001"
    secrets = await arm.call("POST", f"{arm.app_path()}/listSecrets?{V}")
    assert secrets.body == {"value": [{"name": "api-key", "value": "s3cret"}]}


async def test_az_secret_set_puts_back_all_that_it_read(arm: Any) -> None:
    shown = await arm.make_app()
    envelope = deepcopy(shown)
    secret = {"name": "api-key", "value": "new", "keyVaultUrl": "", "identity": ""}
    envelope["properties"]["configuration"]["secrets"] = [secret]
    done = await arm.done(await arm.put_app(envelope))
    assert done.body["status"] == "Succeeded"
    after = await arm.show_app()
    assert after["properties"] == shown["properties"]


async def test_a_suffix_in_use_fails_later_and_is_taken_back(arm: Any) -> None:
    await arm.make_app()
    body = arm.app_body(image="y")
    body["properties"]["template"]["revisionSuffix"] = "two"
    assert (await arm.done(await arm.put_app(body))).body["status"] == "Succeeded"
    body["properties"]["template"]["containers"][0]["image"] = "z"
    failed = await arm.done(await arm.put_app(body))
    assert failed.body["status"] == "Failed"
    assert failed.body["error"]["code"] == "ContainerAppOperationError"
    assert "revision with suffix two already exists" in failed.body["error"]["message"]
    shown = await arm.show_app()
    assert shown["properties"]["provisioningState"] == "Failed"
    assert shown["properties"]["template"]["containers"][0]["image"] == "y"
    tags = await arm.done(await arm.call("PATCH", f"{arm.app_path()}?{V}", {"tags": {"a": "b"}}))
    assert tags.body["properties"]["provisioningState"] == "Succeeded"


async def test_revisions_are_restarted_activated_and_deactivated(arm: Any) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    path = f"{arm.app_path()}/revisions/{name}"
    restarted = await arm.call("POST", f"{path}/restart?{V}")
    assert (restarted.status, isinstance(restarted.body, str)) == (200, True)
    assert arm.host.restarts == [name]
    assert (await arm.call("POST", f"{path}/deactivate?{V}")).status == 200
    await arm.settle()
    shown = await arm.call("GET", f"{path}?{V}")
    assert shown.body["type"] == "Microsoft.App/containerapps/revisions"
    assert (shown.body["properties"]["active"], shown.body["properties"]["runningState"]) == (
        False,
        "Stopped",
    )
    refused = await arm.call("POST", f"{path}/restart?{V}")
    assert (refused.status, refused.body["error"]["code"]) == (400, "RevisionNotActive")
    assert (await arm.call("POST", f"{path}/activate?{V}")).status == 200
    assert name in arm.host.specs
    missing = await arm.call("GET", f"{arm.app_path()}/revisions/none?{V}")
    assert (missing.status, missing.body["error"]["code"]) == (404, "RevisionNotFound")


async def test_replicas_are_listed_and_shown(arm: Any) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    path = f"{arm.app_path()}/revisions/{name}/replicas"
    listed = await arm.call("GET", f"{path}?{V}")
    (replica,) = listed.body["value"]
    assert replica["type"] == "Microsoft.App/containerapps/revisions/replicas"
    assert replica["properties"]["runningState"] == "Running"
    assert replica["properties"]["createdTime"] == "2026-01-02T00:00:00+00:00"
    (container,) = replica["properties"]["containers"]
    assert (container["name"], container["ready"], container["restartCount"]) == ("web", True, 0)
    # az asks with a slash at the end.
    shown = await arm.call("GET", f"{path}/{replica['name']}/?{V}")
    assert shown.body == replica
    missing = await arm.call("GET", f"{path}/none?{V}")
    assert missing.body["error"]["code"] == "ReplicaNotFound"


async def read(answer: Any) -> str:
    return b"".join([line async for line in answer.stream]).decode()


async def test_logs_stream_for_the_apps_own_token_only(arm: Any) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    root = f"{arm.group}/containerApps/app"
    console = f"{root}/revisions/{name}/replicas/{name}-0123456789-abcde/containers/web/logstream"
    token = (await arm.call("POST", f"{arm.app_path()}/getAuthToken?{V}")).body["properties"]["token"]
    assert (await arm.call("GET", console)).status == 401
    assert (await arm.call("GET", console, token=None)).status == 401
    query = "follow=false&output=json&tailLines=2"
    text = await read(await arm.call("GET", f"{console}?{query}", token=token))
    lines = text.splitlines()
    assert "Connecting to the container 'web'..." in lines[0]
    assert f"Successfully Connected to container: 'web' [Revision: '{name}'" in lines[1]
    assert lines[2:] == [
        '{"TimeStamp": "2026-01-02T00:00:00+00:00", "Log": "line 0"}',
        '{"TimeStamp": "2026-01-02T00:00:00+00:00", "Log": "line 1"}',
    ]
    plain = await read(await arm.call("GET", f"{console}?output=text&tailLines=1", token=token))
    assert plain.splitlines()[2] == "2026-01-02T00:00:00+00:00 line 0"
    events = await read(await arm.call("GET", f"{root}/eventstream?{query}", token=token))
    assert '"Reason": "ContainerStarted"' in events
    gone = console.replace("abcde", "zzzzz")
    assert (await arm.call("GET", gone, token=token)).body["error"]["code"] == "ReplicaNotFound"
    many = await arm.call("GET", f"{console}?tailLines=301", token=token)
    assert many.status == 400


async def test_deletion_stops_the_app(arm: Any) -> None:
    await arm.make_app()
    accepted = await arm.call("DELETE", f"{arm.app_path()}?{V}")
    assert (accepted.status, "containerappOperationResults" in accepted.headers["Location"]) == (202, True)
    assert (await arm.done(accepted)).status == 204
    assert arm.host.removed == ["app"]
    missing = await arm.call("GET", f"{arm.app_path()}?{V}")
    assert (missing.status, missing.body["error"]["code"]) == (404, "ResourceNotFound")
    assert missing.body["error"]["message"].startswith(
        "The Resource 'Microsoft.App/containerApps/app' under resource group 'rg' was not found."
    )
    assert (await arm.call("DELETE", f"{arm.app_path()}?{V}")).status == 204


async def test_an_app_is_stopped_and_started_as_a_whole(arm: Any) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    stopped = await arm.done(await arm.call("POST", f"{arm.app_path()}/stop?{V}"))
    assert stopped.body["properties"]["runningStatus"] == "Stopped"
    assert arm.host.stopped == [name]
    started = await arm.done(await arm.call("POST", f"{arm.app_path()}/start?{V}"))
    assert started.body["properties"]["runningStatus"] == "Running"
    assert name in arm.host.specs


async def test_apps_come_up_again_after_a_restart(arm: Any, host: Any, reopen: Any) -> None:
    shown = await arm.make_app()
    await arm.put_app(arm.app_body(image="y"))
    await arm.settle()
    await arm.cloud.close()
    again = reopen(type(host)())
    await again.cloud.open()
    await again.settle()
    first = shown["properties"]["latestRevisionName"]
    assert set(again.host.specs) == {first, "app--0000001"}
    assert again.host.served == {"app": first}
    assert again.host.ports == {"app": 20000}
    again.host.is_ready("app--0000001").set()
    await again.settle()
    assert again.host.served == {"app": "app--0000001"}
    assert (await again.show_app())["properties"]["latestReadyRevisionName"] == "app--0000001"
    await again.cloud.close()


async def test_an_app_that_cannot_come_up_keeps_no_other_down(arm: Any, host: Any, reopen: Any) -> None:
    await arm.make_app()
    arm.cloud.store.delete("resource", f"{arm.group}/{ENVIRONMENT}".lower())
    await arm.cloud.close()
    again = reopen(type(host)())
    await again.cloud.open()
    assert (await again.show_app())["properties"]["provisioningState"] == "Failed"
    await again.cloud.close()


async def test_a_rotated_key_breaks_the_mount(arm: Any) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    account = "providers/Microsoft.Storage/storageAccounts/acct"
    body = {"keyName": "key1"}
    await arm.call("POST", f"{account}/regenerateKey?api-version=2025-08-01", body)
    await arm.call("POST", f"{arm.app_path()}/revisions/{name}/restart?{V}")
    ((source, _),) = arm.host.specs[name].container.mounts
    assert not source.is_dir()
    assert "permission denied" in source.name


MEMORY = (
    "The total requested CPU and memory resources for this application (CPU: 0.25, memory: 4) is invalid. "
    "Total CPU and memory for all containers defined in a Consumption Container App must add up to one of "
    "the following CPU - Memory combinations: [cpu: 0.25, memory: 0.5Gi]; [cpu: 0.5, memory: 1.0Gi]; "
)


@pytest.mark.parametrize(
    ("container", "code", "message"),
    [
        ({"resources": {"cpu": 0.25, "memory": "4Gi"}}, "ContainerAppInvalidResourceTotal", MEMORY),
        (
            {"resources": {"cpu": 0.0, "memory": "1Gi"}},
            "ContainerAppInvalidCpuResource",
            "Container with name 'web' has an invalid CPU resource request: '0.0'.",
        ),
        ({"resources": {"cpu": 0.5, "memory": "1G"}}, "ContainerAppInvalidMemoryResource", ""),
        (
            {"resources": {"cpu": 0.5, "memory": "1Gi", "gpu": 1}},
            "ContainerAppInvalidSchema",
            "Unknown properties gpu in ContainerAppContainerResources are not supported",
        ),
        (
            {"env": [{"name": "A", "secretRef": "none"}]},
            "ContainerAppSecretRefNotFound",
            "SecretRef 'none' defined for container 'web' not found.",
        ),
        (
            {"volumeMounts": [{"volumeName": "none", "mountPath": "/m"}]},
            "ContainerAppInvalidVolumeMount",
            "Invalid Request: Volume 'none' to mount doesn't defined in the Container App 'app'.",
        ),
        (
            {"volumeMounts": [{"volumeName": "v", "mountPath": "/m", "subPath": "a/../.."}]},
            "ContainerAppInvalidVolumeMount",
            "",
        ),
        (
            {"probes": [{"type": "Liveness", "tcpSocket": {"port": 1}, "initialDelaySeconds": 61}]},
            "ContainerAppProbeInitialDelaySecondsOutOfRange",
            "Container 'web' 'Liveness' probe's InitialDelaySeconds must be in the range of ['0', '60'].",
        ),
        (
            {"probes": [{"type": "Liveness", "tcpSocket": {"port": 1}, "failureThreshold": 31}]},
            "ContainerAppProbeFailureThresholdOutOfRange",
            "",
        ),
        (
            {"probes": [{"type": "Startup", "tcpSocket": {"port": 1}, "successThreshold": 2}]},
            "ContainerAppProbeSuccessThresholdOutOfRange",
            "",
        ),
        ({"probes": [{"type": "Startup"}]}, "ContainerAppProbeInvalidHandler", ""),
        ({"probes": [{"type": "Startup", "tcpSocket": {"port": 0}}]}, "ContainerAppInvalidPort", ""),
        (
            {"probes": [{"type": "Startup", "tcpSocket": {"port": 1}}] * 2},
            "ContainerAppProbeDuplicated",
            "",
        ),
        ({"image": ""}, "ContainerAppImageRequired", ""),
        (
            {"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
            "ContainerAppInvalidEnvironmentVariable",
            "",
        ),
        ({"name": "a b"}, "ContainerAppContainerNameInvalid", ""),
    ],
)
async def test_a_bad_container_is_refused_in_azures_words(
    arm: Any, container: dict[str, Any], code: str, message: str
) -> None:
    await arm.make_environment()
    refused = await arm.put_app(arm.app_body(**container))
    assert (refused.status, refused.body["error"]["code"]) == (400, code)
    assert refused.body["error"]["message"].startswith(message)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"environmentId": "none"}, 400, "LinkedInvalidPropertyId"),
        ({"workloadProfileName": "none"}, 400, "WorkloadProfileNotFound"),
        ({"template": {"containers": []}}, 400, "ContainerAppCreateMustContainContainer"),
        ({"tmplate": {}}, 400, "ContainerAppInvalidSchema"),
        ({"configuration": {"ingress": {"targetPort": 70000}}}, 400, "ContainerAppInvalidPort"),
        ({"configuration": {"dapr": {"enabled": True}}}, 501, "NotImplementedByLocalCloud"),
        ({"template": {"scale": {"minReplicas": 2}}}, 400, "ContainerAppInvalidScale"),
        ({"template": {"scale": {"maxReplicas": "x"}}}, 400, "ContainerAppInvalidScale"),
        ({"template": {"scale": {"rules": [{"name": "r"}]}}}, 400, "ContainerAppInvalidScaleRule"),
        ({"template": {"scale": "x"}}, 400, "ContainerAppInvalidSchema"),
        (
            {"template": {"terminationGracePeriodSeconds": 601}},
            400,
            "ContainerAppInvalidTerminationGracePeriod",
        ),
        ({"template": {"revisionSuffix": "a--b"}}, 400, "ContainerAppInvalidRevisionName"),
        ({"template": {"revisionSuffix": "a" * 50}}, 400, "ContainerAppInvalidRevisionName"),
        ({"template": {"initContainers": [{"name": "i"}]}}, 501, "NotImplementedByLocalCloud"),
        (
            {"configuration": {"secrets": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}},
            400,
            "ContainerAppSecretInvalid",
        ),
        ({"configuration": {"secrets": [{"name": "a", "value": 1}]}}, 400, "ContainerAppSecretInvalid"),
        ({"configuration": {"secrets": [{"name": "a"}]}}, 400, "ContainerAppSecretInvalid"),
        ({"configuration": {"secrets": [{"name": "A", "value": ""}]}}, 400, "ContainerAppSecretNameInvalid"),
        (
            {"configuration": {"ingress": {"transport": "tcp", "targetPort": 1}}},
            501,
            "NotImplementedByLocalCloud",
        ),
    ],
)
async def test_a_bad_app_is_refused(arm: Any, change: dict[str, Any], status: int, code: str) -> None:
    await arm.make_environment()
    body = arm.app_body()
    body["properties"] = merged(body["properties"], change)
    refused = await arm.put_app(body)
    assert (refused.body["error"]["code"], refused.status) == (code, status)


async def test_missing_environment_and_storage_are_404(arm: Any) -> None:
    await arm.make_environment()
    body = arm.app_body()
    body["properties"]["template"]["volumes"][0]["storageName"] = "none"
    found = await arm.put_app(body)
    assert found.body["error"] == {
        "code": "ManagedEnvironmentStorageNotFound",
        "message": "ManagedEnvironment Storage 'none' was not found.",
    }
    body["properties"]["environmentId"] += "x"
    assert (await arm.put_app(body)).body["error"]["code"] == "ManagedEnvironmentNotFound"


@pytest.mark.parametrize("name", ["a", "Web1", "-a", "a-", "a--b", "a" * 33])
async def test_bad_app_names_are_refused(arm: Any, name: str) -> None:
    await arm.make_environment()
    refused = await arm.put_app(arm.app_body(), name)
    assert refused.body["error"]["code"] == "ContainerAppInvalidName"
    assert refused.body["error"]["message"].startswith(f"Invalid ContainerApp name '{name}'. A name must ")


async def test_a_gpu_profile_gives_what_its_node_has(arm: Any) -> None:
    await arm.make_environment()
    body = arm.app_body(resources={"cpu": 24, "memory": "220Gi"})
    body["properties"]["workloadProfileName"] = "GPU"
    assert (await arm.put_app(body)).status == 201
    await arm.settle()
    body["properties"]["template"]["containers"][0]["resources"]["memory"] = "221Gi"
    refused = await arm.put_app(body)
    assert refused.body["error"]["code"] == "ContainerAppInvalidResourceTotal"


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
async def test_bad_profiles_are_refused(arm: Any, profile: dict[str, Any], code: str, message: str) -> None:
    await arm.make_environment()
    body = {"location": "swedencentral", "properties": {"workloadProfiles": [profile]}}
    refused = await arm.call("PUT", f"{ENVIRONMENT}2?{V}", body)
    assert refused.body["error"]["code"] == code
    assert refused.body["error"]["message"].startswith(message)


async def test_a_patch_adds_a_profile_but_takes_none_in_use_away(arm: Any) -> None:
    await arm.make_app()
    kept = {"Name": "Consumption", "workloadProfileType": "Consumption"}
    added = {"name": "T4", "workloadProfileType": "CONSUMPTION-GPU-NC8AS-T4"}
    body = {"properties": {"workloadProfiles": [kept, added]}}
    accepted = await arm.call("PATCH", f"{ENVIRONMENT}?{V}", body)
    assert (accepted.status, "managedEnvironmentOperationResults" in accepted.headers["Location"]) == (
        202,
        True,
    )
    done = await arm.done(accepted)
    assert done.body["properties"]["workloadProfiles"] == [
        {"name": "Consumption", "workloadProfileType": "Consumption"},
        {"name": "T4", "workloadProfileType": "Consumption-GPU-NC8as-T4"},
    ]
    body = {"properties": {"workloadProfiles": [added]}}
    refused = await arm.call("PATCH", f"{ENVIRONMENT}?{V}", body)
    assert (refused.status, refused.body["error"]["code"]) == (409, "WorkloadProfileInUse")


async def test_profiles_states_and_usages_tell_what_apps_use(arm: Any) -> None:
    await arm.make_app()
    states = await arm.call("GET", f"{ENVIRONMENT}/workloadProfileStates?{V}")
    assert [found["name"] for found in states.body["value"]] == ["Consumption", "GPU"]
    assert states.body["value"][1]["properties"] == {"minimumCount": 0, "maximumCount": 2, "currentCount": 0}
    usages = await arm.call("GET", f"{ENVIRONMENT}/usages?{V}")
    used = {found["name"]["value"]: found["usage"] for found in usages.body["value"]}
    assert used["ManagedEnvironmentConsumptionCores"] == 0.5
    region = f"{arm.subscription}/providers/Microsoft.App/locations/swedencentral"
    count = await arm.call("GET", f"{region}/usages?{V}")
    assert count.body["value"][0]["currentValue"] == 1
    types = await arm.call("GET", f"{region}/availableManagedEnvironmentsWorkloadProfileTypes?{V}")
    assert "NC24-A100" in [found["name"] for found in types.body["value"]]


async def test_an_environment_hides_keys_and_goes_only_when_empty(arm: Any) -> None:
    logs = {
        "destination": "log-analytics",
        "logAnalyticsConfiguration": {"customerId": "c", "sharedKey": "hidden"},
    }
    await arm.make_environment(appLogsConfiguration=logs)
    shown = await arm.call("GET", f"{ENVIRONMENT}?{V}")
    assert shown.body["properties"]["appLogsConfiguration"]["logAnalyticsConfiguration"]["sharedKey"] is None
    storages = await arm.call("GET", f"{ENVIRONMENT}/storages?{V}")
    azure_file = {"accountName": "acct", "shareName": "data", "accessMode": "ReadWrite"}
    assert storages.body["value"][0]["properties"] == {"azureFile": azure_file}
    missing = await arm.call("GET", f"{ENVIRONMENT}/storages/none?{V}")
    assert missing.body["error"]["code"] == "ManagedEnvironmentStorageNotFound"
    await arm.put_app(arm.app_body())
    await arm.settle()
    refused = await arm.call("DELETE", f"{ENVIRONMENT}?{V}")
    assert refused.body["error"]["code"] == "ManagedEnvironmentHasContainerApps"


async def test_an_app_of_the_same_name_in_another_group_is_not_emulated(arm: Any) -> None:
    await arm.make_app()
    other = f"{arm.subscription}/resourceGroups/other"
    await arm.call("PUT", f"{other}?api-version=2024-11-01", {"location": "swedencentral"})
    path = f"{other}/providers/Microsoft.App/containerApps/app?{V}"
    refused = await arm.call("PUT", path, arm.app_body())
    assert refused.status == 501


def test_names_of_properties_are_taken_in_any_case() -> None:
    found = canonical({"PROPERTIES": {"Template": {"Containers": [{"NAME": "x"}]}}, "Tags": {"A": "b"}})
    assert found == {"properties": {"template": {"containers": [{"name": "x"}]}}, "tags": {"A": "b"}}
    with pytest.raises(AzureError, match="Unknown properties contaners in ContainerAppTemplate"):
        check_schema({"properties": {"template": {"contaners": []}}})


@pytest.mark.parametrize("weight", ["x", -1, 101])
def test_a_traffic_weight_is_a_percentage(weight: object) -> None:
    assert traffic_weight({"weight": "50"}) == 50
    with pytest.raises(AzureError, match="is not a whole number from 0 to 100"):
        traffic_weight({"weight": weight})

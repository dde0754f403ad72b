"""What is rejected in a container app.

Source: the platform's messages as quoted in public issues; Microsoft.App REST API 2025-07-01.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from localcloud.arm.resources import merged

if TYPE_CHECKING:
    from tests.doubles.local_cloud import ArmClient

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
        ({"name": "a b"}, "InvalidParameterValueInContainerTemplate", ""),
    ],
)
async def test_a_bad_container_is_refused_in_azures_words(
    arm: ArmClient, container: dict[str, Any], code: str, message: str
) -> None:
    await arm.make_environment()
    refused = await arm.put_app(arm.app_body(**container))
    assert (refused.status, refused.body["error"]["code"]) == (400, code)
    assert refused.body["error"]["message"].startswith(message)


@pytest.mark.parametrize(("kind", "threshold"), [("Liveness", 30), ("Readiness", 48), ("Startup", 240)])
async def test_a_probe_may_fail_as_often_as_the_platform_allows(
    arm: ArmClient, kind: str, threshold: int
) -> None:
    await arm.make_environment()
    probe = {"type": kind, "tcpSocket": {"port": 1}, "failureThreshold": threshold}
    assert (await arm.put_app(arm.app_body(probes=[probe]))).status == 201
    await arm.settle()
    refused = await arm.put_app(arm.app_body(probes=[probe | {"failureThreshold": threshold + 1}]))
    assert refused.body["error"]["code"] == "ContainerAppProbeFailureThresholdOutOfRange"


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("initialDelaySeconds", 0, 60),
        ("periodSeconds", 1, 240),
        ("timeoutSeconds", 1, 240),
        ("successThreshold", 1, 10),
    ],
)
async def test_a_probe_at_the_limits_is_accepted(arm: ArmClient, field: str, low: int, high: int) -> None:
    await arm.make_environment()
    probe = {"type": "Readiness", "tcpSocket": {"port": 1}}
    for value, status in ((low, 201), (high, 201), (low - 1, 400), (high + 1, 400)):
        found = await arm.put_app(arm.app_body(probes=[probe | {field: value}]))
        assert found.status == status, value
        await arm.settle()


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"environmentId": "none"}, 400, "InvalidManagedEnvironmentId"),
        ({"workloadProfileName": "none"}, 400, "WorkloadProfileNotFound"),
        ({"template": {"containers": []}}, 400, "ContainerAppCreateMustContainContainer"),
        ({"tmplate": {}}, 400, "ContainerAppInvalidSchema"),
        ({"configuration": {"ingress": {"targetPort": 70000}}}, 400, "ContainerAppInvalidPort"),
        ({"configuration": {"dapr": {"enabled": True}}}, 501, "NotImplementedByLocalCloud"),
        ({"template": {"scale": {"minReplicas": 2}}}, 400, "ContainerAppInvalidScale"),
        ({"template": {"scale": {"maxReplicas": "x"}}}, 400, "ContainerAppInvalidSchema"),
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
        ({"configuration": {"secrets": [{"name": "a", "value": 1}]}}, 400, "ContainerAppInvalidSchema"),
        ({"configuration": {"secrets": [{"name": "a"}]}}, 400, "ContainerAppSecretInvalid"),
        ({"configuration": {"secrets": [{"name": "A", "value": "x"}]}}, 400, "ContainerAppInvalidSecretName"),
        (
            {"configuration": {"ingress": {"transport": "tcp", "targetPort": 1}}},
            501,
            "NotImplementedByLocalCloud",
        ),
    ],
)
async def test_a_bad_app_is_refused(arm: ArmClient, change: dict[str, Any], status: int, code: str) -> None:
    await arm.make_environment()
    body = arm.app_body()
    body["properties"] = merged(body["properties"], change)
    refused = await arm.put_app(body)
    assert (refused.body["error"]["code"], refused.status) == (code, status)


async def test_missing_environment_and_storage_are_404(arm: ArmClient) -> None:
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
async def test_bad_app_names_are_refused(arm: ArmClient, name: str) -> None:
    await arm.make_environment()
    refused = await arm.put_app(arm.app_body(), name)
    assert refused.body["error"]["code"] == "ContainerAppInvalidName"
    assert refused.body["error"]["message"].startswith(f"Invalid ContainerApp name '{name}'. A name must ")


async def test_a_gpu_profile_gives_what_its_node_has(arm: ArmClient) -> None:
    await arm.make_environment()
    body = arm.app_body(resources={"cpu": 24, "memory": "220Gi"})
    body["properties"]["workloadProfileName"] = "GPU"
    assert (await arm.put_app(body)).status == 201
    await arm.settle()
    body["properties"]["template"]["containers"][0]["resources"]["memory"] = "221Gi"
    refused = await arm.put_app(body)
    assert refused.body["error"]["code"] == "ContainerAppInvalidResourceTotal"

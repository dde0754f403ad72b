"""Container apps, revisions, replicas, logs.

Source: Microsoft.App REST API 2025-07-01; the Azure CLI's source, recorded tests and calls on the wire; the
platform's messages as quoted in public issues.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from tests.doubles.local_cloud import FakeHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.doubles.local_cloud import ArmClient

    Reopen = Callable[[FakeHost], ArmClient]

V = "api-version=2025-07-01"
ENVIRONMENT = "providers/Microsoft.App/managedEnvironments/env"


async def test_a_new_app_is_polled_until_it_is_there(arm: ArmClient) -> None:
    await arm.make_environment()
    accepted = await arm.put_app(arm.app_body())
    assert accepted.status == 201
    assert accepted.body["properties"]["provisioningState"] == "InProgress"
    assert (
        "/locations/swedencentral/containerappOperationStatuses/" in accepted.headers["Azure-AsyncOperation"]
    )
    assert accepted.headers["Retry-After"] == "1"
    assert (await arm.poll(accepted)).body["status"] == "Succeeded"
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


async def test_the_runtime_gets_secrets_share_and_probes(arm: ArmClient) -> None:
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


async def test_a_template_change_makes_a_revision_that_takes_over_when_ready(arm: ArmClient) -> None:
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
    revisions = await arm.request("GET", f"{arm.app_path()}/revisions?{V}")
    state = {
        found["name"]: (found["properties"]["active"], found["properties"]["trafficWeight"])
        for found in revisions.body["value"]
    }
    assert state == {first: (False, 0), "app--0000001": (True, 100)}


async def test_what_is_not_in_the_template_makes_no_revision(arm: ArmClient) -> None:
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


async def test_az_update_patches_and_keeps_what_it_does_not_send(arm: ArmClient) -> None:
    first = (await arm.make_app())["properties"]["latestRevisionName"]
    template = {"template": {"revisionSuffix": None}}
    same = await arm.request("PATCH", f"{arm.app_path()}?{V}", {"properties": template})
    assert (same.status, "containerappOperationResults" in same.headers["Location"]) == (202, True)
    result = await arm.poll(same)
    assert result.body["properties"]["latestRevisionName"] == first
    scale = {"template": {"scale": {"maxReplicas": 3}}}
    changed = await arm.poll(await arm.request("PATCH", f"{arm.app_path()}?{V}", {"properties": scale}))
    assert changed.body["properties"]["template"]["scale"]["minReplicas"] == 1
    assert changed.body["properties"]["template"]["scale"]["maxReplicas"] == 3
    assert changed.body["properties"]["latestRevisionName"] == "app--0000001"
    secrets = await arm.request("POST", f"{arm.app_path()}/listSecrets?{V}")
    assert secrets.body == {"value": [{"name": "api-key", "value": "s3cret"}]}


async def test_az_secret_set_puts_back_all_that_it_read(arm: ArmClient) -> None:
    shown = await arm.make_app()
    envelope = deepcopy(shown)
    secret = {"name": "api-key", "value": "new", "keyVaultUrl": "", "identity": ""}
    envelope["properties"]["configuration"]["secrets"] = [secret]
    done = await arm.poll(await arm.put_app(envelope))
    assert done.body["status"] == "Succeeded"
    after = await arm.show_app()
    assert after["properties"] == shown["properties"]


async def test_a_suffix_in_use_fails_later_and_is_taken_back(arm: ArmClient) -> None:
    await arm.make_app()
    body = arm.app_body(image="y")
    body["properties"]["template"]["revisionSuffix"] = "two"
    assert (await arm.poll(await arm.put_app(body))).body["status"] == "Succeeded"
    body["properties"]["template"]["containers"][0]["image"] = "z"
    failed = await arm.poll(await arm.put_app(body))
    assert failed.body["status"] == "Failed"
    assert failed.body["error"]["code"] == "ContainerAppOperationError"
    assert "revision with suffix two already exists" in failed.body["error"]["message"]
    shown = await arm.show_app()
    assert shown["properties"]["provisioningState"] == "Failed"
    assert shown["properties"]["template"]["containers"][0]["image"] == "y"
    tags = await arm.poll(await arm.request("PATCH", f"{arm.app_path()}?{V}", {"tags": {"a": "b"}}))
    assert tags.body["properties"]["provisioningState"] == "Succeeded"


async def test_revisions_are_restarted_activated_and_deactivated(arm: ArmClient) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    path = f"{arm.app_path()}/revisions/{name}"
    restarted = await arm.request("POST", f"{path}/restart?{V}")
    assert (restarted.status, isinstance(restarted.body, str)) == (200, True)
    assert arm.host.restarts == [name]
    assert (await arm.request("POST", f"{path}/deactivate?{V}")).status == 200
    await arm.settle()
    shown = await arm.request("GET", f"{path}?{V}")
    assert shown.body["type"] == "Microsoft.App/containerapps/revisions"
    assert (shown.body["properties"]["active"], shown.body["properties"]["runningState"]) == (
        False,
        "Stopped",
    )
    refused = await arm.request("POST", f"{path}/restart?{V}")
    assert (refused.status, refused.body["error"]["code"]) == (400, "RevisionNotActive")
    assert (await arm.request("POST", f"{path}/activate?{V}")).status == 200
    assert name in arm.host.specs
    missing = await arm.request("GET", f"{arm.app_path()}/revisions/none?{V}")
    assert (missing.status, missing.body["error"]["code"]) == (404, "RevisionNotFound")


async def test_replicas_are_listed_and_shown(arm: ArmClient) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    path = f"{arm.app_path()}/revisions/{name}/replicas"
    listed = await arm.request("GET", f"{path}?{V}")
    (replica,) = listed.body["value"]
    assert replica["type"] == "Microsoft.App/containerapps/revisions/replicas"
    assert replica["properties"]["runningState"] == "Running"
    assert replica["properties"]["createdTime"] == "2026-01-02T00:00:00+00:00"
    (container,) = replica["properties"]["containers"]
    assert (container["name"], container["ready"], container["restartCount"]) == ("web", True, 0)
    # az asks with a slash at the end.
    shown = await arm.request("GET", f"{path}/{replica['name']}/?{V}")
    assert shown.body == replica
    missing = await arm.request("GET", f"{path}/none?{V}")
    assert missing.body["error"]["code"] == "ReplicaNotFound"


async def read(response: Any) -> str:
    return b"".join([line async for line in response.stream]).decode()


async def test_logs_stream_for_the_apps_own_token_only(arm: ArmClient) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    root = f"{arm.group}/containerApps/app"
    console = f"{root}/revisions/{name}/replicas/{name}-0123456789-abcde/containers/web/logstream"
    token = (await arm.request("POST", f"{arm.app_path()}/getAuthToken?{V}")).body["properties"]["token"]
    assert (await arm.request("GET", console)).status == 401
    assert (await arm.request("GET", console, token=None)).status == 401
    query = "follow=false&output=json&tailLines=2"
    text = await read(await arm.request("GET", f"{console}?{query}", token=token))
    lines = text.splitlines()
    assert "Connecting to the container 'web'..." in lines[0]
    assert f"Successfully Connected to container: 'web' [Revision: '{name}'" in lines[1]
    assert lines[2:] == [
        '{"TimeStamp": "2026-01-02T00:00:00+00:00", "Log": "line 0"}',
        '{"TimeStamp": "2026-01-02T00:00:00+00:00", "Log": "line 1"}',
    ]
    plain = await read(await arm.request("GET", f"{console}?output=text&tailLines=1", token=token))
    assert plain.splitlines()[2] == "2026-01-02T00:00:00+00:00 line 0"
    events = await read(await arm.request("GET", f"{root}/eventstream?{query}", token=token))
    assert '"Reason": "ContainerStarted"' in events
    gone = console.replace("abcde", "zzzzz")
    assert (await arm.request("GET", gone, token=token)).body["error"]["code"] == "ReplicaNotFound"
    many = await arm.request("GET", f"{console}?tailLines=301", token=token)
    assert many.status == 400


async def test_deletion_stops_the_app(arm: ArmClient) -> None:
    await arm.make_app()
    accepted = await arm.request("DELETE", f"{arm.app_path()}?{V}")
    assert (accepted.status, "containerappOperationResults" in accepted.headers["Location"]) == (202, True)
    assert (await arm.poll(accepted)).status == 204
    assert arm.host.removed == ["app"]
    missing = await arm.request("GET", f"{arm.app_path()}?{V}")
    assert (missing.status, missing.body["error"]["code"]) == (404, "ResourceNotFound")
    assert missing.body["error"]["message"].startswith(
        "The Resource 'Microsoft.App/containerApps/app' under resource group 'rg' was not found."
    )
    assert (await arm.request("DELETE", f"{arm.app_path()}?{V}")).status == 204


async def test_an_app_is_stopped_and_started_as_a_whole(arm: ArmClient) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    stopped = await arm.poll(await arm.request("POST", f"{arm.app_path()}/stop?{V}"))
    assert stopped.body["properties"]["runningStatus"] == "Stopped"
    assert arm.host.stopped == [name]
    started = await arm.poll(await arm.request("POST", f"{arm.app_path()}/start?{V}"))
    assert started.body["properties"]["runningStatus"] == "Running"
    assert name in arm.host.specs


async def test_apps_come_up_again_after_a_restart(arm: ArmClient, reopen: Reopen) -> None:
    shown = await arm.make_app()
    await arm.put_app(arm.app_body(image="y"))
    await arm.settle()
    await arm.cloud.close()
    again = reopen(FakeHost())
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


async def test_an_app_that_cannot_come_up_keeps_no_other_down(arm: ArmClient, reopen: Reopen) -> None:
    await arm.make_app()
    arm.cloud.store.delete("resource", f"{arm.group}/{ENVIRONMENT}".lower())
    await arm.cloud.close()
    again = reopen(FakeHost())
    await again.cloud.open()
    assert (await again.show_app())["properties"]["provisioningState"] == "Failed"
    await again.cloud.close()


async def test_a_rotated_key_breaks_the_mount(arm: ArmClient) -> None:
    name = (await arm.make_app())["properties"]["latestRevisionName"]
    account = "providers/Microsoft.Storage/storageAccounts/acct"
    body = {"keyName": "key1"}
    await arm.request("POST", f"{account}/regenerateKey?api-version=2025-08-01", body)
    await arm.request("POST", f"{arm.app_path()}/revisions/{name}/restart?{V}")
    ((source, _),) = arm.host.specs[name].container.mounts
    assert not source.is_dir()
    assert "permission denied" in source.name


async def test_an_app_of_the_same_name_in_another_group_is_not_emulated(arm: ArmClient) -> None:
    await arm.make_app()
    other = f"{arm.subscription}/resourceGroups/other"
    await arm.request("PUT", f"{other}?api-version=2024-11-01", {"location": "swedencentral"})
    path = f"{other}/providers/Microsoft.App/containerApps/app?{V}"
    refused = await arm.request("PUT", path, arm.app_body())
    assert refused.status == 501

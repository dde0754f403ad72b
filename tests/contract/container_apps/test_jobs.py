"""Jobs: created, started, stopped, listed, and what Azure rejects in one.

Source: Microsoft.App REST API 2025-07-01 and 2026-01-01, Jobs; the Azure CLI's source.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.container_apps.jobs.schedule import Schedule
from tests.doubles.local_cloud import FakeHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.arm.requests import ArmResponse
    from tests.doubles.local_cloud import ArmClient

    Reopen = Callable[[FakeHost], ArmClient]

V = "api-version=2026-01-01"
JOB = "providers/Microsoft.App/jobs/job"
ENVIRONMENT = "providers/Microsoft.App/managedEnvironments/env"


def job_body(arm: ArmClient, **configuration: Any) -> dict[str, Any]:
    """Return the PUT of a job that mounts the share and has a secret."""
    body = arm.app_body()
    properties = body["properties"]
    properties["configuration"] = {
        "secrets": [{"name": "api-key", "value": "s3cret"}],
        "triggerType": "Manual",
        "replicaTimeout": 1800,
        "replicaRetryLimit": 2,
        "manualTriggerConfig": {"parallelism": 3, "replicaCompletionCount": 2},
        **configuration,
    }
    del properties["template"]["scale"]
    return body


async def make_job(arm: ArmClient, **configuration: Any) -> dict[str, Any]:
    await arm.make_environment()
    made = await arm.request("PUT", f"{JOB}?{V}", job_body(arm, **configuration))
    assert made.status == 201, made.body
    assert (
        "/locations/swedencentral/containerappsjobOperationStatuses/" in made.headers["Azure-AsyncOperation"]
    )
    assert (await arm.poll(made)).body["status"] == "Succeeded"
    shown: dict[str, Any] = (await arm.request("GET", f"{JOB}?{V}")).body
    return shown


async def start(arm: ArmClient, body: Any = None) -> str:
    started = await arm.request("POST", f"{JOB}/start?{V}", body)
    assert started.status == 200, started.body
    assert started.body["id"].endswith(f"/jobs/job/executions/{started.body['name']}")
    await arm.settle()
    return str(started.body["name"])


async def execution(arm: ArmClient, name: str) -> ArmResponse:
    return await arm.request("GET", f"{JOB}/executions/{name}?{V}")


async def lines(response: ArmResponse) -> list[bytes]:
    assert response.stream is not None
    return [line async for line in response.stream]


async def test_a_job_is_shown_with_azures_defaults_and_without_its_secrets(arm: ArmClient) -> None:
    shown = await make_job(arm, replicaRetryLimit=None, manualTriggerConfig=None)
    assert shown["id"].endswith("/providers/Microsoft.App/jobs/job")
    assert (shown["type"], shown["location"]) == ("Microsoft.App/jobs", "Sweden Central")
    properties = shown["properties"]
    assert properties["provisioningState"] == "Succeeded"
    assert properties["configuration"] == {
        "secrets": [{"name": "api-key"}],
        "triggerType": "Manual",
        "replicaTimeout": 1800,
        "replicaRetryLimit": 0,
        "manualTriggerConfig": {"replicaCompletionCount": 1, "parallelism": 1},
        "scheduleTriggerConfig": None,
        "eventTriggerConfig": None,
        "registries": None,
    }
    assert properties["eventStreamEndpoint"].endswith("/resourceGroups/rg/jobs/job/eventstream")
    listed = await arm.request("GET", f"providers/Microsoft.App/jobs?{V}")
    assert [found["name"] for found in listed.body["value"]] == ["job"]
    secrets = await arm.request("POST", f"{JOB}/listSecrets?{V}")
    assert secrets.body == {"value": [{"name": "api-key", "value": "s3cret"}]}


async def test_an_execution_runs_the_jobs_container_to_its_end(arm: ArmClient) -> None:
    await make_job(arm)
    name = await start(arm)
    spec = arm.host.executions.specs[name]
    assert (spec.parallelism, spec.completions, spec.retry_limit, spec.timeout_s) == (3, 2, 2, 1800)
    assert spec.container.env == (("KEY", "s3cret"), ("A", "b"))
    assert spec.container.mounts == ((arm.cloud.files.share_path("acct", "data"), "/mount"),)
    running = (await execution(arm, name)).body
    assert (running["type"], running["properties"]["status"]) == ("Microsoft.App/jobs/executions", "Running")
    assert running["properties"]["endTime"] is None
    arm.host.executions.ends[name].set_result("Succeeded")
    await arm.settle()
    ended = (await execution(arm, name)).body["properties"]
    assert (ended["status"], ended["startTime"] <= ended["endTime"]) == ("Succeeded", True)
    assert ended["template"]["containers"][0]["name"] == "web"
    second = await start(arm)
    listed = (await arm.request("GET", f"{JOB}/executions?{V}")).body["value"]
    assert [found["name"] for found in listed] == [second, name], "newest first"


async def test_an_execution_may_have_another_command_and_keeps_the_mounts(arm: ArmClient) -> None:
    await make_job(arm)
    name = await start(arm, {"containers": [{"name": "job", "command": ["/bin/false"], "image": None}]})
    container = arm.host.executions.specs[name].container
    assert (container.command, container.image, len(container.mounts)) == (("/bin/false",), "x", 1)
    shown = (await execution(arm, name)).body["properties"]["template"]["containers"]
    assert shown[0]["command"] == ["/bin/false"]
    wrong = {"containers": [{"name": "job", "env": [{"name": "A B", "value": "c"}]}]}
    refused = await arm.request("POST", f"{JOB}/start?{V}", wrong)
    assert (refused.status, refused.body["error"]["code"]) == (400, "ContainerAppInvalidEnvVarName")


async def test_executions_are_stopped_one_by_one_or_all_at_once(arm: ArmClient) -> None:
    await make_job(arm)
    names = [await start(arm) for _ in range(3)]
    one = await arm.request("POST", f"{JOB}/stop/{names[0]}?{V}")
    assert (one.status, one.body["properties"]["status"]) == (200, "Stopped")
    again = await arm.request("POST", f"{JOB}/stop/{names[0]}?{V}")
    assert again.body["properties"] == one.body["properties"], "one that has ended stays as it is"
    every = await arm.request("POST", f"{JOB}/stop?{V}")
    assert {found["name"] for found in every.body["value"]} == set(names[1:])
    missing = await arm.request("POST", f"{JOB}/stop/job-nothere?{V}")
    assert (missing.status, missing.body["error"]["code"]) == (404, "JobExecutionNotFound")


async def test_the_history_has_the_last_hundred_that_ended(arm: ArmClient) -> None:
    await make_job(arm)
    names = []
    for _ in range(103):
        names.append(await start(arm))
        arm.host.executions.ends[names[-1]].set_result("Failed")
        await arm.settle()
    running = await start(arm)
    listed = (await arm.request("GET", f"{JOB}/executions?{V}")).body["value"]
    assert [found["name"] for found in listed] == [running, *names[:-101:-1]]


async def test_a_change_of_a_secret_reaches_the_next_execution(arm: ArmClient) -> None:
    await make_job(arm)
    patch = {"properties": {"configuration": {"secrets": [{"name": "api-key", "value": "new"}]}}}
    changed = await arm.request("PATCH", f"{JOB}?{V}", patch)
    assert changed.status == 202
    assert (await arm.poll(changed)).status == 200
    spec = arm.host.executions.specs[await start(arm)]
    assert dict(spec.container.env)["KEY"] == "new"
    assert (spec.retry_limit, spec.parallelism) == (2, 3), "the patch keeps what it does not name"


async def test_a_deleted_job_stops_and_an_environment_keeps_its_jobs(arm: ArmClient) -> None:
    await make_job(arm)
    name = await start(arm)
    refused = await arm.request("DELETE", f"{ENVIRONMENT}?{V}")
    assert (refused.status, refused.body["error"]["code"]) == (409, "ManagedEnvironmentHasContainerApps")
    assert "job job" in refused.body["error"]["message"]
    gone = await arm.request("DELETE", f"{JOB}?{V}")
    assert gone.status == 202
    await arm.poll(gone)
    assert arm.host.executions.ends[name].result() == "Stopped"
    assert arm.host.executions.removed == ["job"]
    assert (await arm.request("GET", f"{JOB}?{V}")).status == 404
    assert (await arm.request("DELETE", f"{ENVIRONMENT}?{V}")).status == 202


async def test_the_profile_of_a_job_cannot_be_removed(arm: ArmClient) -> None:
    await arm.make_environment()
    body = job_body(arm)
    body["properties"]["workloadProfileName"] = "GPU"
    await arm.request("PUT", f"{JOB}?{V}", body)
    await arm.settle()
    profiles = [{"name": "Consumption", "workloadProfileType": "Consumption"}]
    change = {"location": "swedencentral", "properties": {"workloadProfiles": profiles}}
    refused = await arm.request("PUT", f"{ENVIRONMENT}?{V}", change)
    assert (refused.status, refused.body["error"]["code"]) == (409, "WorkloadProfileInUse")


async def test_an_execution_does_not_survive_a_restart(arm: ArmClient, reopen: Reopen) -> None:
    await make_job(arm)
    name = await start(arm)
    await arm.cloud.close()
    again = reopen(FakeHost())
    await again.cloud.open()
    found = (await execution(again, name)).body["properties"]
    assert (found["status"], found["endTime"] is not None) == ("Failed", True)
    assert again.host.executions.recoveries == 1, "its processes may still run"
    await again.cloud.close()


async def test_logs_need_the_jobs_own_token(arm: ArmClient) -> None:
    shown = await make_job(arm)
    name = await start(arm)
    (replica,) = (await arm.request("GET", f"{JOB}/executions/{name}/replicas?{V}")).body["value"]
    url = f"{replica['properties']['containers'][0]['logStreamEndpoint']}?tailLines=2&output=text"
    assert (await arm.request("GET", url)).status == 401
    token = (await arm.request("POST", f"{JOB}/getAuthToken?{V}")).body["properties"]["token"]
    assert await lines(await arm.request("GET", url, token=token)) == [
        b"2026-01-02T00:00:00+00:00 line 0\n",
        b"2026-01-02T00:00:00+00:00 line 1\n",
    ]
    events = await arm.request("GET", shown["properties"]["eventStreamEndpoint"], token=token)
    assert b'"ContainerStarted"' in b"".join(await lines(events))
    for wrong, code in (
        (url.replace("-abcde", "-zzzzz"), "ReplicaNotFound"),
        (url.replace("/web/", "/x/"), "ContainerNotFound"),
    ):
        found = await arm.request("GET", wrong, token=token)
        assert (found.status, found.body["error"]["code"]) == (404, code)


async def test_a_schedule_starts_a_job_in_its_minutes(arm: ArmClient) -> None:
    schedule = {"cronExpression": "*/5 9-17 * * mon-fri", "parallelism": 1}
    await make_job(arm, triggerType="Schedule", manualTriggerConfig=None, scheduleTriggerConfig=schedule)
    jobs = arm.cloud.job_executions
    jobs.start_due(datetime(2026, 1, 2, 9, 4, tzinfo=UTC))
    jobs.start_due(datetime(2026, 1, 3, 9, 5, tzinfo=UTC))
    await arm.settle()
    assert arm.host.executions.specs == {}, "a minute too early, and a Saturday"
    jobs.start_due(datetime(2026, 1, 2, 9, 5, 30, tzinfo=UTC))
    await arm.settle()
    assert len(arm.host.executions.specs) == 1


@pytest.mark.parametrize(
    ("expression", "due", "not_due"),
    [
        ("* * * * *", (2026, 5, 6, 7, 8), None),
        ("30 4 1,15 * 5", (2026, 5, 15, 4, 30), (2026, 5, 14, 4, 30)),
        ("30 4 1,15 * 5", (2026, 5, 8, 4, 30), (2026, 5, 9, 4, 30)),
        ("0 0 * feb sun", (2026, 2, 1, 0, 0), (2026, 3, 1, 0, 0)),
        ("0 0 * * 7", (2026, 2, 1, 0, 0), (2026, 2, 2, 0, 0)),
        ("10/20 * * * *", (2026, 2, 1, 0, 50), (2026, 2, 1, 0, 20)),
    ],
)
def test_a_cron_expression_names_minutes(
    expression: str, due: tuple[int, ...], not_due: tuple[int, ...] | None
) -> None:
    schedule = Schedule.parse(expression)
    year, month, day, hour, minute = due
    assert schedule.is_due(datetime(year, month, day, hour, minute, tzinfo=UTC))
    if not_due is not None:
        year, month, day, hour, minute = not_due
        assert not schedule.is_due(datetime(year, month, day, hour, minute, tzinfo=UTC))


SCHEDULE = {"triggerType": "Schedule", "manualTriggerConfig": None}


@pytest.mark.parametrize(
    ("configuration", "code", "words"),
    [
        ({"replicaTimeout": 0}, "ContainerAppJobInvalidConfiguration", "replicaTimeout"),
        ({"replicaTimeout": None}, "ContainerAppInvalidSchema", "$.properties.configuration.replicaTimeout"),
        ({"replicaRetryLimit": -1}, "ContainerAppJobInvalidConfiguration", "replicaRetryLimit"),
        ({"replicaTimeout": "soon"}, "ContainerAppInvalidSchema", "replicaTimeout"),
        ({"triggerType": "Daily"}, "ContainerAppInvalidSchema", "triggerType"),
        ({"manualTriggerConfig": {"parallelism": 0}}, "ContainerAppJobInvalidConfiguration", "parallelism"),
        ({"manualTriggerConfig": {"speed": 1}}, "ContainerAppInvalidSchema", "Unknown properties speed"),
        (
            {"scheduleTriggerConfig": {"cronExpression": "* * * * *"}},
            "ContainerAppJobInvalidTriggerConfig",
            "",
        ),
        (SCHEDULE, "ContainerAppJobInvalidTriggerConfig", "must have a 'scheduleTriggerConfig'"),
        (
            {**SCHEDULE, "scheduleTriggerConfig": {"cronExpression": "61 * * * *"}},
            "ContainerAppJobInvalidCronExpression",
            "the minute '61' is not from 0 to 59",
        ),
        (
            {**SCHEDULE, "scheduleTriggerConfig": {"cronExpression": "hourly"}},
            "ContainerAppJobInvalidCronExpression",
            "it has 1 fields, and must have 5",
        ),
        ({"secrets": []}, "ContainerAppSecretRefNotFound", "api-key"),
    ],
)
async def test_a_wrong_configuration_is_refused(
    arm: ArmClient, configuration: dict[str, Any], code: str, words: str
) -> None:
    await arm.make_environment()
    refused = await arm.request("PUT", f"{JOB}?{V}", job_body(arm, **configuration))
    assert refused.status == 400
    assert code in str(refused.body)
    assert words in str(refused.body)


async def test_a_template_has_the_rules_of_an_apps(arm: ArmClient) -> None:
    await arm.make_environment()

    async def codes(change: Callable[[dict[str, Any]], None], name: str = "job") -> str:
        body = deepcopy(job_body(arm))
        change(body["properties"])
        response = await arm.request("PUT", f"providers/Microsoft.App/jobs/{name}?{V}", body)
        assert response.status >= 400
        return str(response.body)

    def set_container(**values: Any) -> Callable[[dict[str, Any]], None]:
        return lambda properties: properties["template"]["containers"][0].update(values)

    assert "WorkloadProfileNotFound" in await codes(lambda found: found.update(workloadProfileName="none"))
    assert "ManagedEnvironmentNotFound" in await codes(
        lambda found: found.update(environmentId=f"{arm.group}/{ENVIRONMENT}2")
    )
    assert "ContainerAppInvalidResourceTotal" in await codes(
        set_container(resources={"cpu": 24, "memory": "220Gi"})
    )
    assert "ContainerAppInvalidMountPath" in await codes(
        set_container(volumeMounts=[{"volumeName": "v", "mountPath": "mount"}])
    )
    assert "NotImplementedByLocalCloud" in await codes(
        lambda found: found["template"].update(initContainers=[{"name": "i", "image": "x"}])
    )
    assert "ContainerAppJobInvalidName" in await codes(lambda _: None, name="Job")


async def test_an_event_job_is_stored_and_started_by_hand(arm: ArmClient) -> None:
    rule = {"name": "queue", "type": "azure-queue", "metadata": {"queueName": "q"}}
    event = {"scale": {"rules": [rule], "maxExecutions": 2}, "parallelism": 4}
    shown = await make_job(arm, triggerType="event", manualTriggerConfig=None, eventTriggerConfig=event)
    configuration = shown["properties"]["configuration"]
    assert configuration["triggerType"] == "Event"
    assert configuration["eventTriggerConfig"] == {"replicaCompletionCount": 1, **event}
    assert arm.host.executions.specs[await start(arm)].parallelism == 4

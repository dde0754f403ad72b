"""Executions of jobs: replicas that run to their end, are counted, replaced when they fail, and stopped."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.runtime import BackOff, Container, ContainerHost, ExecutionSpec, Limits
from tests.doubles.containers import gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LIMITS = Limits(back_off=BackOff(first_s=0.01, cap_s=0.02), inspect_starting_s=0.1, drain_output_s=0.5)
SLEEP = "echo $$; exec sleep 60"


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[ContainerHost]:
    made = ContainerHost(tmp_path / "state", LIMITS)
    yield made
    await made.close()


def spec(script: str, **changed: Any) -> ExecutionSpec:
    container = Container("tune", "image", ("/bin/sh", "-c", script), env=(("COLOUR", "blue"),))
    return replace(ExecutionSpec("job", "job-abcdefg", container, 1, 1, 0, 30), **changed)


async def console(host: ContainerHost) -> list[str]:
    (replica,) = host.executions.logged_replicas("job", "job-abcdefg")
    records = host.executions.console_log("job", "job-abcdefg", replica, tail=100)
    return [record.text async for record in records]


async def reasons(host: ContainerHost) -> list[str]:
    return [record.reason async for record in host.executions.system_log("job", tail=100)]


async def pid(host: ContainerHost) -> int:
    """Return the process id that the one replica prints, once it runs."""
    async with asyncio.timeout(60):
        async for event in host.executions.system_log("job", tail=10, follow=True):
            if event.reason == "ContainerStarted":
                break
        (found,) = host.executions.replicas("job-abcdefg")
        log = host.executions.console_log("job", "job-abcdefg", found.name, tail=10, follow=True)
        async for record in log:
            return int(record.text)
    raise AssertionError("the log ended")


async def test_a_replica_has_a_workspace_and_the_names_of_its_job(host: ContainerHost) -> None:
    script = 'test "$HOME" && test "$TMPDIR" && test "$VIRTUAL_ENV" && env | sort'
    assert await host.executions.run(spec(script, env_dns_suffix="here.test")) == "Succeeded"
    shown = dict(line.split("=", 1) for line in await console(host))
    assert (shown["CONTAINER_APP_JOB_NAME"], shown["CONTAINER_APP_JOB_EXECUTION_NAME"]) == (
        "job",
        "job-abcdefg",
    )
    assert shown["COLOUR"] == "blue"
    assert shown["CONTAINER_APP_ENV_DNS_SUFFIX"] == "here.test"
    assert shown["CONTAINER_APP_REPLICA_NAME"].startswith("job-abcdefg-")
    assert "CONTAINER_APP_NAME" not in shown
    assert "CONTAINER_APP_REVISION" not in shown
    events = await reasons(host)
    assert events == [
        "AssigningReplica",
        "ContainerCreated",
        "ContainerStarted",
        "ContainerTerminated",
        "Completed",
    ]


async def test_nothing_is_left_but_the_logs(host: ContainerHost, tmp_path: Path) -> None:
    await host.executions.run(spec("echo done; sleep 60 & exit 0"))
    (kept,) = (tmp_path / "state/jobs/job/replicas").iterdir()
    assert [path.name for path in kept.iterdir()] == ["console.log"]
    assert host.executions.replicas("job-abcdefg") == ()
    await host.executions.remove("job")
    assert not (tmp_path / "state/jobs/job").exists()


async def test_a_failure_is_tried_again_as_often_as_the_limit_allows(
    host: ContainerHost, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    script = f"echo x >> '{count}'; test $(wc -l < '{count}') -ge 3"
    assert await host.executions.run(spec(script, retry_limit=1)) == "Failed"
    assert count.read_text() == "x\n" * 2, "the first try, and one more"
    assert (await reasons(host))[-1] == "BackoffLimitExceeded"
    count.unlink()
    assert await host.executions.run(spec(script, retry_limit=2)) == "Succeeded"


async def test_as_many_replicas_run_at_a_time_as_may_and_as_are_needed(
    host: ContainerHost, tmp_path: Path
) -> None:
    # Two replicas wait for each other: alone, neither ends.
    names = f"cd '{tmp_path}'; touch $CONTAINER_APP_REPLICA_NAME"
    meet = f"{names}; until [ $(ls | grep -c job-) -ge 2 ]; do sleep 0.02; done"
    assert await host.executions.run(spec(meet, parallelism=2, completions=3)) == "Succeeded"
    assert len(host.executions.logged_replicas("job", "job-abcdefg")) == 3


async def test_the_time_limit_ends_the_whole_execution(host: ContainerHost, tmp_path: Path) -> None:
    # On a busy machine the time is over before the container runs: no process is asked for.
    assert await host.executions.run(spec(SLEEP, timeout_s=1, retry_limit=5)) == "Failed"
    assert not list((tmp_path / "state/jobs/job/replicas").glob("*/processes.json"))
    assert (await reasons(host)).count("DeadlineExceeded") == 1


async def test_a_stop_ends_every_process(host: ContainerHost) -> None:
    ended = asyncio.create_task(host.executions.run(spec(SLEEP)))
    process = await pid(host)
    await host.executions.stop("job-abcdefg")
    assert await ended == "Stopped"
    assert gone(process)
    await host.executions.stop("job-abcdefg")


async def test_a_stop_before_the_start_prevents_it(host: ContainerHost, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    ended = asyncio.create_task(host.executions.run(spec(f"touch '{touched}'")))
    await asyncio.sleep(0)
    await host.executions.stop("job-abcdefg")
    assert await ended == "Stopped"
    assert not touched.exists()
    assert await host.executions.run(spec(f"touch '{touched}'")) == "Succeeded"


async def test_a_command_that_is_not_there_fails_and_says_so(host: ContainerHost) -> None:
    container = Container("tune", "image", ("/no/such/program",))
    assert await host.executions.run(spec("", container=container)) == "Failed"
    records = [record async for record in host.executions.system_log("job", tail=100)]
    (failure,) = [record for record in records if record.reason == "ContainerCreateFailure"]
    assert "/no/such/program" in failure.message


async def test_the_replicas_of_a_killed_host_are_found(host: ContainerHost, tmp_path: Path) -> None:
    ended = asyncio.create_task(host.executions.run(spec(SLEEP)))
    process = await pid(host)
    (ledger,) = (tmp_path / "state/jobs/job/replicas").glob("*/processes.json")
    assert json.loads(ledger.read_text())
    other = ContainerHost(tmp_path / "state", LIMITS)
    assert await other.recover() == (ledger.parent.name,)
    assert gone(process)
    assert await ended == "Failed"


async def test_only_the_name_of_a_replica_becomes_a_path(host: ContainerHost) -> None:
    await host.executions.run(spec("true"))
    for name in ("../../../secret", "job-abcdefg-../x", "job-other00-aaaaa"):
        with pytest.raises(KeyError):
            host.executions.console_log("job", "job-abcdefg", name)

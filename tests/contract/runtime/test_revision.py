"""The replicas of a revision: scaled, and replaced start-first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from localcloud.runtime import RevisionNotActiveError
from tests.doubles.containers import REVISION


async def test_restarts_start_first_without_a_failed_request(bench: Any) -> None:
    await bench.up(bench.spec(replicas=2))
    before = {replica.name for replica in bench.host.replicas(REVISION)}
    answers: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            async with bench.session.post(bench.url + "/echo", data=b"x" * 1000) as response:
                answers.append((response.status, "" if len(await response.read()) == 1000 else "short"))
            answers.append(await bench.get("/name"))

    load = [asyncio.create_task(ask()) for _ in range(4)]
    await bench.host.restart(REVISION)
    incoming = {replica.name for replica in bench.host.replicas(REVISION)} - before
    assert len(incoming) == 2
    await bench.host.wait_ready(REVISION)
    await bench.event("ContainerTerminated", 2)
    done.set()
    await asyncio.gather(*load)
    assert {status for status, _ in answers} == {200}
    assert "short" not in {text for _, text in answers}
    assert {text for _, text in answers} >= before | incoming
    assert {text for _, text in answers[-8:]} <= incoming | {""}


async def test_keeps_the_old_replica_serving_when_the_new_one_never_gets_ready(bench: Any) -> None:
    await bench.up()
    (old,) = bench.host.replicas(REVISION)
    await bench.host.run(bench.spec(EXIT="1"))
    assert [replica.name for replica in bench.host.replicas(REVISION)] == [old.name]
    await bench.host.restart(REVISION)
    broken = bench.host.replicas(REVISION)[0].name
    await bench.event("ContainerBackOff", 2)
    assert await bench.get("/name") == (200, old.name)
    state = bench.host.revision_state(REVISION)
    assert state[:2] == ("Degraded", "Unhealthy")
    assert "exit code '1'" in state.details

    await bench.host.run(bench.spec())
    await bench.host.restart(REVISION)
    await bench.host.wait_ready(REVISION)
    await bench.event("ContainerTerminated", replica=old.name)
    names = {replica.name for replica in bench.host.replicas(REVISION)}
    assert broken not in names
    assert (await bench.get("/name"))[1] in names
    assert bench.host.revision_state(REVISION) == ("Running", "Healthy", "")


async def test_scales_up_and_down_and_is_idempotent(bench: Any) -> None:
    await bench.up(bench.spec(replicas=1))
    (first,) = bench.host.replicas(REVISION)
    await bench.host.run(bench.spec(replicas=1))
    assert bench.host.replicas(REVISION)[0].name == first.name
    await bench.up(bench.spec(replicas=3))
    assert len({(await bench.get("/name"))[1] for _ in range(3)}) == 3
    await bench.host.run(bench.spec(replicas=1))
    await bench.event("ContainerTerminated", 2)
    await bench.host.wait_ready(REVISION)
    assert await bench.get("/name") == (200, first.name)


async def test_refuses_to_restart_what_does_not_run(bench: Any) -> None:
    with pytest.raises(RevisionNotActiveError, match="revision 'app--0000001' is not active"):
        await bench.host.restart(REVISION)
    await bench.up()
    await bench.host.stop(REVISION)
    with pytest.raises(RevisionNotActiveError):
        await bench.host.restart(REVISION)

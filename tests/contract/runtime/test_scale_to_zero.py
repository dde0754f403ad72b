"""A revision that may scale to zero: it sleeps when nobody asks, and a request starts it and waits.

Source: Azure Container Apps documentation, "Set scaling rules in Azure Container Apps" (scale behavior).
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.doubles.containers import REVISION

if TYPE_CHECKING:
    from localcloud.runtime import RevisionSpec

IDLE_S = 1.0
ASLEEP = ("ScaledToZero", "Healthy", "")


def spec(bench: Any, idle_s: float = IDLE_S, **variables: str) -> RevisionSpec:
    plain: RevisionSpec = bench.spec(**variables)
    return replace(plain, idle_s=idle_s)


async def test_the_last_replica_ends_when_nobody_asks_and_the_next_request_starts_one(bench: Any) -> None:
    await bench.up(spec(bench))
    (first,) = bench.host.replicas(REVISION)
    event = await bench.event("KEDAScaleTargetDeactivated")
    assert event.message == f"Deactivated apps/v1.Deployment k8se-apps/{REVISION} from 1 to 0"
    assert bench.host.revision_state(REVISION) == ASLEEP
    await bench.event("ContainerTerminated")
    assert not [each for each in bench.host.replicas(REVISION) if each.ready]

    answers = await asyncio.gather(*(bench.get("/name") for _ in range(3)))
    (second,) = {name for status, name in answers if status == 200}
    assert second != first.name
    assert len(answers) == 3
    await bench.event("KEDAScaleTargetActivated")
    await bench.event("KEDAScaleTargetDeactivated", 2)


async def test_a_request_in_flight_keeps_the_replica(bench: Any) -> None:
    await bench.up(spec(bench))
    request = asyncio.create_task(bench.get("/hang?begin=yes"))
    while not any(each.ready for each in bench.host.replicas(REVISION)):  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.01)
    await bench.line("hanging")
    before = (await bench.events()).count("KEDAScaleTargetDeactivated")
    await asyncio.sleep(2 * IDLE_S)
    assert (await bench.events()).count("KEDAScaleTargetDeactivated") == before
    request.cancel()
    await bench.event("KEDAScaleTargetDeactivated", before + 1)


async def test_a_sleeping_revision_stays_asleep_when_its_app_changes_and_wakes_by_a_restart(
    bench: Any,
) -> None:
    await bench.up(spec(bench))
    await bench.event("KEDAScaleTargetDeactivated")
    await bench.host.run(spec(bench, NAME="changed"))
    assert bench.host.revision_state(REVISION) == ASLEEP
    await bench.host.restart(REVISION)
    await bench.host.wait_ready(REVISION)
    assert (await bench.about())["env"]["NAME"] == "changed"


async def test_a_sleeping_revision_that_is_stopped_is_not_started_by_a_request(bench: Any) -> None:
    await bench.up(spec(bench))
    await bench.event("KEDAScaleTargetDeactivated")
    await bench.host.stop(REVISION)
    assert bench.host.revision_state(REVISION)[0] == "Stopped"
    assert (await bench.get("/name"))[0] == 503

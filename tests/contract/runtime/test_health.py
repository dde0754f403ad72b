"""Probes, and the check of where a container listens."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from localcloud.runtime import Probe
from localcloud.runtime.sockets import free_port
from tests.doubles.containers import APP, REVISION

if TYPE_CHECKING:
    from pathlib import Path

PORT = 7860
READINESS = Probe("Readiness", "/readyz", PORT, period_s=0.05, timeout_s=10, failure_threshold=1)


async def test_restarts_a_container_whose_liveness_fails(bench: Any) -> None:
    startup = Probe("Startup", "/healthz", PORT, period_s=0.05, timeout_s=10, failure_threshold=1000)
    liveness = Probe("Liveness", "/healthz", PORT, period_s=0.05, timeout_s=10, failure_threshold=2)
    await bench.up(bench.spec(startup, READINESS, liveness))
    await bench.get("/set?name=healthy&value=no")
    record = await bench.event("ReplicaUnhealthy")
    assert record.message == "Liveness probe failed 2 times in a row: container will be restarted"
    ended = await bench.event("ContainerTerminated")
    assert ended.message.endswith("with exit code '0' and reason 'ProbeFailure'")
    await bench.event("ContainerStarted", 2)


async def test_restarts_a_container_that_never_starts_up(bench: Any) -> None:
    # Long enough for a shell to start on a busy machine, and to set its trap.
    startup = Probe("Startup", "/nothing", PORT, period_s=0.05, timeout_s=10, failure_threshold=25)
    spec = bench.spec(startup, READINESS, grace_s=0.2)
    deaf = replace(spec.container, args=("-c", "trap '' TERM; sleep 600"))
    await bench.host.run(replace(spec, container=deaf))
    await bench.event("ReplicaUnhealthy")
    ended = await bench.event("ContainerTerminated")
    assert ended.message.endswith("with exit code '137' and reason 'ProbeFailure'")
    assert not bench.host.replicas(REVISION)[0].started


async def test_probes_readiness_only_after_startup(bench: Any) -> None:
    startup = Probe("Startup", "/readyz", PORT, period_s=0.05, timeout_s=10, failure_threshold=100)
    await bench.host.run(bench.spec(startup, READINESS, NEVER_READY="1"))
    record = await bench.event("ProbeFailed", 4)
    assert record.message.startswith("Probe of StartUp failed with ")
    assert record.count == 8
    assert not bench.host.replicas(REVISION)[0].started


async def test_takes_a_tcp_connection_or_a_redirect_for_success(bench: Any) -> None:
    startup = Probe("Startup", None, PORT, period_s=0.05, failure_threshold=100)
    readiness = Probe("Readiness", "/redirect", PORT, period_s=0.05, timeout_s=10)
    await bench.up(bench.spec(startup, readiness))
    assert (await bench.get("/name"))[0] == 200


async def test_refuses_a_replica_that_the_network_can_reach(bench: Any) -> None:
    await bench.host.run(bench.spec(ADDRESS="0.0.0.0"))  # noqa: S104 - what must be refused
    await bench.host.serve(APP, REVISION)
    record = await bench.event("NonLoopbackListener")
    (replica,) = bench.host.replicas(REVISION)
    assert record.message == (
        f"It listens on 0.0.0.0:{replica.port}, which others than this machine can reach: killed, and not "
        "started again. On the local cloud a container must listen on 127.0.0.1 (FJARR_HOST=127.0.0.1)"
    )
    await bench.event("ContainerTerminated")
    assert (await bench.get("/name"))[0] == 503
    assert "ContainerBackOff" not in await bench.events()
    assert bench.host.replicas(REVISION)[0].running_state == "Terminated"
    assert bench.host.revision_state(REVISION)[:2] == ("Failed", "Unhealthy")


async def test_refuses_a_replica_that_opens_a_port_to_the_network_later(bench: Any, tmp_path: Path) -> None:
    later = tmp_path / "later.py"
    opening = 'state["open"] = socket.create_server(("", 0)); self.answer(200)'
    page = f'elif url.path == "/open":\n            {opening}\n        elif url.path == "/redirect":'
    later.write_text(bench.server.read_text().replace('elif url.path == "/redirect":', page))
    bench.server = later
    await bench.up()
    assert (await bench.get("/open"))[0] == 200
    await bench.event("NonLoopbackListener")
    await bench.event("ContainerTerminated")
    assert (await bench.get("/name"))[0] == 503


async def test_reports_a_container_that_listens_on_another_port(bench: Any) -> None:
    other = free_port()
    await bench.host.run(bench.spec(PORT=str(other)))
    record = await bench.event("Pending:PortMismatch")
    (replica,) = bench.host.replicas(REVISION)
    assert record.message == (
        f"The TargetPort 7860 does not match the listening port {other}: "
        f"here the container must listen on CONTAINER_APP_PORT ({replica.port})"
    )
    state = bench.host.revision_state(REVISION)
    assert state == ("Failed", "Unhealthy", f"0/1 replicas ready. {record.message}")

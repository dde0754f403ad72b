"""Two replicas on the local cloud take a release over from inside, and the pipeline waits for both."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from infra.clock import SystemClock
from infra.console import Console
from infra.process import Runner
from infra.release.rollout import Rollout, in_background
from infra.release.takeovers.outcome import NotServed, Served
from infra.release.takeovers.reach import find_way
from infra.share.mounted import MountedShare
from localcloud.runtime import IngressPolicy
from tests.doubles.containers import REVISION
from tests.doubles.host_app import BROKEN, FIRST, SECOND, start, store_release

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    for release, behaviour in ((FIRST, "serves"), (SECOND, "serves"), (BROKEN, "dies")):
        store_release(tmp_path / "mount", release, behaviour)
    return tmp_path / "mount"


async def test_a_machine_that_the_ingress_keeps_out_gets_the_proof_from_inside(
    bench: Any, mount: Path, tmp_path: Path
) -> None:
    app, clock, output = await start(bench, mount), SystemClock(), io.StringIO()
    names = {replica.name for replica in bench.host.replicas(REVISION)}
    bench.host.set_ingress_policy("app", IngressPolicy(("203.0.113.0/24",)))
    share, console = MountedShare(mount, Runner({}, tmp_path)), Console(output)
    inside = await asyncio.to_thread(find_way, app, share, clock, console, "prod")
    said = "the app's address does not answer from here (HTTP 403: RBAC: access denied)"
    assert f"warning: {said}: the proof will come from inside" in output.getvalue()
    with ThreadPoolExecutor(2) as pool:
        rollout = Rollout(inside, clock, console, 60.0, in_background(pool), lambda: None)
        (mount / "CURRENT").write_text(f"{SECOND}\n")
        served = await asyncio.to_thread(rollout.take_over, SECOND)
        assert isinstance(served, Served)
        assert (set(served.replicas), served.proof) == (names, "inside")
        (mount / "CURRENT").write_text(f"{BROKEN}\n")
        failed = await asyncio.to_thread(rollout.take_over, BROKEN)
        assert isinstance(failed, NotServed)
        assert "No module named 'nowhere'" in failed.cause.reason
        assert not failed.is_unseen


async def test_a_deploy_is_done_when_both_replicas_have_proven_it(bench: Any, mount: Path) -> None:
    app = await start(bench, mount)
    names = {replica.name for replica in bench.host.replicas(REVISION)}
    with ThreadPoolExecutor(2) as pool:
        rollout = Rollout(app, SystemClock(), Console(io.StringIO()), 60.0, in_background(pool), lambda: None)

        async def take_over(release: str) -> Served | NotServed:
            (mount / "CURRENT").write_text(f"{release}\n")
            return await asyncio.to_thread(rollout.take_over, release)

        served = await take_over(SECOND)
        assert isinstance(served, Served)
        assert set(served.replicas) == names
        assert served.outage is not None
        assert served.outage.failed == 0
        failed = await take_over(BROKEN)
        assert isinstance(failed, NotServed)
        assert "No module named 'nowhere'" in failed.cause.reason
        assert not failed.is_timeout
        # The pointer goes back: both serve it already, and nothing was restarted.
        assert isinstance(await take_over(SECOND), Served)
    assert {replica.name for replica in bench.host.replicas(REVISION)} == names
    assert all(replica.restart_count == 0 for replica in bench.host.replicas(REVISION))

"""Two replicas on the local cloud take a release over from inside, and the pipeline waits for both."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.app import App, fetch_version
from infra.az.revision import NoResponse, Replica, Revision, Snapshot, VersionResponse
from infra.clock import SystemClock
from infra.console import Console
from infra.process import Runner
from infra.release.rollout import Rollout, in_background
from infra.release.takeovers.outcome import NotServed, Served
from infra.release.takeovers.reach import find_way
from infra.share.mounted import MountedShare
from localcloud.runtime import Container, IngressPolicy, Probe, RevisionSpec
from tests.doubles.containers import REVISION

if TYPE_CHECKING:
    from localcloud.runtime import ContainerHost

ROOT = Path(__file__).parents[3]
FIRST, SECOND, BROKEN = (f"2026010{number}T000000Z-0000000{number}" for number in (1, 2, 3))
# As the template has it, without the page that waits.
COMMAND = (
    'until [ -s "$FJARR_MOUNT/CURRENT" ]; do sleep 0.1; done;'
    ' export FJARR_RELEASE="$(cat "$FJARR_MOUNT/CURRENT")";'
    ' cd "$FJARR_MOUNT/releases/$FJARR_RELEASE"; exec python3 -m inference.start'
)


def store_release(mount: Path, release: str, behaviour: str = "serves") -> None:
    """Put this repository's supervisor with a fake server on a share, as a release."""
    folder = mount / "releases" / release
    ignored = shutil.ignore_patterns("__pycache__", "engine_process.py")
    shutil.copytree(ROOT / "inference", folder / "inference", ignore=ignored)
    shutil.copyfile(ROOT / "tests" / "doubles" / "fake_server.py", folder / "inference" / "server.py")
    (folder / "inference" / "behaviour").write_text(behaviour)
    entries = [
        {
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    (folder / "release.json").write_text(json.dumps({"files": entries}))


@dataclass
class HostApp(App):
    """The app of a container host, without az between."""

    host: ContainerHost
    url: str

    def revision(self) -> tuple[Revision, bool]:
        return Revision(REVISION, "2026-01-01T00:00:00Z", running_state="Running"), True

    def snapshot(self, revision: str) -> Snapshot:
        return Snapshot(self.revision()[0], self.replicas(revision))

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        return tuple(
            Replica(each.name, is_ready=each.ready, restart_count=each.restart_count)
            for each in self.host.replicas(revision)
        )

    def restart(self, revision: str) -> None:
        raise AssertionError(f"{revision} was restarted")

    def activate(self, revision: str) -> None:
        raise AssertionError(f"{revision} was activated")

    def version(self) -> VersionResponse | NoResponse:
        return fetch_version(self.url)

    def console_tail(self, replica: str) -> tuple[str, ...]:
        return (f"the log of {replica}",)

    def is_stopped(self) -> bool:
        return False


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    for release, behaviour in ((FIRST, "serves"), (SECOND, "serves"), (BROKEN, "dies")):
        store_release(tmp_path / "mount", release, behaviour)
    return tmp_path / "mount"


async def start(bench: Any, mount: Path) -> HostApp:
    """Start two replicas on the first release."""
    (mount / "CURRENT").write_text(f"{FIRST}\n")
    environ = {
        "FJARR_MOUNT": str(mount), "FJARR_HOST": "127.0.0.1", "FJARR_AUTH": "off",
        "FJARR_CHAT_SIGN_IN": "off", "FJARR_DEVICE": "cpu", "FJARR_ENGINE": "transformers",
    }  # fmt: skip
    probe = Probe("Readiness", "/readyz", 7860, period_s=0.1, timeout_s=5, failure_threshold=1)
    container = Container(
        "main", "none", ("/bin/bash",), ("-c", COMMAND), tuple(environ.items()), probes=(probe,)
    )
    await bench.up(RevisionSpec("app", REVISION, container, 7860, 2, 10, "local.test", "app.local.test"))
    return HostApp(bench.host, bench.url)


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

"""This repository's supervisor with a fake server, in containers of the local cloud's runtime, without az."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.az.app import App, fetch_version
from infra.az.revision import NoResponse, Replica, Revision, Snapshot, VersionResponse
from localcloud.runtime import Container, Probe, RevisionSpec
from tests.doubles.containers import REVISION

if TYPE_CHECKING:
    from localcloud.runtime import ContainerHost

ROOT = Path(__file__).parents[2]
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
    reports = folder / "inference" / "supervisor" / "reports.py"
    # A server that does not answer is to be found out soon.
    limit = "ANSWER_TIMEOUT_S: Final ="
    reports.write_text(reports.read_text().replace(f"{limit} 5.0", f"{limit} 1.0"))
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
    """The app of a container host, without az between.

    Attributes:
        timeout_s: How long it may take to answer `/version`.
    """

    host: ContainerHost
    url: str
    timeout_s: float = 5.0

    def revision(self) -> tuple[Revision, bool]:
        return Revision(REVISION, "2026-01-01T00:00:00Z", running_state="Running"), True

    def snapshot(self, revision: str) -> Snapshot:
        return Snapshot(self.revision()[0], self.replicas(revision))

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        return tuple(
            Replica(each.name, is_started=True, is_ready=each.ready, restart_count=each.restart_count)
            for each in self.host.replicas(revision)
        )

    def restart(self, revision: str) -> None:
        raise AssertionError(f"{revision} was restarted")

    def activate(self, revision: str) -> None:
        raise AssertionError(f"{revision} was activated")

    def version(self) -> VersionResponse | NoResponse:
        return fetch_version(self.url, self.timeout_s)

    def console_tail(self, replica: str) -> tuple[str, ...]:
        return (f"the log of {replica}",)

    def is_stopped(self) -> bool:
        return False


async def start(bench: Any, mount: Path, *, is_waited_for: bool = True, probe_s: float = 5) -> HostApp:
    """Start two replicas on the first release, and wait until they are ready.

    Args:
        bench: The host of containers, and its ingress.
        mount: The share.
        is_waited_for: False for a release that does not get ready.
        probe_s: How long an answer to the readiness probe may take.
    """
    (mount / "CURRENT").write_text(f"{FIRST}\n")
    environ = {
        "FJARR_MOUNT": str(mount), "FJARR_HOST": "127.0.0.1", "FJARR_AUTH": "off",
        "FJARR_CHAT_SIGN_IN": "off", "FJARR_DEVICE": "cpu", "FJARR_ENGINE": "transformers",
    }  # fmt: skip
    probe = Probe("Readiness", "/readyz", 7860, period_s=0.1, timeout_s=probe_s, failure_threshold=1)
    container = Container(
        "main", "none", ("/bin/bash",), ("-c", COMMAND), tuple(environ.items()), probes=(probe,)
    )
    spec = RevisionSpec("app", REVISION, container, 7860, 2, 10, "local.test", "app.local.test")
    if is_waited_for:
        await bench.up(spec)
    else:
        await bench.host.run(spec)
        await bench.host.serve(spec.app, REVISION)
    return HostApp(bench.host, bench.url)

"""What the container does until the first deploy, run as the template starts it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.runtime.sockets import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

SNAPSHOT = Path(__file__).parents[2] / "snapshots" / "inference" / "defaults.snapshot.json"
NOTHING = b"nothing deployed yet: run invoke deploy\n"
PATIENCE_S = 60
RELEASE = "20260101T000000Z-0a1b2c3d"


def app() -> dict[str, Any]:
    (found,) = (
        each
        for each in json.loads(SNAPSHOT.read_text(encoding="utf-8"))["predictedResources"]
        if each["type"] == "Microsoft.App/containerApps"
    )
    return dict(found["properties"]["template"]["containers"][0])


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container that waits for the first deploy."""

    process: subprocess.Popen[str]
    mount: Path
    port: int

    def request(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> tuple[int, bytes]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, headers or {}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def probe(self, kind: str) -> int:
        """Send a probe as the template declares it."""
        (probe,) = (each["httpGet"] for each in app()["probes"] if each["type"] == kind)
        headers = {each["name"]: each["value"] for each in probe.get("httpHeaders", ())}
        return self.request(probe["path"], headers=headers)[0]


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "FJARR_MOUNT": str(tmp_path),
        "FJARR_HOST": "127.0.0.1",
        "CONTAINER_APP_PORT": str(port),
    }
    with subprocess.Popen(
        app()["command"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            wait_until_listening(process, port)
            yield Waiting(process, tmp_path, port)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_listening(process: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
    pytest.fail("the container does not listen")


def test_it_is_healthy_for_the_platform_and_unavailable_for_everybody_else(waiting: Waiting) -> None:
    assert [waiting.probe(kind) for kind in ("Startup", "Liveness", "Readiness")] == [200, 200, 200]
    assert waiting.request("/") == (503, NOTHING)
    assert waiting.request("/readyz") == (503, NOTHING)
    assert waiting.request("/readyz", method="HEAD") == (503, b"")
    assert waiting.request("/v1/chat/completions", method="POST", body=b"x" * 300_000) == (503, NOTHING)


def test_it_becomes_the_release_that_is_deployed(waiting: Waiting) -> None:
    package = waiting.mount / "releases" / RELEASE / "inference"
    package.mkdir(parents=True)
    (package / "start.py").write_text("import os\nprint('release', os.environ['FJARR_RELEASE'])\n")
    (waiting.mount / "CURRENT").write_text("")  # a pointer that is being written is none
    assert waiting.request("/")[0] == 503
    (waiting.mount / "CURRENT").write_text(f"{RELEASE}\n")
    output, _ = waiting.process.communicate(timeout=PATIENCE_S)
    assert output.splitlines() == ["no release on the share yet: run invoke deploy", f"release {RELEASE}"]
    assert waiting.process.returncode == 0


def test_it_ends_at_once_when_it_is_stopped(waiting: Waiting) -> None:
    os.kill(waiting.process.pid, signal.SIGTERM)
    assert waiting.process.wait(timeout=PATIENCE_S) == 128 + signal.SIGTERM


def test_a_client_that_sends_nothing_keeps_no_one_waiting(waiting: Waiting) -> None:
    with socket.create_connection(("127.0.0.1", waiting.port)):
        assert waiting.probe("Liveness") == 200

"""The server's process with a real model, started as a container starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest

from inference.listener import bind
from inference.settings import Settings
from inference.supervisor.page import StartingPage
from localcloud.runtime.sockets import free_port
from tests.doubles.tiny import BASE
from tests.doubles.transformers_engine import ROOT, TUNED

RELEASE = "20260101T000000Z-0123abcd"

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("one_thread"),
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
]


class Server:
    """The process, started as a container starts it."""

    def __init__(self, mount: Path, **environ: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        (mount / "CURRENT").write_text(f"{RELEASE}\n")
        (mount / "tmp").mkdir(exist_ok=True)
        environ = {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(mount / "tmp"),
            "HOME": str(mount),
            "FJARR_MOUNT": str(mount),
            "FJARR_HOST": "127.0.0.1",
            "CONTAINER_APP_PORT": self.url.rpartition(":")[2],
            "FJARR_API_KEYS": "k",
            "FJARR_ADAPTER": "models/mine",
            "FJARR_RELEASE": RELEASE,
            "FJARR_THREADS": "1",
        } | environ
        self.process = subprocess.Popen(
            [sys.executable, "-m", "inference.start"],
            cwd=ROOT,
            env=environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []

    def wait_for(self, text: str) -> None:
        """Read the log up to a line with this text."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(f"the server ended without {text!r}: " + "".join(self.lines))

    def wait(self) -> int:
        """Read the log to its end and return the exit code."""
        assert self.process.stderr is not None
        self.lines += self.process.stderr.readlines()
        return self.process.wait(60)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def start(mount: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(**environ: str) -> Server:
        servers.append(Server(mount, **environ))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def test_the_process_serves_and_finishes_what_is_in_flight_when_told_to_stop(
    start: Callable[..., Server],
) -> None:
    server = start()
    server.wait_for("the chat page is up")
    with httpx.Client(base_url=server.url, headers={"Authorization": "Bearer k"}, timeout=60) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
        version = client.get("/version").json()
        assert (version["base_model"], version["adapters"], version["ready"]) == (BASE, [TUNED], True)
        assert client.get("/").status_code == 401
        body = {"model": TUNED, "prompt": "xyz", "max_tokens": 480, "stream": True}
        with client.stream("POST", "/v1/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            while client.get("/readyz").status_code == 200:
                pass
            late = client.post("/v1/completions", json=body)
            assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
            assert late.headers["retry-after"] == "5"
            assert [line for line in lines if line][-1] == "data: [DONE]"
    assert server.wait() == 0
    assert "stopped" in server.lines[-1]
    assert "xyz" not in "".join(server.lines)  # a request id, in hexadecimal, cannot have it


def test_the_process_stops_at_once_while_it_loads(start: Callable[..., Server]) -> None:
    server = start()
    server.wait_for("base model: org/tiny, adapter: mine")
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def test_what_cannot_be_loaded_ends_the_process_with_its_reason_last(start: Callable[..., Server]) -> None:
    server = start(FJARR_BASE_MODEL="model-cache/org/absent")
    assert server.wait() == 1
    assert "cannot serve: the base model 'model-cache/org/absent' is not on the share" in server.lines[-1]


def test_bad_settings_end_the_process_before_anything_else(start: Callable[..., Server]) -> None:
    server = start(FJARR_PROT="1", FJARR_DTYPE="int3")
    assert server.wait() == 2
    assert "FJARR_DTYPE" in server.lines[0]
    assert "FJARR_PROT" in server.lines[1]
    assert server.lines[-1].endswith("ERROR inference.start: the settings cannot be used\n")


def test_the_port_answers_while_packages_are_installed() -> None:
    listener = bind(Settings(host="127.0.0.1", port=0, auth=False))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    document = {"phase": "installing packages", "percent": 0}
    with StartingPage(listener, lambda: document):
        assert httpx.get(url + "/healthz").status_code == 200
        ready = httpx.get(url + "/readyz")
        assert ready.status_code == 503
        assert ready.json() == {"status": "starting", "phase": "installing packages", "percent": 0}
        assert httpx.post(url + "/v1/chat/completions").headers["retry-after"] == "5"
    # The socket lives on, for the server that inherits it.
    assert listener.fileno() >= 0
    listener.close()

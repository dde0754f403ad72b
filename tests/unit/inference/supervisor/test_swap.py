"""The real supervisor, engine and server: sixteen clients stream across six changes of release."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from localcloud.runtime.sockets import free_port
from tests.doubles.tiny import BASE, byte_tokenizer, save_base

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[4]
CLIENTS = 16
TOKENS = 48
PAUSE_S = 0.2
LIMIT_S = 240.0


def release_id(number: int) -> str:
    return f"2026010{number}T000000Z-0000000{number}"


@dataclass
class Container:
    """A container's first process on a share, with releases of this repository's server."""

    root: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def mount(self) -> Path:
        return self.root / "mount"

    def release(self, number: int, **additions: str) -> None:
        """Put a release on the share; additions are texts at the end of modules, by their paths."""
        folder = self.mount / "releases" / release_id(number)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "inference", folder / "inference", ignore=ignored)
        for path, text in additions.items():
            with (folder / "inference" / f"{path.replace('__', '/')}.py").open("a") as file:
                file.write(text)
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        entries = [
            {
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        ]
        (folder / "release.json").write_text(json.dumps({"files": entries}))

    def want(self, number: int) -> None:
        (self.mount / "CURRENT").write_text(f"{release_id(number)}\n")

    def start(self, number: int) -> None:
        self.want(number)
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(self.root), "TMPDIR": str(self.root),
            "FJARR_MOUNT": str(self.mount), "FJARR_RELEASE": release_id(number),
            "FJARR_HOST": "127.0.0.1", "FJARR_PORT": str(self.port), "FJARR_AUTH": "off",
            "FJARR_CHAT_SIGN_IN": "off", "FJARR_BASE_MODEL": BASE, "FJARR_DEVICE": "cpu",
            "FJARR_ENGINE": "transformers", "FJARR_THREADS": "1", "CONTAINER_APP_REPLICA_NAME": "app--1-x",
        }  # fmt: skip
        command = [sys.executable, "-m", "inference.start"]
        folder = self.mount / "releases" / release_id(number)
        with (self.root / "log").open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log)
        self.wait_until_bound()

    def version(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/version", timeout=30) as response:
            document = json.loads(response.read())
        assert isinstance(document, dict)
        return document

    def wait_until_bound(self) -> None:
        deadline = time.monotonic() + LIMIT_S
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def wait_for(self, **wanted: Any) -> dict[str, Any]:
        """Wait until `/version` has these values; a function is a condition."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            document = self.version()
            if all(
                value(document[name]) if callable(value) else document[name] == value
                for name, value in wanted.items()
            ):
                return document
            assert self.process is not None
            assert self.process.poll() is None, (self.root / "log").read_text()
            assert time.monotonic() < deadline, (document, (self.root / "log").read_text())
            time.sleep(0.1)

    def engines(self) -> set[int]:
        """Return the engine processes that are children of the first process."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {
            int(pid)
            for pid in children
            if b"inference.engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
        }


@dataclass
class Streams:
    """Clients that stream one answer after another, and what went wrong."""

    address: str
    is_over: threading.Event = field(default_factory=threading.Event)
    complete: int = 0
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        # A client of the field keeps its connections open, and here it must not try again.
        with openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0) as client:
            while not self.is_over.is_set():
                # The clients leave the processor to the releases for some of the time.
                self.is_over.wait(PAUSE_S)
                try:
                    self._stream(client)
                    self.complete += 1
                except (openai.OpenAIError, AssertionError) as error:
                    self.failures.append(f"{time.monotonic():.1f}: {error!r} {error.__cause__!r}")

    def _stream(self, client: openai.OpenAI) -> None:
        chunks = list(
            client.completions.create(
                model=BASE,
                prompt="Hello",
                max_tokens=TOKENS,
                stream=True,
                extra_body={"ignore_eos": True},
                stream_options={"include_usage": True},
            )
        )
        assert chunks[-1].usage is not None, "the stream broke off"
        assert chunks[-1].usage.completion_tokens == TOKENS


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    port = free_port()
    save_base(tmp_path / "mount", byte_tokenizer("<|end|>"))
    container = Container(tmp_path, port)
    yield container
    if container.process is not None and container.process.poll() is None:
        # The first process ends its children, which the end of a real container would do.
        container.process.send_signal(signal.SIGTERM)
        container.process.send_signal(signal.SIGTERM)
        container.process.wait(60)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux shows a process's children")
def test_no_request_fails_and_no_stream_breaks_across_six_changes(container: Container) -> None:
    container.release(1)
    container.release(2, web__pages="\n# other server code\n")
    container.release(3, web__chat__page="\nimport a_module_that_does_not_exist\n")
    container.release(4, service__answer="\n# other server code\n")
    container.release(5, engines__protocol="\n# other engine code\n")
    container.release(6, engines__protocol="\n# other engine code\n", web__api="\n# and server code\n")
    # It starts, and builds its chat page; only completions fail.
    container.release(
        7, engines__protocol="\n# other engine code\n", service__service="\nService.begin = None\n"
    )
    container.start(1)
    container.wait_for(ready=True)
    engines = container.engines()
    streams = Streams(f"http://127.0.0.1:{container.port}")
    threads = [threading.Thread(target=streams.run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        for number in (2, 3, 4, 5, 7, 6):
            container.want(number)
            if number == 3:
                failed = container.wait_for(wanted_release=release_id(3), last_error=lambda error: error)
                assert "a_module_that_does_not_exist" in failed["last_error"]
                assert failed["release"] == release_id(2)
            elif number == 7:
                failed = container.wait_for(wanted_release=release_id(7), last_error=lambda error: error)
                assert "answers no completion: status 500" in failed["last_error"]
                assert failed["release"] == release_id(5)
            else:
                container.wait_for(release=release_id(number), ready=True, last_error=None)
            if number == 4:
                assert container.engines() == engines, "the model stays while only server code changes"
    finally:
        streams.is_over.set()
        for thread in threads:
            thread.join()
    assert streams.failures == []
    assert streams.complete >= CLIENTS
    # The first engine has ended with its last server, and a change of server code has kept the second one.
    deadline = time.monotonic() + 30
    while len(container.engines()) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert container.engines() != engines
    assert container.process is not None
    container.process.send_signal(signal.SIGTERM)
    assert container.process.wait(60) == 0


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux shows a process's children")
def test_a_crashed_engine_ends_its_requests_with_503_and_is_loaded_again(container: Container) -> None:
    container.release(1)
    container.start(1)
    container.wait_for(ready=True)
    (engine,) = container.engines()
    address = f"http://127.0.0.1:{container.port}/v1"
    with openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client:
        stream = client.completions.create(
            model=BASE, prompt="Hello", max_tokens=400, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        os.kill(engine, signal.SIGKILL)
        with pytest.raises(openai.APIError):
            list(stream)
        container.wait_for(ready=lambda ready: not ready)
        with pytest.raises(openai.APIStatusError) as refused:
            client.completions.create(model=BASE, prompt="Hello", max_tokens=2)
        assert refused.value.status_code == 503
        before = container.wait_for(ready=True)
        assert container.engines() != {engine}
        # The server stayed, and serves the new engine.
        assert client.completions.create(model=BASE, prompt="Hello", max_tokens=2).usage is not None
    assert container.version()["started_at"] == before["started_at"]

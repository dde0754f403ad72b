from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inference.settings import Settings
from inference.supervisor import releases
from inference.supervisor import supervisor as module
from inference.supervisor.forks import Forks  # noqa: TC001 - the fields of a dataclass
from inference.supervisor.launcher import ReleaseLauncher
from inference.supervisor.releases import fetch_release
from inference.supervisor.supervisor import Replica, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ONE, TWO, THREE = (f"2026010{number}T000000Z-0000000{number}" for number in (1, 2, 3))
FAKE = Path(__file__).parents[3] / "doubles" / "fake_server.py"
PATIENCE_S = 60.0


class FakeLauncher(ReleaseLauncher):
    """The real launcher, with nothing to install."""

    def install_first(self) -> Path | None:
        return None


@dataclass
class Container:
    """A supervisor in this process, on a share in a temporary folder, with releases of a fake server."""

    mount: Path
    listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    task: asyncio.Task[int] | None = None
    forks: Forks | None = None
    stop_timeout_s: float = 20.0
    environ: dict[str, str] = field(default_factory=dict)

    def release(self, name: str, behaviour: str = "serves", **files: str) -> None:
        """Put a release on the share."""
        folder = self.mount / "releases" / name
        contents = {
            "inference/__init__.py": "", "inference/behaviour": behaviour,
            "inference/server.py": FAKE.read_text(), "inference/supervisor/__main__.py": "",
        } | {path.replace("__", "/") + ".py": text for path, text in files.items()}  # fmt: skip
        for path, text in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        entries = [
            {"path": path, "size": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
            for path, text in contents.items()
        ]
        (folder / "release.json").write_text(json.dumps({"files": entries}))

    def want(self, name: str) -> None:
        """Name a release in `CURRENT`."""
        (self.mount / "CURRENT").write_text(f"{name}\n")

    async def start(self, name: str) -> None:
        """Start the supervisor on a release, and wait until it serves."""
        self.want(name)
        environ = {"PATH": os.environ["PATH"]} | self.environ
        launcher = FakeLauncher(Settings(mount=self.mount), environ, self.forks)
        supervisor = Supervisor(
            launcher, self.listener, self.mount, Replica("0", "rev", "rep", "t"), self.stop_timeout_s
        )
        folder = await asyncio.to_thread(fetch_release, self.mount, name)
        self.task = asyncio.create_task(supervisor.run(name, folder))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}{path}"

    async def ask(self, path: str = "/") -> dict[str, Any]:
        """Return the answer of whoever answers."""

        def get() -> dict[str, Any]:
            try:
                with urllib.request.urlopen(self.url(path), timeout=PATIENCE_S) as response:
                    document = json.loads(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    document = json.loads(error.read())
            assert isinstance(document, dict)
            return document

        return await asyncio.to_thread(get)

    async def begin(self) -> asyncio.Task[dict[str, Any]]:
        """Ask the server that runs for an answer, which ends when it retires, and wait for the beginning."""

        def begin() -> http.client.HTTPResponse:
            while True:
                try:
                    response = urllib.request.urlopen(self.url("/slow"), timeout=PATIENCE_S)
                except urllib.error.HTTPError as error:
                    error.close()  # the supervisor's page answers as long as both accept
                else:
                    assert isinstance(response, http.client.HTTPResponse)
                    return response

        def finish(response: http.client.HTTPResponse) -> dict[str, Any]:
            with response:
                document = json.loads(response.read())
            assert isinstance(document, dict)
            return document

        return asyncio.create_task(asyncio.to_thread(finish, await asyncio.to_thread(begin)))

    async def until(self, holds: Callable[[dict[str, Any]], bool], path: str = "/version") -> dict[str, Any]:
        """Ask until an answer is as it should be."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                assert self.task is not None
                assert not self.task.done(), self.task.result()
                document = await self.ask(path)
                if holds(document):
                    return document
                await asyncio.sleep(0.01)

    async def serving(self, name: str) -> dict[str, Any]:
        """Wait until a release's server answers."""
        return await self.until(lambda document: "pid" in document and document["release"] == name)

    async def crash(self) -> None:
        """End the server. The supervisor may answer before it, in the moment in which both accept."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self.ask("/crash")
                except OSError:  # the connection is cut, in one way or another
                    return

    async def end(self) -> int:
        assert self.task is not None
        async with asyncio.timeout(PATIENCE_S):
            return await self.task


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Container]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(module, "CHECK_S", 0.05)
    monkeypatch.setattr(releases, "PAUSE_S", 0.01)
    (tmp_path / "mount").mkdir()
    container = Container(tmp_path / "mount")
    yield container
    container.listener.close()

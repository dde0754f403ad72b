"""A server in another process and environment, as the tests of clients use it. Needs Python alone.

The environments of those tests have the client and pytest, and none of the project's packages: the server
runs with another interpreter, which the variable `CLIENTS_SERVER_PYTHON` names.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SERVER_PYTHON = os.environ.get("CLIENTS_SERVER_PYTHON")


class Server:
    """A server in a process of its own, and how a test controls it."""

    def __init__(self, address: str, folder: Path | None) -> None:
        self.address = address
        self.folder = folder
        self.url = f"{address}/v1"

    def script(self, *answers: str, model: str = "hermes") -> None:
        """Let the next requests be answered with these texts, and forget what came before."""
        self.control("script", {"answers": answers, "model": model})

    def requests(self) -> list[dict[str, Any]]:
        """Return what the engine was given since the answers were scripted."""
        found: list[dict[str, Any]] = self.control("requests")
        return found

    def prompts(self) -> list[str]:
        """Return the prompts of the requests since the answers were scripted."""
        return [request["prompt"] for request in self.requests()]

    def control(self, name: str, body: Any = None) -> Any:
        """Send a request to one of the control routes, and return the answer."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.address}/control/{name}", data, timeout=60) as response:
            return json.load(response)


@contextmanager
def running(kind: str, folder: Path | None = None) -> Iterator[Server]:
    """Run a server until the end of the block."""
    assert SERVER_PYTHON is not None
    command = [SERVER_PYTHON, "-m", "tests.doubles.client_server", kind]
    if folder is not None:
        command.append(str(folder))
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the server did not start; its messages are above"
        yield Server(address, folder)
        process.stdin.close()
        assert process.wait(120) == 0


def call_text(name: str, **arguments: Any) -> str:
    """Return what a model of the family of Hermes writes to call a function."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"

"""The page that answers while nobody else does."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from typing import Any

from inference.supervisor.page import StartingPage


def test_the_page_answers_while_nobody_else_does() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def ask(path: str, body: bytes | None = None) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(address + path, body, timeout=10) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    document = {"release": "r1", "phase": "installing packages", "percent": 10, "ready": False}
    with listener:
        with StartingPage(listener, lambda: document):
            assert ask("/healthz") == (200, {"status": "ok"})
            assert ask("/version") == (200, document)
            progress = {"status": "starting", "phase": "installing packages", "percent": 10}
            assert ask("/readyz") == (503, progress)
            assert ask("/v1/chat/completions", b"{}")[0] == 503
        # The socket is still open, for the server that follows.
        with StartingPage(listener, lambda: document):
            assert ask("/healthz")[0] == 200

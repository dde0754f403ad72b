"""The page that answers while nobody else does."""

from __future__ import annotations

import json
import socket
import threading
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


def test_the_page_closes_while_another_server_takes_its_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, listener.dup() as other:
        address = listener.getsockname()
        for _ in range(20):
            page, rival = (StartingPage(each, dict) for each in (listener, other))
            page.open()
            rival.open()
            for _ in range(10):
                # Each of them wakes up for it, and one gets it.
                socket.create_connection(address, timeout=10).close()
            closing = [threading.Thread(target=each.close, daemon=True) for each in (page, rival)]
            for each in closing:
                each.start()
            for each in closing:
                each.join(10)
            assert not any(each.is_alive() for each in closing)

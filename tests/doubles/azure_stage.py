"""A stage on Azure for tests: its configuration, and an HTTP server in place of its app."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.az.errors import ErrorCause, NotFoundError
from infra.config.endpoint import InferenceConfig, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.session import Session


REPOSITORY = Path(__file__).resolve().parents[2]
SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
CONFIG = InferenceConfig(SUBSCRIPTION, "my-rg", "acct", "share", "app", "http://127.0.0.1:9")
GONE = NotFoundError("the resource does not exist", ErrorCause("ResourceNotFound", "no"))
VERSION = {
    "release": "20260102T030405Z-abcdef01",
    "version": "0.1.0",
    "revision": "app--1",
    "replica": "app--1-aaa-bbb",
    "base_model": "org/base",
    "adapters": ["tuned"],
    "ready": True,
}


@contextmanager
def server(body: Any, status: int = 200) -> Iterator[str]:
    """Serve one answer at every path, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            payload = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(body, bytes) else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class's name
            del format, arguments

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def serve_at(session: Session, endpoint: str) -> None:
    write_config(session.stage.config_path, replace(CONFIG, aca_app_endpoint=endpoint))

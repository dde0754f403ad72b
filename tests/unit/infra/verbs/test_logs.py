"""What `invoke logs` prints, from a real server of log streams that drops its connections."""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from infra.config.endpoint import InferenceConfig, write_config
from infra.config.stage import Stage
from infra.console import Console
from infra.errors import RemoteError, UsageError
from infra.process import Runner
from infra.resources import log_streams
from infra.session import Session
from infra.verbs.logs import follow_logs, parse_kinds, read_logs
from tests.doubles.scripted_az import ScriptedAz

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


CONFIG = InferenceConfig("s", "rg", "acct", "share", "app", "app.example.io")


def test_kinds() -> None:
    assert parse_kinds("all") == ("console", "system")
    with pytest.raises(UsageError) as caught:
        parse_kinds("sytem")
    assert str(caught.value) == (
        "error: --kind 'sytem' is not possible; did you mean system?\nhint: use all, console, system"
    )


class LogServer:
    """Serve the two kinds of stream; a followed one ends after some lines, as a dropped connection does."""

    def __init__(self, answer: Callable[[str, dict[str, list[str]], str], tuple[int, list[Any]]]) -> None:
        outer = self
        self.requests: list[tuple[str, dict[str, list[str]]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = parse_qs(url.query)
                outer.requests.append((url.path, query))
                status, lines = answer(url.path, query, self.headers["Authorization"])
                body = "".join(json.dumps(line) + "\n" for line in lines).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class's name
                del format, arguments

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"

    def close(self) -> None:
        self.httpd.shutdown()
        self.thread.join()
        self.httpd.server_close()


def console_line(second: int, text: str) -> dict[str, str]:
    return {"TimeStamp": f"2026-01-01T00:00:{second:02}.0000000+00:00", "Log": text}


@pytest.fixture
def session(tmp_path: Path) -> Session:
    stage = Stage("azure", "azure", None, None, None, (), tmp_path / "config.json", tmp_path / "state")
    write_config(stage.config_path, CONFIG)
    az = ScriptedAz({}, tmp_path)
    return Session(tmp_path, stage, Console(io.StringIO()), Runner({}, tmp_path), az, None, None)


@pytest.fixture
def serve(session: Session) -> Iterator[Callable[..., LogServer]]:
    servers: list[LogServer] = []

    def start(answer: Callable[..., tuple[int, list[Any]]]) -> LogServer:
        server = LogServer(answer)
        servers.append(server)
        container: Any = {"properties": {"containers": [{"name": "inference"}]}}
        properties: Any = {
            "eventStreamEndpoint": f"{server.url}/subscriptions/s/and/so/on/eventstream",
            "latestRevisionName": "app--1",
        }
        replicas: Any = [{"name": f"app--1-a-{name}", **container} for name in ("one", "two")]
        assert isinstance(session.az, ScriptedAz)
        session.az.answers |= {
            "containerapp show": {"properties": properties},
            "rest": {"properties": {"token": "the-token"}},
            "containerapp replica list": replicas,
        }
        return server

    yield start
    for server in servers:
        server.close()


CONSOLE = (
    "/subscriptions/s/resourceGroups/rg/containerApps/app/revisions/app--1"
    "/replicas/{}/containers/inference/logstream"
)


def test_the_past_of_all_replicas_and_of_the_platform_in_order(session: Session, serve: Any) -> None:
    def answer(path: str, _: dict[str, list[str]], token: str) -> tuple[int, list[Any]]:
        assert token == "Bearer the-token"
        if path.endswith("/eventstream"):
            return 200, [
                {"TimeStamp": "2026-01-01 00:00:02 +0000 UTC", "Reason": "Started", "Msg": "it runs"}
            ]
        return 200, [console_line(1, "early"), console_line(3, "late")] if "one" in path else [
            console_line(2, "two")
        ]

    server = serve(answer)
    records = read_logs(session, tail=7, kinds=("console", "system"))
    assert [record.text for record in records] == ["early", "two", "Started: it runs", "late"]
    query = {"follow": ["false"], "output": ["json"], "tailLines": ["7"]}
    assert server.requests[:2] == [
        (CONSOLE.format("app--1-a-one"), query),
        (CONSOLE.format("app--1-a-two"), query),
    ]
    assert read_logs(session, tail=7, kinds=("system",)) == (records[2],)


def test_a_replica_that_has_just_gone_has_nothing_to_say(session: Session, serve: Any) -> None:
    serve(lambda *_: (404, []))
    assert read_logs(session, tail=7, kinds=("console",)) == ()


def test_a_log_that_is_refused_is_an_error(session: Session, serve: Any) -> None:
    serve(lambda *_: (403, []))
    with pytest.raises(RemoteError) as caught:
        read_logs(session, tail=7, kinds=("console",))
    assert str(caught.value) == "error: the console log cannot be read: HTTP 403"


def test_more_of_the_past_than_there_is_cannot_be_had(session: Session) -> None:
    with pytest.raises(UsageError) as caught:
        read_logs(session, tail=301, kinds=("console",))
    assert (
        str(caught.value)
        == "error: --tail 301 is not possible\nhint: a stream gives 0 to 300 lines of its past"
    )


def test_a_followed_stream_is_opened_again_and_repeats_nothing(
    session: Session, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_streams, "_RECONNECT_PAUSE_S", 0.01)
    written = [console_line(1, "first"), console_line(2, "second"), console_line(3, "third")]
    opened = iter(range(1, 1000))

    def answer(path: str, query: dict[str, list[str]], _: str) -> tuple[int, list[Any]]:
        if "two" in path:
            return 500, []
        assert query["follow"] == ["true"]
        return 200, written[: next(opened)]

    server = serve(answer)
    followed = follow_logs(session, tail=1, kinds=("console",))
    assert [record.text for record in islice(followed, 3)] == ["first", "second", "third"]
    tails = [query["tailLines"] for path, query in server.requests if "one" in path]
    assert tails[:3] == [["1"], ["300"], ["300"]]
    followed.close()


def test_the_address_of_the_logs_must_be_known(session: Session) -> None:
    assert isinstance(session.az, ScriptedAz)
    session.az.answers |= {"containerapp": {}, "rest": {}, "containerapp replica list": []}
    with pytest.raises(RemoteError, match="Azure does not tell where the logs of 'app' are"):
        read_logs(session, tail=1, kinds=("console",))

"""The page that answers while nobody else does."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from inference.supervisor.page import StartingPage

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """The address of a page."""
    document = {"release": "r1", "phase": "installing packages", "percent": 10, "ready": False}
    with socket.create_server(("127.0.0.1", 0)) as listener, StartingPage(listener, lambda: document):
        yield listener.getsockname()


def send(
    address: tuple[str, int], method: str, path: str, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Return the status, the headers and the body of an answer."""
    connection = http.client.HTTPConnection(*address, timeout=10)
    body = headers.pop("body", None)
    connection.request(method, path, body, headers)
    with connection.getresponse() as response:
        return response.status, dict(response.getheaders()), response.read()


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/version", "/v1/models", "/version?x=1"])
def test_a_head_is_a_get_without_the_body(address: tuple[str, int], path: str) -> None:
    status, headers, body = send(address, "GET", path)
    assert int(headers["Content-Length"]) == len(body) > 0
    without = send(address, "HEAD", path)
    assert (without[0], without[2]) == (status, b"")
    dates = {"Date": "", **headers}
    assert {**without[1], "Date": ""} == {**dates, "Date": ""}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/chat/completions", "/v1/nothing"])
def test_who_comes_too_early_is_told_when_to_try_again(
    address: tuple[str, int], method: str, path: str
) -> None:
    status, headers, body = send(address, method, path)
    assert (status, headers["Retry-After"]) == (503, "5")
    if method != "HEAD":
        assert json.loads(body)["error"] == {
            "message": "The server takes no requests now (installing packages, 10 %). Try again shortly.",
            "type": "server_error", "param": None, "code": "starting",
        }  # fmt: skip


def test_a_browser_gets_a_page_that_reloads_itself(address: tuple[str, int]) -> None:
    status, headers, body = send(address, "GET", "/")
    assert (status, headers["Retry-After"]) == (503, "2")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert b'<meta http-equiv="refresh" content="2">' in body
    assert b"Installing packages." in body


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/version"])
def test_what_can_only_be_read_takes_no_other_method(address: tuple[str, int], path: str) -> None:
    status, headers, body = send(address, "POST", path, body="{}")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"


def say(address: tuple[str, int], request: bytes) -> bytes:
    """Send bytes, and return the whole answer."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
        return answer


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: abc\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: " + b"9" * 5000 + b"\r\nExpect: 100-continue\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"",
    ],
)
def test_a_body_of_any_form_gets_its_answer(address: tuple[str, int], head: bytes) -> None:
    answer = say(address, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
    assert answer.startswith(b"HTTP/1.0 503 "), answer
    assert b"\r\nRetry-After: 5\r\n" in answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"BREW / HTTP/1.1", 501), (b"GET / HTTP/x", 400), (b"GET", 400)],
)
def test_what_is_no_request_is_refused_in_the_api_s_form(
    address: tuple[str, int], request_line: bytes, status: int
) -> None:
    head, _, body = say(address, request_line + b"\r\n\r\n").partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert json.loads(body)["error"]["code"] == "invalid_http"
    assert b"Python" not in head

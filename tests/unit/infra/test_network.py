"""What is in the way of an address: a name, a port, a certificate, a rule, a proxy; over real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
import urllib.error
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trustme

from infra.az.app import fetch_version
from infra.az.revision import NoResponse
from infra.network import NotHttpError, Unreachable, explain_failure, open_url, read_error
from infra.verbs.status import NoVersion
from infra.verbs.status import fetch_version as find_version
from localcloud.runtime.sockets import free_port
from tests.doubles.azure_stage import server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

APP = "https://app.example"
AZURES_PAGE = b"<h1>Error 404 - This Container App is stopped or does not exist.</h1>"
DENIED = b"RBAC: access denied"
PATIENCE_S = 30.0


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept connections on a port of this machine, and answer each."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    answer(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def proxy(status: bytes) -> Callable[[socket.socket], None]:
    """Return what answers each CONNECT with a status."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")

    return answer


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def ask(url: str) -> Unreachable | None:
    """Return what is in the way of an app's `/version`."""
    answer = fetch_version(url, timeout_s=60)
    assert isinstance(answer, NoResponse)
    return answer.unreachable


@pytest.mark.parametrize(
    ("status", "body", "obstacle", "reason"),
    [
        (403, DENIED, "forbidden", "HTTP 403: RBAC: access denied"),
        (403, b"<html><p>Blocked by policy</p></html>", "forbidden", "HTTP 403"),
        (407, b"", "proxy-sign-in", "HTTP 407"),
        (511, b"Sign in to the Wi-Fi", "forbidden", "HTTP 511: Sign in to the Wi-Fi"),
        (404, AZURES_PAGE, "hidden", "Azure answered that there is no such app in this network (HTTP 404)"),
        (200, b"<html>Welcome to the hotel</html>", "foreign", "/version does not answer with JSON"),
        (200, b"[]", "foreign", "/version does not answer with a JSON object"),
    ],
)
def test_a_response_that_is_not_the_apps(status: int, body: bytes, obstacle: str, reason: str) -> None:
    with server(body, status) as url:
        found = ask(url)
    assert found is not None
    assert (found.obstacle, found.reason) == (obstacle, reason)
    assert found.hint


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, b"no ready replica"), (500, b""), (404, b"Not Found"), (504, b"stream timeout")],
)
def test_a_response_of_the_app_or_its_ingress(status: int, body: bytes) -> None:
    with server(body, status) as url:
        assert ask(url) is None


def test_a_port_at_which_nobody_listens() -> None:
    assert ask(f"http://127.0.0.1:{free_port()}") == Unreachable("refused", "the connection was refused")


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert ask(APP) == Unreachable("dns", "the name app.example cannot be resolved")


def test_a_connection_that_takes_too_long() -> None:
    error = urllib.error.URLError(TimeoutError("timed out"))
    assert explain_failure(APP, error) == Unreachable("timeout", "there was no connection in time")
    # Not this one: there was a connection, and the app did not answer.
    assert explain_failure(APP, TimeoutError("timed out")) is None


def test_a_server_that_hangs_up_or_does_not_speak_http_is_reached() -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.recv(1)

    with listening(hang_up) as port:
        assert ask(f"http://127.0.0.1:{port}") is None
    with listening(lambda connection: connection.sendall(b"SSH-2.0\r\n")) as port:
        assert ask(f"http://127.0.0.1:{port}") is None


def test_a_certificate_of_an_authority_that_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    def answer(connection: socket.socket) -> None:
        with pytest.raises(OSError):  # noqa: PT011 - the client refuses the certificate, in one way or another
            context.wrap_socket(connection, server_side=True)

    with listening(answer) as port:
        found = ask(f"https://localhost:{port}")
    assert found is not None
    assert found.obstacle == "tls"
    assert found.reason.startswith("its certificate is not accepted: ")
    assert "REQUESTS_CA_BUNDLE" in found.hint
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "gone.pem"))
    expected = f"the certificates in {tmp_path}/gone.pem cannot be read: No such file or directory"
    assert ask("https://localhost:1") == Unreachable("tls", expected)


@pytest.mark.parametrize(
    ("status", "obstacle"),
    [
        (b"407 Proxy Authentication Required", "proxy-sign-in"),
        (b"403 Forbidden", "proxy"),
        (b"502 Bad Gateway", "proxy"),
    ],
)
def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch, status: bytes, obstacle: str) -> None:
    with listening(proxy(status)) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://ida:secret@127.0.0.1:{port}")
        found = ask(APP)
    number = status[:3].decode()
    assert found is not None
    assert (found.obstacle, found.reason) == (obstacle, f"the proxy 127.0.0.1:{port} answered {number}")
    assert "HTTPS_PROXY" in found.hint


def test_a_proxy_that_does_not_run_or_speaks_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    refused = "the connection was refused (through the proxy 127.0.0.1:1)"
    assert ask(APP) == Unreachable("proxy", refused)
    with listening(lambda connection: connection.close()) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        found = ask(APP)
    assert found is not None
    assert found.obstacle == "proxy"


def test_no_proxy_is_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with server({"release": "r"}) as url:
        assert not isinstance(fetch_version(url), NoResponse)


def test_what_does_not_speak_http_fails_like_any_connection() -> None:
    with listening(lambda connection: connection.sendall(b"SSH-2.0\r\n")) as port:
        with pytest.raises(NotHttpError, match="does not speak HTTP"):
            open_url(f"http://127.0.0.1:{port}", timeout_s=PATIENCE_S)
        reason = find_version(f"http://127.0.0.1:{port}").reason  # type: ignore[union-attr]  # there is no version
    assert reason.startswith("the endpoint does not answer: what answers does not speak HTTP")


def test_an_error_that_is_cut_off_has_no_body() -> None:
    def cut_off(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 100\r\n\r\nupstr")

    with listening(cut_off) as port:
        with pytest.raises(urllib.error.HTTPError) as caught:
            open_url(f"http://127.0.0.1:{port}", timeout_s=PATIENCE_S)
        assert read_error(caught.value) in {b"", b"upstr"}
        answer = find_version(f"http://127.0.0.1:{port}")
    assert answer == NoVersion("the endpoint answers with HTTP 504")

"""The clients of other libraries use the certificates and the proxies of the environment."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from typing import TYPE_CHECKING, Any

import huggingface_hub
import pytest
import trustme

from benchmarks.load import Target
from benchmarks.load import list_models as list_with_aiohttp
from infra.console import Console
from infra.errors import RemoteError, UsageError
from infra.evaluation.asking import Endpoint, list_models, trusted_certificates
from infra.models.hub import download_base

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROXY_THAT_DOES_NOT_RUN = "http://127.0.0.1:1"


class Models(http.server.BaseHTTPRequestHandler):
    """Lists one model."""

    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": [{"id": "mine", "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with a certificate of an authority that only the environment names; its proxy is down."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("NO_PROXY", "no_proxy", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, PROXY_THAT_DOES_NOT_RUN)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Models)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"https://localhost:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_an_evaluation_trusts_what_the_environment_names(url: str) -> None:
    assert await list_models(Endpoint(f"{url}/v1")) == ("mine",)


async def test_an_evaluation_trusts_nothing_else(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(RemoteError, match=r"(?i)certificate.verify.failed"):
        await list_models(Endpoint(f"{url}/v1"))


async def test_another_machine_is_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY_THAT_DOES_NOT_RUN)
    with pytest.raises(RemoteError, match=r"does not list its models: .*onnect"):
        await list_models(Endpoint("https://app.example/v1"))


async def test_a_benchmark_trusts_the_same(url: str) -> None:
    target = Target(url, (), tls=trusted_certificates())
    assert await list_with_aiohttp(target) == ("mine",)


def test_certificates_that_cannot_be_read_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(UsageError, match=r"/nowhere/ca\.pem cannot be read"):
        trusted_certificates()


def test_a_download_from_the_hub_trusts_the_same(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories: list[Any] = []
    monkeypatch.setattr(huggingface_hub, "set_client_factory", factories.append)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert download_base("org/name", Console()) == tmp_path
    (make,) = factories
    monkeypatch.setenv("NO_PROXY", "localhost")
    with make() as client:
        assert client.get(f"{url}/v1/models").json()["data"][0]["id"] == "mine"

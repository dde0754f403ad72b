"""Open HTTP addresses: one configuration of TLS and proxies for every request of the pipeline.

`HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` apply, but not to this machine itself. The certificates to trust
are those of `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`, as for az and the Azure SDKs, else the system's (for
which OpenSSL reads `SSL_CERT_FILE`). So where az works behind an inspecting proxy, all verbs do.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

FAILURES: Final = (OSError, ValueError, http.client.HTTPException)
"""What a request can end with, from its address to the last byte of its response."""

Obstacle: TypeAlias = Literal[
    "dns", "refused", "timeout", "tls", "forbidden", "hidden", "proxy-sign-in", "proxy", "foreign", "network"
]
"""What keeps a request from an address."""

_HINTS: Final[dict[Obstacle, str]] = {
    "dns": "an app in an internal environment has a name in its own network only: run this there",
    "refused": "a firewall may be in between: run this where curl reaches the address",
    "timeout": "a firewall may be in between: run this where curl reaches the address",
    "tls": "behind a proxy that inspects TLS, REQUESTS_CA_BUNDLE has to name the file with its certificates",
    "forbidden": "allowedIpRanges, or a proxy, keeps this machine out: allow it, or run this elsewhere",
    "hidden": "the app has an internal ingress or environment: run this in its network",
    "proxy-sign-in": "put the user and the password into HTTPS_PROXY, or the host into NO_PROXY",
    "proxy": "correct HTTPS_PROXY, or put the host into NO_PROXY",
    "foreign": "a proxy or a sign-in page is in between: put the host into NO_PROXY, or run this elsewhere",
    "network": "run this where curl reaches the address",
}
_STATUSES: Final[dict[int, Obstacle]] = {
    401: "forbidden",
    403: "forbidden",
    407: "proxy-sign-in",
    511: "forbidden",
}
_HIDDEN_STATUS: Final = 404
_HIDDEN_WORDS: Final = b"Container App"
"""What the page contains with which Azure answers for an app that the caller's network has no access to.

Source: "Error 404 - This Container App is stopped or does not exist", in "Troubleshoot ingress issues on
Azure Container Apps"."""

_TUNNEL: Final = re.compile(r"Tunnel connection failed: (\d+)")
_SHOWN_LETTERS: Final = 60


class NotHttpError(OSError):
    """A response that is not of HTTP."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Why an address cannot be reached from this machine, which says nothing about the app behind it.

    Attributes:
        obstacle: What is in the way, for machines.
        reason: The same for people, as a clause.
    """

    obstacle: Obstacle
    reason: str

    @property
    def hint(self) -> str:
        """Return what to do about it."""
        return _HINTS[self.obstacle]


def explain_failure(url: str, error: Exception) -> Unreachable | None:
    """Return what kept a request from reaching an address; None if the failure is that of the server.

    urllib wraps what fails until the request is sent. What fails later is raised as it is: the server was
    reached, and did not answer.

    Args:
        url: The address.
        error: What `open_url` has raised.
    """
    if isinstance(error, ssl.SSLError):
        return Unreachable("tls", str(error))
    if not isinstance(error, urllib.error.URLError) or isinstance(error, urllib.error.HTTPError):
        return None
    proxy = _proxy_of(url)
    if tunnel := _TUNNEL.search(str(error.reason)):
        kind: Obstacle = "proxy-sign-in" if tunnel[1] == "407" else "proxy"
        return Unreachable(kind, f"the proxy {proxy} answered {tunnel[1]}")
    obstacle, what = _explain_connection(error.reason, proxy.partition(":")[0] or urlsplit(url).hostname)
    if not proxy:
        return Unreachable(obstacle, what)
    return Unreachable("tls" if obstacle == "tls" else "proxy", f"{what} (through the proxy {proxy})")


def _explain_connection(reason: object, host: str | None) -> tuple[Obstacle, str]:
    """Return why there is no connection with a host."""
    if isinstance(reason, socket.gaierror):
        return "dns", f"the name {host} cannot be resolved"
    if isinstance(reason, ssl.SSLError):
        what = getattr(reason, "verify_message", "") or str(reason)
        return "tls", f"its certificate is not accepted: {what}"
    if isinstance(reason, ConnectionRefusedError):
        return "refused", "the connection was refused"
    if isinstance(reason, TimeoutError):
        return "timeout", "there was no connection in time"
    return "network", str(reason)


def explain_status(status: int, body: bytes) -> Unreachable | None:
    """Return what kept a request from an app, by the status of the response; None if the app sent it.

    Args:
        status: The HTTP status.
        body: The beginning of the body.
    """
    if status == _HIDDEN_STATUS and _HIDDEN_WORDS in body:
        return Unreachable("hidden", "Azure answered that there is no such app in this network (HTTP 404)")
    obstacle = _STATUSES.get(status)
    if obstacle is None:
        return None
    words = body.decode(errors="replace").strip().splitlines()
    said = f": {words[0]}" if words and len(words[0]) <= _SHOWN_LETTERS and "<" not in words[0] else ""
    return Unreachable(obstacle, f"HTTP {status}{said}")


def _proxy_of(url: str) -> str:
    """Return the host and port of the proxy for an address, without a password; empty if there is none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in _LOOPBACK or urllib.request.proxy_bypass(host):
        return ""
    proxy = urllib.request.getproxies().get(parts.scheme, "")
    return proxy.rpartition("@")[2].rpartition("//")[2].rstrip("/")


def is_on_this_machine(url: str) -> bool:
    """Return whether an address is of this machine, which no proxy is asked for."""
    return urlsplit(url).hostname in _LOOPBACK


def open_url(
    url: str,
    *,
    timeout_s: float,
    headers: Mapping[str, str] | None = None,
    ca_bundle: Path | None = None,
    data: bytes | None = None,
) -> http.client.HTTPResponse:
    """Send a GET request, or a POST request with `data`. Return the response, whose body is not read yet.

    Args:
        url: An address of http or https.
        timeout_s: How long each wait for data may take.
        headers: Further headers.
        ca_bundle: The certificates to trust; None for the environment's, else the system's.
        data: The body of a POST request.

    Raises:
        urllib.error.HTTPError: The status is 400 or above.
        OSError: There is no connection.
        NotHttpError: What answers, a server or a proxy, does not speak HTTP. It is an OSError.
    """
    request = urllib.request.Request(url, data, dict(headers or {}))  # noqa: S310  # the scheme is the config's
    try:
        return cast("http.client.HTTPResponse", make_opener(url, ca_bundle).open(request, timeout=timeout_s))
    except http.client.HTTPException as error:
        raise NotHttpError(f"what answers does not speak HTTP ({error!r})") from error


def read_error(error: urllib.error.HTTPError, size_bytes: int = -1) -> bytes:
    """Return the body of an error response; empty if the connection ends before."""
    with error:
        try:
            return error.read(size_bytes)
        except (OSError, http.client.HTTPException):
            return b""


def make_opener(url: str, ca_bundle: Path | None = None) -> urllib.request.OpenerDirector:
    """Return what opens the addresses of one host. Making it reads the certificates, which takes 20 ms.

    Args:
        url: An address of that host.
        ca_bundle: The certificates to trust; None for the environment's, else the system's.

    Raises:
        OSError: The certificates cannot be read.
    """
    proxies: dict[str, str] | None = {} if is_on_this_machine(url) else None
    return urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=tls_context(ca_bundle))
    )


def has_own_certificates() -> bool:
    """Return whether the environment names the certificates to trust."""
    return any(os.environ.get(name) for name in _BUNDLES)


def tls_context(ca_bundle: Path | None = None) -> ssl.SSLContext:
    """Return the TLS configuration: the certificates to trust, from a file or as the module says.

    Raises:
        ssl.SSLError: The file cannot be read, or has no certificates. It is an OSError.
    """
    given = ca_bundle or next((os.environ[name] for name in _BUNDLES if os.environ.get(name)), None)
    try:
        if given is not None and os.path.isdir(given):  # noqa: PTH112  # a text of the environment
            return ssl.create_default_context(capath=given)
        return ssl.create_default_context(cafile=given)
    except OSError as error:
        what = f"the certificates in {given} cannot be read: {error.strerror or error}"
        raise ssl.SSLError(error.errno or 0, what) from error

"""Open HTTP addresses: one configuration of TLS and proxies for every request of the pipeline.

`HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` apply, but not to this machine itself. The certificates to trust
are those of `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`, as for az and the Azure SDKs, else the system's (for
which OpenSSL reads `SSL_CERT_FILE`). So where az works behind an inspecting proxy, all verbs do.
"""

from __future__ import annotations

import os
import ssl
import urllib.request
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import http.client
    from collections.abc import Mapping
    from pathlib import Path

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


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
    """
    request = urllib.request.Request(url, data, dict(headers or {}))  # noqa: S310  # the scheme is the config's
    return cast("http.client.HTTPResponse", make_opener(url, ca_bundle).open(request, timeout=timeout_s))


def make_opener(url: str, ca_bundle: Path | None = None) -> urllib.request.OpenerDirector:
    """Return what opens the addresses of one host. Making it reads the certificates, which takes 20 ms.

    Args:
        url: An address of that host.
        ca_bundle: The certificates to trust; None for the environment's, else the system's.

    Raises:
        OSError: The certificates cannot be read.
    """
    proxies: dict[str, str] | None = {} if urlsplit(url).hostname in _LOOPBACK else None
    return urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=tls_context(ca_bundle))
    )


def tls_context(ca_bundle: Path | None = None) -> ssl.SSLContext:
    """Return the TLS configuration: the certificates to trust, from a file or as the module says.

    Raises:
        OSError: The file cannot be read.
    """
    given = ca_bundle or next((os.environ[name] for name in _BUNDLES if os.environ.get(name)), None)
    if given is not None and os.path.isdir(given):  # noqa: PTH112  # a text of the environment
        return ssl.create_default_context(capath=given)
    return ssl.create_default_context(cafile=given)

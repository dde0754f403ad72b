"""The certificate authority of a state directory, which stays the same across restarts.

The authority's key never leaves the state directory. The leaf certificate, valid for `localhost` and
`127.0.0.1` only, is new at every start.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Final

import trustme

if TYPE_CHECKING:
    from pathlib import Path

_KEY_FILE: Final = "ca.key"
_CERTIFICATE_FILE: Final = "ca.pem"


def ca_bundle(state: Path) -> Path:
    """Return the path of the authority's certificate, for REQUESTS_CA_BUNDLE."""
    return state / _CERTIFICATE_FILE


def server_context(state: Path) -> ssl.SSLContext:
    """Return the TLS context of the listener; create the authority in `state` if it is missing."""
    authority = _load(state) or _create(state)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


def _load(state: Path) -> trustme.CA | None:
    try:
        certificate = ca_bundle(state).read_bytes()
        key = (state / _KEY_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return trustme.CA.from_pem(certificate, key)


def _create(state: Path) -> trustme.CA:
    authority = trustme.CA(organization_name="Fjarr local cloud")
    _write_private(state / _KEY_FILE, authority.private_key_pem.bytes())
    # Written last: a crash in between leaves no certificate, and the next start creates a new pair.
    authority.cert_pem.write_to_path(str(ca_bundle(state)))
    return authority


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)

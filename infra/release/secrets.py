"""Recognise files with secrets, which must not be uploaded: private keys, tokens, environment files.

A share is read by every replica and kept with its releases: what was on it once is no secret any more. The
tokens are those whose publishers document a form that nothing else has.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

READ_BYTES: Final = 2_000_000
"""How much of a file is searched. Secrets are in small files; large ones are data."""

_NAMES: Final[tuple[tuple[str, str], ...]] = (
    ("id_rsa", "a private key of SSH"),
    ("id_dsa", "a private key of SSH"),
    ("id_ecdsa", "a private key of SSH"),
    ("id_ed25519", "a private key of SSH"),
    ("*.ppk", "a private key of PuTTY"),
    ("*.pfx", "a store of private keys"),
    ("*.p12", "a store of private keys"),
    ("*.jks", "a store of private keys"),
    ("*.keystore", "a store of private keys"),
    ("*.kdbx", "a store of passwords"),
    ("credentials.json", "credentials"),
    ("client_secret*.json", "credentials"),
)
_ENVIRONMENT: Final = re.compile(
    r".*\.env(?:\.(?!(?:.*\.)?(?:example|sample|template|dist|md|py|j2)$).+)?", re.IGNORECASE
)
"""`.env`, `prod.env`, `.env.local`; not what shows which variables there are, nor code."""

_CONTENT: Final[tuple[tuple[re.Pattern[bytes], str], ...]] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----\s+[A-Za-z0-9+/=:-]", "a private key"),
        (rb"\bhf_[A-Za-z0-9]{30,}\b", "a token of Hugging Face"),
        (rb"\bsk-(?:proj-|ant-[a-z0-9]+-|svcacct-)?[A-Za-z0-9_-]{32,}", "an API key of a model provider"),
        (rb"\bgh[pousr]_[A-Za-z0-9]{36,}\b", "a token of GitHub"),
        (rb"\bgithub_pat_[A-Za-z0-9_]{60,}\b", "a token of GitHub"),
        (rb"\bglpat-[A-Za-z0-9_-]{20,}", "a token of GitLab"),
        (rb"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b", "an access key of AWS"),
        (rb"\bAIza[A-Za-z0-9_-]{35}\b", "an API key of Google"),
        (rb"\bAccountKey=[A-Za-z0-9+/]{86}==", "a key of a storage account"),
        (rb"\bxox[abprs]-[A-Za-z0-9-]{10,}", "a token of Slack"),
        (rb"\bnpm_[A-Za-z0-9]{36}\b", "a token of npm"),
        (rb"\bpypi-AgE[A-Za-z0-9_-]{50,}", "a token of PyPI"),
    )
)


def is_environment_file(name: str) -> bool:
    """Return whether a name is that of a file of environment variables, such as `.env` or `prod.env`."""
    return _ENVIRONMENT.fullmatch(name) is not None


def why_secret(path: Path) -> str | None:
    """Return what makes a file a secret, without a part of it; None if it is not known to be one."""
    if is_environment_file(path.name):
        return "a file of environment variables"
    for pattern, reason in _NAMES:
        if fnmatchcase(path.name.casefold(), pattern):
            return reason
    with path.open("rb") as stream:
        content = stream.read(READ_BYTES)
    for form, reason in _CONTENT:
        if (match := form.search(content)) is not None:
            line = content.count(b"\n", 0, match.start()) + 1
            return f"{reason}, in line {line}"
    return None

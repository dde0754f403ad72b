"""SharedKey signatures: computed and verified as in Azure Storage.

Pure: it reads no clock and no socket.

Source: "Authorize with Shared Key" (Blob, Queue and File services, version 2009-09-19 and later), and the
order of canonical headers as the Azure SDK and the service compute it (see `header_order`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The standard headers of the string to sign, in order.
_STANDARD_HEADERS: Final = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)

#: Characters of a header name in the service's collation order. `%` and `_` have the same weight.
_COLLATION: Final = "!#$%&*.^`|~+0123456789abcdefghijklmnopqrstuvwxyz"
_WEIGHTS: Final = {character: weight for weight, character in enumerate(_COLLATION)} | {
    "_": _COLLATION.index("%")
}
#: Characters that are ignored unless two names are otherwise equal.
_WEIGHTLESS: Final = {"'": 0, "-": 1}


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The parts of a request that a SharedKey signature covers.

    Attributes:
        method: The HTTP method, upper case.
        raw_path: The path on the request line, still percent-encoded, without the query.
        query: Name and value pairs, still percent-encoded, in any order.
        headers: Name and value pairs, in any order and any case.
    """

    method: str
    raw_path: str
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]


def string_to_sign(request: SignedRequest, account: str) -> str:
    """Return the string that the account's key signs for this request."""
    values = {name.lower(): value.strip() for name, value in request.headers}
    if values.get("content-length") == "0":
        values["content-length"] = ""
    if "x-ms-date" in values:
        values["date"] = ""
    lines = [request.method, *(values.get(name, "") for name in _STANDARD_HEADERS)]
    return (
        "\n".join(lines)
        + "\n"
        + canonical_headers(request.headers)
        + canonical_resource(account, request.raw_path, request.query)
    )


def canonical_headers(headers: Iterable[tuple[str, str]]) -> str:
    """Return the `x-ms-` headers, one a line, in the service's order; repeated ones are joined by commas."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower().startswith("x-ms-"):
            found.setdefault(name.lower(), []).append(value.strip())
    return "".join(f"{name}:{','.join(found[name])}\n" for name in sorted(found, key=header_order))


def canonical_resource(account: str, raw_path: str, query: Iterable[tuple[str, str]]) -> str:
    """Return `/account` and the encoded path, then each query parameter, decoded, on its own line."""
    found: dict[str, list[str]] = {}
    for name, value in query:
        found.setdefault(unquote(name).lower(), []).append(unquote(value))
    lines = [f"\n{name}:{','.join(sorted(found[name]))}" for name in sorted(found)]
    return f"/{account}{raw_path}" + "".join(lines)


def header_order(name: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Return the sort key of a lower-case header name.

    The service collates like a dictionary: hyphens and apostrophes are ignored, `_` sorts before digits, and
    digits before letters. Between otherwise equal names the position of the hyphens decides, a later one
    first. Code point order differs for metadata such as `x-ms-meta-a_b` and `x-ms-meta-a1`.

    Raises:
        KeyError: for a character that is not allowed in an HTTP header name.
    """
    weights = tuple(_WEIGHTS[character] for character in name if character not in _WEIGHTLESS)
    ties = tuple(
        (-position, _WEIGHTLESS[character])
        for position, character in enumerate(name)
        if character in _WEIGHTLESS
    )
    return weights, ties


def sign(key: str, text: str) -> str:
    """Return the base64 HMAC-SHA256 of a text with a base64 account key.

    Raises:
        binascii.Error: the key is not base64.
    """
    digest = hmac.new(base64.b64decode(key), text.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
    return base64.b64encode(digest).decode("ascii")


def is_signed_by(keys: Sequence[str], text: str, signature: str) -> bool:
    """Return whether one of an account's keys gives this signature, compared in constant time."""
    given = signature.encode("utf-8", "surrogateescape")
    return any(hmac.compare_digest(sign(key, text).encode("ascii"), given) for key in keys)

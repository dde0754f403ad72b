"""Base64, data URIs, URIs, JSON, and the two hash functions for names."""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote, urljoin, urlsplit

from localcloud.errors import AzureError
from localcloud.template.errors import ExpressionError, function_error
from localcloud.template.jsonc import load_json
from localcloud.template.registry import OBJECT, STRING, function

if TYPE_CHECKING:
    from localcloud.template.values import Value

_GUID_NAMESPACE: Final = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")
_BASE32: Final = "abcdefghijklmnopqrstuvwxyz234567"
_MASK: Final = 0xFFFFFFFF
_DATA_URI: Final = re.compile(r"data:([^,]*?)(;base64)?,(.*)", re.DOTALL | re.IGNORECASE)


@function("base64", STRING)
def base64_(text: str) -> str:
    """Encode a string's UTF-8."""
    return base64.b64encode(text.encode()).decode()


@function("base64ToString", STRING)
def base64_to_string(text: str) -> str:
    """Decode to a string."""
    return _decode("base64ToString", text)


@function("base64ToJson", STRING)
def base64_to_json(text: str) -> Value:
    """Decode to a JSON value."""
    return json_(_decode("base64ToJson", text))


@function("json", STRING)
def json_(text: str) -> Value:
    """Read a JSON value."""
    try:
        return load_json(text)
    except AzureError:
        raise ExpressionError(
            "Unable to evaluate the template language function 'json'. "
            "The argument provided is not a valid JSON string."
        ) from None


@function("dataUri", STRING)
def data_uri(text: str) -> str:
    """Encode a string as a data URI."""
    return f"data:text/plain;charset=utf-8;base64,{base64_(text)}"


@function("dataUriToString", STRING)
def data_uri_to_string(uri: str) -> str:
    """Decode a data URI to a string."""
    match = _DATA_URI.match(uri)
    if match is None:
        raise function_error(
            f"The template language function 'dataUriToString' was invoked with '{uri}', which is no "
            "data URI."
        )
    return _decode("dataUriToString", match.group(3)) if match.group(2) else unquote(match.group(3))


@function("uri", STRING, STRING)
def uri_(base: str, relative: str) -> str:
    """Join a base URI and a relative one, as in RFC 3986."""
    if not urlsplit(base).scheme:
        raise ExpressionError(
            "The template language function 'uri' expects its first argument to be a uri string. "
            f"The provided value is '{base}'. "
            "Please see https://aka.ms/arm-function-datauri for usage details."
        )
    return urljoin(base, relative)


@function("uriComponent", STRING)
def uri_component(text: str) -> str:
    """Percent-encode a string for use in a URI."""
    return quote(text, safe="")


@function("uriComponentToString", STRING)
def uri_component_to_string(text: str) -> str:
    """Decode the percent-encoding of a URI."""
    return unquote(text)


@function("parseUri", STRING)
def parse_uri(text: str) -> Value:
    """Split a URI into scheme, host, port, path and query."""
    parts = urlsplit(text)
    if not parts.scheme or not parts.hostname:
        raise ExpressionError(
            f"The specified URL '{text}' is not valid 'Invalid URI: The format of the URI could not be "
            "determined.'."
        )
    query = {"query": f"?{parts.query}"} if parts.query else {}
    path = {"path": parts.path} if parts.path else {}
    return {"scheme": parts.scheme, "host": parts.hostname, "port": parts.port, **path, **query}


@function("buildUri", OBJECT)
def build_uri(parts: dict[str, Value]) -> str:
    """Build a URI from the parts that `parseUri` returns."""
    port = f":{parts['port']}" if parts.get("port") else ""
    path = "/" + str(parts.get("path") or "").removeprefix("/")
    query = str(parts.get("query") or "").removeprefix("?")
    start = f"{parts.get('scheme', 'https')}://{parts.get('host', '')}{port}{path}"
    return f"{start}?{query}" if query else start


@function("guid", STRING, rest=STRING)
def guid(*texts: str) -> str:
    """Return the name-based GUID (RFC 4122, version 5) of the strings, joined with hyphens."""
    return str(uuid.uuid5(_GUID_NAMESPACE, "-".join(texts)))


@function("uniqueString", STRING, rest=STRING)
def unique_string(*texts: str) -> str:
    """Return Azure's 13 characters for the strings: their 64-bit Murmur hash, five bits a character."""
    value = _murmur64("-".join(texts).encode())
    # 64 bits and a trailing zero bit make 13 groups of five.
    return "".join(_BASE32[(value << 1) >> shift & 31] for shift in range(60, -1, -5))


def _murmur64(data: bytes) -> int:
    """Return the variant of the 64-bit Murmur hash that Resource Manager uses, with the seed 0.

    Source: not documented; several independent reimplementations agree on it, and `bicep snapshot` with them.
    """
    first = second = 0
    whole = len(data) - len(data) % 8
    for at in range(0, whole, 8):
        first = _mix_first(first, int.from_bytes(data[at : at + 4], "little")) + second & _MASK
        first = first * 5 + 0x561CCD1B & _MASK
        second = _mix_second(second, int.from_bytes(data[at + 4 : at + 8], "little")) + first & _MASK
        second = second * 5 + 0x0BCAA747 & _MASK
    tail = data[whole:]
    first ^= _scramble_first(int.from_bytes(tail[:4], "little"))
    second ^= _scramble_second(int.from_bytes(tail[4:], "little"))
    first, second = first ^ len(data), second ^ len(data)
    first = first + second & _MASK
    second = second + first & _MASK
    first, second = _finish(first), _finish(second)
    first = first + second & _MASK
    second = second + first & _MASK
    return second << 32 | first


def _scramble_first(block: int) -> int:
    return _rotate(block * 0x239B961B & _MASK, 15) * 0xAB0E9789 & _MASK


def _scramble_second(block: int) -> int:
    return _rotate(block * 0xAB0E9789 & _MASK, 17) * 0x239B961B & _MASK


def _mix_first(state: int, block: int) -> int:
    return _rotate(state ^ _scramble_first(block), 19)


def _mix_second(state: int, block: int) -> int:
    return _rotate(state ^ _scramble_second(block), 13)


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _MASK


def _finish(value: int) -> int:
    value = (value ^ value >> 16) * 0x85EBCA6B & _MASK
    value = (value ^ value >> 13) * 0xC2B2AE35 & _MASK
    return value ^ value >> 16


def _decode(name: str, text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise ExpressionError(
            f"The template language function '{name}' was invoked with a parameter that is not valid. "
            "The value cannot be decoded from base64 representation."
        ) from None

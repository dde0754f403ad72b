"""The conversion of a request's headers to values, and of values to Azure's headers.

Pure. An invalid header is rejected with InvalidHeaderValue, never ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from localcloud.files.errors import StorageError, invalid_header, missing_header, storage_error
from localcloud.files.sidecar import Content

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The longest range that a request may write, or request an MD5 of.
MAX_RANGE_BYTES: Final = 4 * 1024 * 1024
#: The largest file.
MAX_FILE_BYTES: Final = 4 * 1024**4
#: All metadata of one resource, names and values. Documented for blobs only; used for files too.
MAX_METADATA_BYTES: Final = 8 * 1024

_METADATA: Final = "x-ms-meta-"
_METADATA_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")
_ATTRIBUTES: Final = frozenset(
    {
        "ReadOnly", "Hidden", "System", "None", "Directory", "Archive", "Temporary", "Offline",
        "NotContentIndexed", "NoScrubData",
    }
)  # fmt: skip
_SECOND_NS: Final = 1_000_000_000
_MD5_BYTES: Final = 16


def read_integer(headers: Mapping[str, str], name: str, *, maximum: int) -> int:
    """Return a mandatory integer from 0 to `maximum`."""
    value = headers.get(name)
    if value is None:
        raise missing_header(name)
    if not re.fullmatch(r"\d{1,19}", value) or int(value) > maximum:
        raise invalid_header(name, value)
    return int(value)


def read_boolean(headers: Mapping[str, str], name: str) -> bool:
    """Return a header that is `true` or `false`, in any case; False without it."""
    value = headers.get(name, "false")
    if value.lower() not in {"true", "false"}:
        raise invalid_header(name, value)
    return value.lower() == "true"


def read_range(headers: Mapping[str, str], name: str = "x-ms-range") -> tuple[int, int | None] | None:
    """Return the first and last byte of a `bytes=a-b` header, or None without the header.

    The last one is None when the range is open. `x-ms-range` takes precedence over the standard `Range`.
    """
    value = headers.get(name)
    if value is None and name == "x-ms-range":
        name, value = "range", headers.get("range")
    if value is None:
        return None
    match = _RANGE.fullmatch(value)
    if match is None:
        raise invalid_header(name, value)
    first = int(match[1])
    last = int(match[2]) if match[2] else None
    if last is not None and last < first:
        raise invalid_header(name, value)
    return first, last


def read_closed_range(headers: Mapping[str, str], name: str = "x-ms-range") -> tuple[int, int]:
    """Return the first and last byte of a mandatory range that has both."""
    found = read_range(headers, name)
    if found is None:
        raise missing_header(name)
    first, last = found
    if last is None:
        raise invalid_header(name, headers.get(name, ""))
    return first, last


def read_md5(headers: Mapping[str, str], name: str) -> bytes | None:
    """Return a base64 MD5, or None without the header."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        digest = base64.b64decode(value, validate=True)
    except binascii.Error:
        raise storage_error("InvalidMd5") from None
    if len(digest) != _MD5_BYTES:
        raise storage_error("InvalidMd5")
    return digest


def read_metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a request, with the names' original case.

    The SDK also sends all of it as one header `x-ms-meta`, which the service ignores.
    """
    found = [
        (name[len(_METADATA) :], value)
        for name, value in headers.items()
        if name[: len(_METADATA)].lower() == _METADATA
    ]
    for name, _ in found:
        if not name:
            raise storage_error("EmptyMetadataKey")
        if _METADATA_NAME.fullmatch(name) is None:
            raise storage_error("InvalidMetadata")
    if (
        sum(len(name) + len(value.encode("utf-8", "surrogateescape")) for name, value in found)
        > MAX_METADATA_BYTES
    ):
        raise storage_error("MetadataTooLarge")
    return tuple(found)


def write_metadata(metadata: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return metadata as headers."""
    return tuple((_METADATA + name, value) for name, value in metadata)


def read_content(headers: Mapping[str, str]) -> Content:
    """Return the content headers that a request sets; the others are None."""
    read_md5(headers, "x-ms-content-md5")
    return Content(
        type=headers.get("x-ms-content-type"),
        encoding=headers.get("x-ms-content-encoding"),
        language=headers.get("x-ms-content-language"),
        cache_control=headers.get("x-ms-cache-control"),
        disposition=headers.get("x-ms-content-disposition"),
        md5=headers.get("x-ms-content-md5"),
    )


def write_content(content: Content, *, md5_name: str = "Content-MD5") -> tuple[tuple[str, str], ...]:
    """Return the content headers of a file; with a range, its MD5 has another name."""
    named = (
        ("Content-Encoding", content.encoding),
        ("Content-Language", content.language),
        ("Cache-Control", content.cache_control),
        ("Content-Disposition", content.disposition),
        (md5_name, content.md5),
    )
    kind = content.type or "application/octet-stream"
    return (("Content-Type", kind), *((name, value) for name, value in named if value))


def read_attributes(headers: Mapping[str, str], default: str) -> str:
    """Return NTFS attributes such as `ReadOnly|Hidden`; `default` without the header or for `preserve`."""
    value = headers.get("x-ms-file-attributes")
    if value is None or value.lower() == "preserve":
        return default
    words = [word.strip() for word in value.split("|")]
    if not set(words) <= _ATTRIBUTES:
        raise invalid_header("x-ms-file-attributes", value)
    if default.startswith("Directory"):
        return "|".join(["Directory", *(word for word in words if word not in {"Directory", "None"})])
    return "|".join(words)


def read_time(headers: Mapping[str, str], name: str, now_ns: int) -> int | None:
    """Return a file time in nanoseconds since the epoch, `now_ns` for `now`; None leaves it unchanged."""
    value = headers.get(name)
    if value is None or value.lower() == "preserve":
        return None
    if value.lower() == "now":
        return now_ns
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?Z", value)
    if match is None:
        raise invalid_header(name, value)
    try:
        whole = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError:
        raise invalid_header(name, value) from None
    return int(whole.timestamp()) * _SECOND_NS + int((match[2] or "0").ljust(9, "0"))


def write_file_time(time_ns: int) -> str:
    """Return a time as `2019-09-05T09:24:28.9296880Z`."""
    whole = datetime.fromtimestamp(time_ns // _SECOND_NS, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{time_ns % _SECOND_NS // 100:07d}Z"


def write_http_time(time_ns: int) -> str:
    """Return a time as `Thu, 05 Sep 2019 09:24:28 GMT`."""
    return format_datetime(datetime.fromtimestamp(time_ns // _SECOND_NS, UTC), usegmt=True)


def split_query(raw: str) -> tuple[tuple[str, str], ...]:
    """Split a raw query into pairs, still encoded."""
    return tuple((name, value) for name, _, value in (pair.partition("=") for pair in raw.split("&") if pair))


def decode_query(raw: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return the decoded parameters by lower-case name.

    Raises:
        StorageError: InvalidQueryParameterValue, if one occurs twice.
    """
    found: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name = unquote(raw_name).lower()
        if name in found:
            raise StorageError(
                400, "InvalidQueryParameterValue", f"The query parameter '{name}' is specified twice."
            )
        found[name] = unquote(raw_value)
    return found

"""Pages of a list, as in every list operation of Azure Storage."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from localcloud.files.documents import add, add_name
from localcloud.files.errors import invalid_parameter, out_of_range_parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from xml.etree import ElementTree as ET

    from localcloud.files.request import FileRequest

#: The longest page.
MAX_RESULTS: Final = 5000
_MARKER_VERSION: Final = "1"

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page:
    """The part of a list that a request selects.

    Attributes:
        prefix: The prefix of every name.
        marker: The request's marker, or an empty string.
        after: The sort key of the last entry of the previous page, or None for the first page.
        limit: The maximum length of the page.
        requested: The request's `maxresults`, or None.
    """

    prefix: str
    marker: str
    after: str | None
    limit: int
    requested: str | None

    def slice(self, items: Sequence[Item], key: Callable[[Item], str]) -> tuple[list[Item], str]:
        """Return this page of a list that is sorted by `key`, and the next page's marker or `""`."""
        rest = [item for item in items if self.after is None or key(item) > self.after]
        chosen = rest[: self.limit]
        if len(rest) <= self.limit:
            return chosen, ""
        last = key(chosen[-1]).encode("utf-8", "surrogateescape")
        return chosen, f"{_MARKER_VERSION}!{base64.urlsafe_b64encode(last).decode('ascii')}"

    def echo(self, root: ET.Element) -> None:
        """Add the request's parameters to the document, as the service does."""
        if self.marker:
            add(root, "Marker", self.marker)
        if self.prefix:
            add_name(root, "Prefix", self.prefix)
        if self.requested is not None:
            add(root, "MaxResults", str(self.limit))


def read_page(request: FileRequest) -> Page:
    """Return the page that a request selects with `prefix`, `marker` and `maxresults`.

    Raises:
        StorageError: OutOfRangeQueryParameterValue or InvalidQueryParameterValue.
    """
    query = request.http.query
    requested = query.get("maxresults") or None
    if requested is not None and not re.fullmatch(r"-?\d{1,9}", requested):
        raise invalid_parameter("maxresults", requested, "It is not a number.")
    if requested is not None and int(requested) <= 0:
        raise out_of_range_parameter("maxresults", requested, 1, MAX_RESULTS)
    limit = MAX_RESULTS if requested is None else min(int(requested), MAX_RESULTS)
    marker = query.get("marker", "")
    return Page(query.get("prefix", ""), marker, _read_marker(marker), limit, requested)


def read_include(request: FileRequest, known: frozenset[str]) -> frozenset[str]:
    """Return what a request adds to the entries of a list, in lower case: the words of `include`.

    Raises:
        StorageError: InvalidQueryParameterValue, if a word is not known.
    """
    words = {word for word in request.http.query.get("include", "").lower().split(",") if word}
    if not words <= known:
        raise invalid_parameter("include", ",".join(sorted(words)), "Unknown option.")
    return frozenset(words)


def _read_marker(marker: str) -> str | None:
    if not marker:
        return None
    version, _, encoded = marker.partition("!")
    try:
        key = base64.b64decode(encoded.encode("ascii"), altchars=b"-_", validate=True)
    except ValueError:
        version = ""
    if version != _MARKER_VERSION:
        raise invalid_parameter("marker", marker, "It was not given by this service.")
    return key.decode("utf-8", "surrogateescape")

"""Cut a long list into pages, as every list of Azure Storage is cut."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TypeVar, TYPE_CHECKING

from localcloud.files.documents import add, add_name
from localcloud.files.faults import invalid_parameter, out_of_range_parameter

if TYPE_CHECKING:
    from localcloud.files.request import Call
    from xml.etree import ElementTree as ET
    from collections.abc import Callable, Sequence

#: The longest page.
MAX_RESULTS = 5000
_MARKER = "1!"

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page:
    """The part of a list that a request asks for.

    Attributes:
        prefix: What every name begins with.
        marker: As the request gave it, or an empty string.
        after: The sort key of the last entry of the page before, or None for the first page.
        limit: The longest that the page may be.
        asked: What the request said of the limit, or None.
    """

    prefix: str
    marker: str
    after: str | None
    limit: int
    asked: str | None

    def cut(self, items: Sequence[Item], key: Callable[[Item], str]) -> tuple[list[Item], str]:
        """Return this page of a list that is sorted by `key`, and the marker of the next one (empty at the end)."""
        rest = [item for item in items if self.after is None or key(item) > self.after]
        chosen = rest[: self.limit]
        if len(rest) <= self.limit:
            return chosen, ""
        last = key(chosen[-1]).encode("utf-8", "surrogateescape")
        return chosen, _MARKER + base64.urlsafe_b64encode(last).decode("ascii")

    def describe(self, root: ET.Element) -> None:
        """Repeat in the document what was asked for, as the service does."""
        if self.marker:
            add(root, "Marker", self.marker)
        if self.prefix:
            add_name(root, "Prefix", self.prefix)
        if self.asked is not None:
            add(root, "MaxResults", str(self.limit))


def read_page(call: Call) -> Page:
    """Return the page that a request asks for with `prefix`, `marker` and `maxresults`.

    Raises:
        StorageFault: OutOfRangeQueryParameterValue or InvalidQueryParameterValue.
    """
    query = call.request.query
    asked = query.get("maxresults") or None
    if asked is not None and not re.fullmatch(r"-?\d{1,9}", asked):
        raise invalid_parameter("maxresults", asked, "It is not a number.")
    if asked is not None and int(asked) <= 0:
        raise out_of_range_parameter("maxresults", asked, 1, MAX_RESULTS)
    limit = MAX_RESULTS if asked is None else min(int(asked), MAX_RESULTS)
    marker = query.get("marker", "")
    return Page(query.get("prefix", ""), marker, _read_marker(marker), limit, asked)


def _read_marker(marker: str) -> str | None:
    if not marker:
        return None
    try:
        if not marker.startswith(_MARKER):
            raise ValueError(marker)
        return base64.urlsafe_b64decode(marker[len(_MARKER) :].encode("ascii")).decode(
            "utf-8", "surrogateescape"
        )
    except (ValueError, binascii.Error):
        raise invalid_parameter("marker", marker, "It was not given by this service.") from None

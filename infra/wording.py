"""Put values into words for messages: counts, sizes, suggestions, and the end of a long output. Pure text."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN_LINES: Final = 15


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 file`, `3 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def readable_size(size_bytes: int) -> str:
    """Return a size in decimal units: `17 bytes`, `5.2 MB`, `1.3 GB`."""
    if size_bytes < 1000:  # noqa: PLR2004  # the base of the units
        return f"{size_bytes} bytes"
    size, unit = size_bytes / 1000, "kB"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007  # used after the loop
        if size < 999.95:  # noqa: PLR2004  # from here on it would print as 1000.0
            break
        size /= 1000
    return f"{size:.1f} {unit}"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean X?` if a known name is similar, else nothing. The case is ignored."""
    by_folded_name = {known.casefold(): known for known in names}
    close = difflib.get_close_matches(name.casefold(), by_folded_name, n=1)
    return f"; did you mean {by_folded_name[close[0]]}?" if close else ""


def name_stage(text: str, stage: str, verbs: Iterable[str]) -> str:
    """Add `--stage NAME` to the commands in a text, such as `invoke logs`, so that they can be pasted.

    Args:
        text: The text.
        stage: The stage.
        verbs: The verbs; other words after `invoke` are no commands.
    """
    known = "|".join(map(re.escape, sorted(verbs)))
    return re.sub(rf"\binvoke (?:{known})\b(?! --stage)", rf"\g<0> --stage {stage}", text)


def first_line(text: str) -> str:
    """Return the first line of a text, without the space around it; empty if the text is blank."""
    return text.strip().partition("\n")[0].rstrip()


def last_lines(text: str, limit: int = _SHOWN_LINES) -> tuple[str, ...]:
    """Return the last lines of a text that are not blank."""
    return tuple(line for line in text.splitlines() if line.strip())[-limit:]

"""The names that Azure Files cannot hold. Pure.

Source: Naming and referencing shares, directories, files, and metadata (Azure Files REST API).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import PurePosixPath

_FORBIDDEN: Final = frozenset('"\\:|<>*?')
_RESERVED: Final = re.compile(r"^(?:LPT[1-9]|COM[1-9]|PRN|AUX|NUL|CON|CLOCK\$)$", re.IGNORECASE)
_MAX_NAME_LENGTH: Final = 255


def unusable_names(paths: Iterable[PurePosixPath]) -> Iterator[str]:
    """Yield a message for each path that Azure Files rejects."""
    seen: dict[str, PurePosixPath] = {}
    for path in paths:
        for reason in filter(None, map(_why_unusable, path.parts)):
            yield f"{_shown(str(path))}: {reason}"
        twin = seen.setdefault(str(path).casefold(), path)
        if twin != path:
            yield f"{path}: differs from {twin} in case only"


def _why_unusable(name: str) -> str | None:
    if _shown(name) != name:
        return f"the name {_shown(name)!r} is not UTF-8"
    bad = sorted(character for character in set(name) if character in _FORBIDDEN or ord(character) < ord(" "))
    if bad:
        return f"the name {name!r} has the character {bad[0]!r}"
    if name.endswith((".", " ")):
        return f"the name {name!r} ends with a dot or a space"
    if _RESERVED.match(name):
        return f"the name {name!r} is reserved"
    if len(name) > _MAX_NAME_LENGTH:
        return f"the name {name[:20]!r}... is longer than {_MAX_NAME_LENGTH} characters"
    return None


def _shown(name: str) -> str:
    """Return a name as it can be printed: bytes that are not UTF-8 are surrogates in it."""
    return name.encode("utf-8", "backslashreplace").decode()

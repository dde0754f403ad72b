"""Parsers of the settings' texts. Each raises ValueError with what is wrong and what is accepted.

Imports the standard library only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ORIGIN: Final = re.compile(r"https?://[^/?#\s]+")


def text(value: str) -> str:
    """Return the text unchanged."""
    return value


def switch(value: str) -> bool:
    """Read `on` or `off`."""
    if value not in {"on", "off"}:
        raise ValueError(f"{value!r} is neither 'on' nor 'off'")
    return value == "on"


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser that accepts these words only."""

    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return value

    return parse


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a parser of integers in a range, both ends included."""

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a whole number") from None
        if number < least or (most is not None and number > most):
            raise ValueError(f"{number} is not {_range_text(least, most)}")
        return number

    return parse


def auto_or(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    """Return a parser that also accepts `auto`, as None."""
    return lambda value: None if value == "auto" else parse(value)


def seconds(least: float, most: float) -> Callable[[str], float]:
    """Return a parser of seconds in a range, both ends included."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a number of seconds") from None
        if not least <= number <= most:
            raise ValueError(f"{number:g} is not {_range_text(least, most)} seconds")
        return number

    return parse


def adapter_list(value: str) -> str:
    """Read folders on the share, separated by commas, or `*`."""
    names = [name.strip() for name in value.split(",")]
    if not all(names):
        raise ValueError(
            f"{value!r} has an empty entry; entries are folders on the share, separated by commas"
        )
    if "*" in names and len(names) > 1:
        raise ValueError(f"{value!r} has more than '*', which takes every adapter already")
    return ",".join(names)


def origin_list(value: str) -> tuple[str, ...]:
    """Read the origins of web pages, separated by commas, or `*`."""
    entries = tuple(origin.strip().rstrip("/") for origin in value.split(",") if origin.strip())
    for origin in entries:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin; write https://host or http://host:port, separated by commas,"
                " or *"
            )
    return entries


def template(value: str) -> str:
    r"""Read a text with one `{}`, in which `\n` is a newline."""
    unescaped = value.replace("\\n", "\n")
    if unescaped.count("{}") != 1:
        raise ValueError(f"{value!r} must have exactly one {{}}, where the user's message goes")
    return unescaped


def _range_text(least: float, most: float | None) -> str:
    return f"at least {least:g}" if most is None else f"from {least:g} to {most:g}"

"""The parts of .NET's formatting that templates can use, in the invariant culture.

Composite formats (``{0,10:N2}``), standard and custom formats of numbers, standard and custom formats of
times.

Source: Microsoft, "Composite formatting", "Standard numeric format strings", "Custom numeric format strings",
"Standard date and time format strings", "Custom date and time format strings".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Final

from localcloud.template.values import json_text, number_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localcloud.template.values import Value

_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{(\d+)(?:,\s*(-?\d+)\s*)?(?::([^{}]*))?\}|[{}]")
_STANDARD_NUMBER: Final = re.compile(r"([A-Za-z])(\d{0,2})\Z")
_CUSTOM_NUMBER: Final = re.compile(r"[0#,.]*[0#][0#,.]*")
_CURRENCY_SIGN: Final = "\u00a4"
_TIME_PART: Final = re.compile(
    r"'[^']*'|\"[^\"]*\"|\\.|%?(y+|M+|d+|H+|h+|m+|s+|f+|F+|t+|z+|K|g+)|[^A-Za-z]|."
)
_STANDARD_TIMES: Final = {
    "d": "MM/dd/yyyy",
    "D": "dddd, dd MMMM yyyy",
    "t": "HH:mm",
    "T": "HH:mm:ss",
    "f": "dddd, dd MMMM yyyy HH:mm",
    "F": "dddd, dd MMMM yyyy HH:mm:ss",
    "g": "MM/dd/yyyy HH:mm",
    "G": "MM/dd/yyyy HH:mm:ss",
    "m": "MMMM dd",
    "M": "MMMM dd",
    "o": "yyyy-MM-dd'T'HH:mm:ss.fffffffK",
    "O": "yyyy-MM-dd'T'HH:mm:ss.fffffffK",
    "r": "ddd, dd MMM yyyy HH':'mm':'ss 'GMT'",
    "R": "ddd, dd MMM yyyy HH':'mm':'ss 'GMT'",
    "s": "yyyy'-'MM'-'dd'T'HH':'mm':'ss",
    "u": "yyyy'-'MM'-'dd HH':'mm':'ss'Z'",
    "y": "yyyy MMMM",
    "Y": "yyyy MMMM",
}
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def format_composite(pattern: str, values: Sequence[Value]) -> str:
    """Fill the placeholders of a composite format.

    Raises:
        ValueError: The format is wrong; the message is .NET's.
    """

    def fill(match: re.Match[str]) -> str:
        found = match.group()
        if found in ("{{", "}}"):
            return found[0]
        if match.group(1) is None:
            raise ValueError("Input string was not in a correct format.")
        index = int(match.group(1))
        if index >= len(values):
            raise ValueError(
                "Index (zero based) must be greater than or equal to zero and less than the size of the "
                "argument list."
            )
        text = _format_value(values[index], match.group(3) or "")
        width = int(match.group(2) or 0)
        return text.ljust(-width) if width < 0 else text.rjust(width)

    return _PLACEHOLDER.sub(fill, pattern)


def format_time(moment: datetime, pattern: str) -> str:
    """Format a time by a standard format (one letter) or a custom one.

    Raises:
        ValueError: .NET has no such format.
    """
    if len(pattern) == 1:
        if pattern not in _STANDARD_TIMES:
            raise ValueError("Input string was not in a correct format.")
        if pattern in "rRu":
            moment = moment.astimezone(UTC)
        pattern = _STANDARD_TIMES[pattern]
    return _TIME_PART.sub(lambda match: _time_part(moment, match), pattern)


def _format_value(value: Value, spec: str) -> str:
    match value:
        case None:
            return ""
        case bool() | str():
            return str(value)
        case int() | float():
            return _format_number(Decimal(repr(value)), value, spec) if spec else number_text(value)
    return _expression_text(value)


def _expression_text(value: Value) -> str:
    """Format a value as Azure's evaluator does: JSON with single quotes, which are not escaped."""
    match value:
        case str():
            return f"'{value}'"
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case list():
            return f"[{','.join(map(_expression_text, value))}]"
        case dict():
            return "{" + ",".join(f"'{key}':{_expression_text(item)}" for key, item in value.items()) + "}"
    return json_text(value)


def _format_number(number: Decimal, original: float, spec: str) -> str:  # noqa: PLR0911 - one a format
    standard = _STANDARD_NUMBER.match(spec)
    if standard is None:
        return _custom_number(number, spec)
    letter, digits = standard.group(1), standard.group(2)
    count = int(digits) if digits else None
    match letter.upper():
        case "D" if isinstance(original, int):
            return _signed(number, str(abs(original)).zfill(count or 0))
        case "X" if isinstance(original, int):
            text = f"{original & 0xFFFFFFFFFFFFFFFF:X}".zfill(count or 0)
            return text if letter == "X" else text.lower()
        case "F":
            return _signed(number, f"{_rounded(number, 2 if count is None else count):f}")
        case "N":
            return _signed(number, f"{_rounded(number, 2 if count is None else count):,f}")
        case "P":
            return _signed(number, f"{_rounded(number * 100, 2 if count is None else count):,f} %")
        case "C":
            amount = f"{_CURRENCY_SIGN}{_rounded(number, 2 if count is None else count):,f}"
            return f"({amount})" if number < 0 else amount
        case "E":
            return _exponential(number, letter, 6 if count is None else count)
        case "G" | "R":
            return number_text(original)
    raise ValueError("Format specifier was invalid.")


def _exponential(number: Decimal, letter: str, count: int) -> str:
    mantissa, _, exponent = f"{abs(number):.{count}E}".partition("E")
    return _signed(number, f"{mantissa}{letter}{exponent[0]}{exponent[1:].zfill(3)}")


def _custom_number(number: Decimal, spec: str) -> str:
    """Fill a custom format, which may have sections for positive and negative numbers and for zero."""
    sections = spec.split(";")
    if number == 0 and len(sections) > 2:  # noqa: PLR2004 - the third section is for zero
        return _custom_section(number, sections[2])
    if number < 0 and len(sections) > 1:
        return _custom_section(-number, sections[1])
    return _custom_section(number, sections[0])


def _custom_section(number: Decimal, spec: str) -> str:
    match = _CUSTOM_NUMBER.search(spec)
    if match is None:
        return spec
    whole, _, fraction = match.group().partition(".")
    text = f"{_rounded(number, len(fraction)):f}"
    integer, _, decimals = text.partition(".")
    minimum = len(fraction.rstrip("#"))
    decimals = decimals[:minimum] + decimals[minimum:].rstrip("0")
    integer = integer.lstrip("0").zfill(whole.replace(",", "").lstrip("#").count("0"))
    if "," in whole.rstrip(","):
        integer = f"{int(integer or 0):,}".zfill(len(integer)) if integer else ""
    filled = integer + (f".{decimals}" if decimals else "")
    return _signed(number, spec[: match.start()] + filled + spec[match.end() :])


def _rounded(number: Decimal, count: int) -> Decimal:
    return abs(number).quantize(Decimal(1).scaleb(-count), rounding=ROUND_HALF_UP)


def _signed(number: Decimal, text: str) -> str:
    return f"-{text}" if number < 0 else text


def _time_part(moment: datetime, match: re.Match[str]) -> str:  # noqa: C901, PLR0911, PLR0912 - a table
    found = match.group()
    part = match.group(1)
    if part is None:
        if found[0] in "'\"":
            return found[1:-1]
        return found[1:] if found[0] == "\\" else found
    size = len(part)
    match part[0]:
        case "y":
            return str(moment.year % 100).zfill(size) if size <= 2 else str(moment.year).zfill(size)  # noqa: PLR2004
        case "M":
            return _named(moment.month, _MONTHS[moment.month - 1], size)
        case "d":
            return _named(moment.day, _DAYS[moment.weekday()], size)
        case "H":
            return str(moment.hour).zfill(min(size, 2))
        case "h":
            return str(moment.hour % 12 or 12).zfill(min(size, 2))
        case "m":
            return str(moment.minute).zfill(min(size, 2))
        case "s":
            return str(moment.second).zfill(min(size, 2))
        case "f":
            return f"{moment.microsecond:06d}0"[:size]
        case "F":
            return f"{moment.microsecond:06d}0"[:size].rstrip("0")
        case "t":
            return ("AM" if moment.hour < 12 else "PM")[:size]  # noqa: PLR2004
        case "g":
            return "A.D."
    return _offset(moment, part)


def _named(number: int, name: str, size: int) -> str:
    if size <= 2:  # noqa: PLR2004 - 1 or 2 letters: the number; 3: the short name; more: the name
        return str(number).zfill(size)
    return name[:3] if size == 3 else name  # noqa: PLR2004


def _offset(moment: datetime, part: str) -> str:
    delta = moment.utcoffset()
    minutes = int(delta.total_seconds() // 60) if delta else 0
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    if part == "z":
        return f"{sign}{hours}"
    return f"{sign}{hours:02d}" if part == "zz" else f"{sign}{hours:02d}:{rest:02d}"

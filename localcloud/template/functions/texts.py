"""Strings, with lengths and positions in UTF-16 units, as in .NET.

Comparisons are case-sensitive unless documented otherwise.
"""

from __future__ import annotations

from typing import Final

from localcloud.template.errors import ExpressionError, NeedsRuntime, function_error
from localcloud.template.functions.dotnet import format_composite
from localcloud.template.registry import ANY, ARRAY, INTEGER, STRING, function, kind_error
from localcloud.template.values import Residual, Value, is_equal, json_text, kind, utf16_length, utf16_slice

_SCALARS: Final = ("String", "Integer", "Boolean")


@function("string", ("Integer", "String", "Boolean", "Object", "Array"))
def string(value: Value) -> str:
    """Convert to a string: a Boolean to ``True`` or ``False``, anything else to compact JSON."""
    return value if isinstance(value, str) else _scalar_text(value)


@function("format", STRING, rest=ANY)
def format_(pattern: str, *values: Value) -> str:
    """Fill the placeholders of a .NET composite format."""
    if any(isinstance(value, Residual) for value in values):
        raise NeedsRuntime
    try:
        return format_composite(pattern, values)
    except ValueError as exc:
        raise ExpressionError(
            f"Unable to evaluate language function 'format': the format is invalid: '{exc}'. "
            "Please see https://aka.ms/arm-function-format for usage details."
        ) from None


@function("toLower", STRING)
def to_lower(text: str) -> str:
    """Return a string in lower case, with the same number of characters."""
    return "".join(lower if len(lower := each.lower()) == 1 else each for each in text)


@function("toUpper", STRING)
def to_upper(text: str) -> str:
    """Return a string in upper case, with the same number of characters."""
    return "".join(upper if len(upper := each.upper()) == 1 else each for each in text)


@function("trim", STRING)
def trim(text: str) -> str:
    """Return a string without leading and trailing white space."""
    return text.strip()


@function("padLeft", ("String", "Integer"), INTEGER, optional=(STRING,))
def pad_left(value: str | int, width: int, fill: str = " ") -> str:
    """Pad a string on the left to a width."""
    text = str(value)
    return fill * max(width - utf16_length(text), 0) + text


@function("replace", STRING, STRING, STRING)
def replace(text: str, old: str, new: str) -> str:
    """Replace every occurrence of a string."""
    if not old:
        raise function_error(
            "The template language function 'replace' expects its second parameter to not be null or empty."
        )
    return text.replace(old, new)


@function("split", STRING, ANY)
def split(text: str, separators: Value) -> list[str]:
    """Split a string at a separator or at any of several."""
    marks = [separators] if isinstance(separators, str) else separators
    if not isinstance(marks, list) or any(kind(mark) != "String" for mark in marks):
        raise function_error(
            "The template language function 'split' expects its second parameter to be of type 'String or "
            f"Array of Strings'. The provided value is of type '{kind(separators)}'."
        )
    found = [""]
    position = 0
    while position < len(text):
        mark = next((each for each in marks if each and text.startswith(each, position)), None)
        if mark is None:
            found[-1] += text[position]
        else:
            found.append("")
        position += len(mark or text[position])
    return found


@function("join", ARRAY, STRING)
def join(parts: list[Value], separator: str) -> str:
    """Join the elements of an array."""
    wrong = [index for index, part in enumerate(parts) if kind(part) not in _SCALARS]
    if wrong:
        kinds = ", ".join(sorted({f"'{kind(parts[index])}'" for index in wrong}))
        raise function_error(
            "The template language function 'join' expects its first parameter to be an array only "
            "containing elements of type(s) 'String, Integer, Boolean'. The provided value contains "
            f"elements with disallowed type(s) {kinds} in index(es) {', '.join(map(str, wrong))}."
        )
    return separator.join(string(part) for part in parts)


@function("substring", STRING, INTEGER, optional=(INTEGER,))
def substring(text: str, start: int, count: int | None = None) -> str:
    """Return a part of a string."""
    size = utf16_length(text)
    if start < 0 or start > size:
        raise ExpressionError(
            "Unable to evaluate the template language function 'substring'. The index parameter cannot be "
            f"larger than the length of the string. The index parameter: '{start}', the length of the string "
            f"parameter: '{size}'. Please see https://aka.ms/arm-function-substring for usage details."
        )
    if count is not None and (count < 0 or start + count > size):
        raise ExpressionError(
            "Unable to evaluate the template language function 'substring'. The index and length parameters "
            f"must refer to a location within the string. The index parameter: '{start}', the length "
            f"parameter: '{count}', the length of the string parameter: '{size}'. Please see "
            "https://aka.ms/arm-function-substring for usage details."
        )
    return utf16_slice(text, start, size if count is None else start + count)


@function("startsWith", STRING, STRING)
def starts_with(text: str, beginning: str) -> bool:
    """Return whether a string starts with another, ignoring case."""
    return bool(to_upper(text).startswith(to_upper(beginning)))


@function("endsWith", STRING, STRING)
def ends_with(text: str, end: str) -> bool:
    """Return whether a string ends with another, ignoring case."""
    return bool(to_upper(text).endswith(to_upper(end)))


@function("indexOf", ("String", "Array"), ANY)
def index_of(container: str | list[Value], wanted: Value) -> int:
    """Return the first position of a string, ignoring case, or of an element; -1 if there is none."""
    if isinstance(container, list):
        return next((index for index, item in enumerate(container) if is_equal(item, wanted)), -1)
    found = to_upper(container).find(to_upper(_text("indexOf", wanted)))
    return utf16_length(container[:found]) if found > 0 else found


@function("lastIndexOf", ("String", "Array"), ANY)
def last_index_of(container: str | list[Value], wanted: Value) -> int:
    """Return the last position of a string, ignoring case, or of an element; -1 if there is none."""
    if isinstance(container, list):
        positions = range(len(container) - 1, -1, -1)
        return next((index for index in positions if is_equal(container[index], wanted)), -1)
    needle = to_upper(_text("lastIndexOf", wanted))
    if not needle:
        return max(utf16_length(container) - 1, 0)
    found = to_upper(container).rfind(needle)
    return utf16_length(container[:found]) if found > 0 else found


def _scalar_text(value: Value) -> str:
    return str(value) if isinstance(value, bool) else json_text(value)


def _text(name: str, value: Value) -> str:
    if isinstance(value, str):
        return value
    raise kind_error(name, kind(value), STRING, 1)

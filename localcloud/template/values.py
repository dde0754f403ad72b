"""The values of the template language as Python values, and operations on them.

JSON values are Python's. A `Residual` is an expression that only a running deployment can evaluate; arrays
and objects may contain one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from localcloud.template.errors import NeedsRuntime
from localcloud.template.syntax import FunctionCall, Literal, text_of

if TYPE_CHECKING:
    from localcloud.template.syntax import Node

#: None, bool, int, float, str, list, dict or Residual; arrays and objects contain the same.
Value: TypeAlias = Any

_MIN_PLAIN_EXPONENT: Final = -4
_MAX_PLAIN_EXPONENT: Final = 16
_LINE_SEPARATORS: Final = re.compile("[\u0085\u2028\u2029]")


class Located(dict[str, Any]):
    """A JSON object with its position in the text.

    `line` and `column` are those of its opening brace, from 1; `ends` has those of the last character of each
    value.
    """

    __slots__ = ("column", "ends", "line")

    def __init__(self, line: int = 0, column: int = 0) -> None:
        super().__init__()
        self.line = line
        self.column = column
        self.ends: dict[str, tuple[int, int]] = {}


def end_of(document: object, key: str) -> tuple[int, int]:
    """Return the line and column where a value of an object ends, (0, 0) if it was not read from text."""
    if isinstance(document, Located):
        return document.ends.get(key, (0, 0))
    return 0, 0


@dataclass(frozen=True, slots=True)
class Residual:
    """An expression, evaluated as far as possible before the deployment runs."""

    node: Node


def position_of(document: object) -> tuple[int, int]:
    """Return the line and column of a JSON object, (0, 0) if it was not read from text."""
    if isinstance(document, Located):
        return document.line, document.column
    return 0, 0


def kind(value: Value) -> str:  # noqa: PLR0911 - one return a kind
    """Return Azure's name of the value's type.

    Raises:
        NeedsRuntime: The value is a `Residual`.
    """
    match value:
        case None:
            return "Null"
        case bool():
            return "Boolean"
        case int():
            return "Integer"
        case float():
            return "Float"
        case str():
            return "String"
        case list():
            return "Array"
        case dict():
            return "Object"
    raise NeedsRuntime


def node_of(value: Value) -> Node:  # noqa: PLR0911 - one return a kind
    """Return an expression that evaluates to a value."""
    match value:
        case Residual(node=node):
            return node
        case None:
            return FunctionCall("null", ())
        case bool():
            return FunctionCall("true" if value else "false", ())
        case int() | str():
            return Literal(value)
        case float():
            return FunctionCall("json", (Literal(repr(value)),))
        case list():
            return FunctionCall("createArray", tuple(map(node_of, value)))
        case dict():
            return FunctionCall(
                "createObject", tuple(node_of(part) for pair in value.items() for part in pair)
            )
    raise TypeError(type(value).__name__)


def to_document(value: Value) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value as JSON, in which what is not known yet is an expression in brackets."""
    match value:
        case Residual(node=node):
            return f"[{text_of(node)}]"
        case list():
            return [to_document(item) for item in value]
        case dict():
            return {key: to_document(item) for key, item in value.items()}
    return value


def json_text(value: Value) -> str:
    """Return compact JSON in Azure's format: only quotes, backslashes and control characters are escaped.

    Raises:
        NeedsRuntime: A part of it is a `Residual`.
    """
    require_known(value)
    return _LINE_SEPARATORS.sub(lambda found: f"\\u{ord(found.group()):04x}", _json(value))


def _json(value: Value) -> str:
    match value:
        case float():
            text = number_text(value)
            return text if "." in text or "E" in text else f"{text}.0"
        case list():
            return f"[{','.join(map(_json, value))}]"
        case dict():
            return "{" + ",".join(f"{_json(key)}:{_json(item)}" for key, item in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def number_text(number: float) -> str:
    """Return a number as Azure writes it: with an exponent if that of the number is below -4 or above 16.

    Source: the Bicep CLI.
    """
    if isinstance(number, int):
        return str(number)
    shortest = Decimal(repr(number)).normalize()
    sign, digits, _ = shortest.as_tuple()
    if _MIN_PLAIN_EXPONENT <= shortest.adjusted() <= _MAX_PLAIN_EXPONENT:
        return f"{shortest:f}"
    mantissa = str(digits[0]) + ("." + "".join(map(str, digits[1:])) if len(digits) > 1 else "")
    return f"{'-' if sign else ''}{mantissa}E{shortest.adjusted():+03d}"


def require_known(value: Value) -> None:
    """Raise `NeedsRuntime` if the value is a `Residual` or contains one."""
    match value:
        case Residual():
            raise NeedsRuntime
        case list():
            for item in value:
                require_known(item)
        case dict():
            for item in value.values():
                require_known(item)


def is_equal(left: Value, right: Value) -> bool:
    """Compare as `equals` does: types must match, strings are case-sensitive, key order is ignored."""
    if kind(left) != kind(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_equal, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_equal(left[key], right[key]) for key in left)
    return bool(left == right)


def find_key(document: dict[str, Value], name: str) -> str | None:
    """Return the key for a property name: an exact match, otherwise one that differs only in case."""
    if name in document:
        return name
    wanted = name.upper()
    return next((key for key in document if key.upper() == wanted), None)


def utf16_length(text: str) -> int:
    """Return a string's length in UTF-16 units, as in .NET."""
    return len(text) + sum(character > "\uffff" for character in text)


def utf16_slice(text: str, start: int, stop: int) -> str:
    """Return the substring between two positions in UTF-16 units, as in .NET."""
    if text.isascii():
        return text[start:stop]
    return text.encode("utf-16-le")[2 * start : 2 * stop].decode("utf-16-le", "surrogatepass")

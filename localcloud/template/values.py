"""The values of the template language, as plain Python, and what they have in common.

JSON's values are Python's. A `Residual` is an expression that only a running deployment can finish; it may
also stand inside an array or an object.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from localcloud.template.errors import NeedsRuntime
from localcloud.template.syntax import FunctionCall, Literal, text_of

if TYPE_CHECKING:
    from localcloud.template.syntax import Node

#: None, bool, int, float, str, list, dict or Residual; arrays and objects hold the same.
Value: TypeAlias = Any

_LINE_SEPARATORS: Final = re.compile("[\u0085\u2028\u2029]")


class Located(dict[str, Any]):
    """A JSON object that knows where it stands.

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
    """Return line and column where one value of an object ends, (0, 0) if it was not read from text."""
    if isinstance(document, Located):
        return document.ends.get(key, (0, 0))
    return 0, 0


@dataclass(frozen=True, slots=True)
class Residual:
    """An expression that is reduced as far as it can be before the deployment runs."""

    node: Node


def position_of(document: object) -> tuple[int, int]:
    """Return line and column of a JSON object, (0, 0) for one that was not read from text."""
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
    """Return the expression that yields a value."""
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
    """Return compact JSON as Azure writes it: nothing but quotes, backslashes and control characters escaped.

    Raises:
        NeedsRuntime: A part of it is a `Residual`.
    """
    require_known(value)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _LINE_SEPARATORS.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def require_known(value: Value) -> None:
    """Raise `NeedsRuntime` if the value is a `Residual` or holds one."""
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
    """Compare as `equals` does: types count, text by its characters, objects whatever their order."""
    if kind(left) != kind(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_equal, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(is_equal(left[key], right[key]) for key in left)
    return bool(left == right)


def find_key(document: dict[str, Value], name: str) -> str | None:
    """Return the key that a property name means: the same one, else one that differs in case only."""
    if name in document:
        return name
    wanted = name.upper()
    return next((key for key in document if key.upper() == wanted), None)


def utf16_length(text: str) -> int:
    """Count as .NET does: characters beyond the basic plane are two."""
    return len(text) + sum(character > "\uffff" for character in text)


def utf16_slice(text: str, start: int, stop: int) -> str:
    """Cut a text at positions that are counted as .NET counts them."""
    if text.isascii():
        return text[start:stop]
    return text.encode("utf-16-le")[2 * start : 2 * stop].decode("utf-16-le", "surrogatepass")

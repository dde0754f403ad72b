"""The syntax tree of a template expression, and its text in Azure's format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Literal:
    """A string or an integer."""

    value: str | int


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A function call. The name of a user-defined function includes its namespace."""

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Access:
    """An access to a property or an element: ``target.key``, ``target['key']``, ``target[0]``."""

    target: Node
    key: Node


Node: TypeAlias = "Literal | FunctionCall | Access"


def text_of(node: Node) -> str:
    """Return the text of an expression, without its brackets."""
    match node:
        case Literal(value=str() as text):
            return "'" + text.replace("'", "''") + "'"
        case Literal(value=number):
            return str(number)
        case FunctionCall(name=name, arguments=arguments):
            return f"{name}({', '.join(map(text_of, arguments))})"
        case Access(target=target, key=Literal(value=str() as name)) if _IDENTIFIER.match(name):
            return f"{text_of(target)}.{name}"
        case Access(target=target, key=key):
            return f"{text_of(target)}[{text_of(key)}]"


def calls_in(node: Node) -> Iterator[FunctionCall]:
    """Yield every call of an expression, outermost first."""
    match node:
        case FunctionCall(arguments=arguments):
            yield node
            for argument in arguments:
                yield from calls_in(argument)
        case Access(target=target, key=key):
            yield from calls_in(target)
            yield from calls_in(key)

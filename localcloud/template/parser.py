"""The parser of template expressions: from a string to a syntax tree.

A string that begins with one ``[`` and ends with ``]`` is an expression; ``[[`` at the beginning escapes a
plain ``[``. The language has strings in single quotes (a quote inside is doubled), integers, calls, and
access by ``.name`` or ``[key]``.

Source: Azure Resource Manager, "Syntax and expressions in ARM templates".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from localcloud.template.errors import ExpressionError
from localcloud.template.syntax import Access, FunctionCall, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.template.syntax import Node

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>[+-]?\d+)|(?P<name>[A-Za-z_]\w*)|(?P<sign>[()\[\],.])|(?P<bad>\S))"
)
_SIGNS: Final = {
    "(": "LeftParenthesis",
    ")": "RightParenthesis",
    "[": "LeftSquareBracket",
    "]": "RightSquareBracket",
    ",": "Comma",
    ".": "Dot",
}
_TOKENS: Final = {"text": "Literal", "number": "Integer", "name": "Identifier"}


def is_expression(text: str) -> bool:
    """Return whether a string of the template is an expression."""
    return text.startswith("[") and text.endswith("]") and not text.startswith("[[")


def plain_text(text: str) -> str:
    """Return the value of a string that is not an expression."""
    return text[1:] if text.startswith("[[") else text


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """Parse a whole expression, given with its brackets.

    Raises:
        ExpressionError: The string is not an expression.
    """
    return _Parser(text[1:-1]).whole()


def expressions_in(document: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    """Yield every expression of a JSON value, including those in keys, but not in metadata."""
    match document:
        case str() if is_expression(document):
            yield document
        case list():
            for item in document:
                yield from expressions_in(item)
        case dict():
            for key, value in document.items():
                if is_expression(key):
                    yield key
                if key != "metadata":
                    yield from expressions_in(value)


class _Parser:
    """One pass over the tokens of an expression."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = _tokens(source)
        self.position = 0

    def whole(self) -> Node:
        node = self.expression()
        if self.position < len(self.tokens):
            raise self.expected("EndOfData")
        return node

    def expression(self) -> Node:
        group, found = self.peek()
        if group == "text":
            self.position += 1
            return Literal(found[1:-1].replace("''", "'"))
        if group == "number":
            self.position += 1
            return Literal(int(found))
        return self.accesses(self.call())

    def call(self) -> Node:
        name = self.name()
        if self.accept("."):  # a namespace: `ns.function(...)`
            name += "." + self.name()
        self.expect("(")
        return FunctionCall(name, self.arguments())

    def accesses(self, node: Node) -> Node:
        while True:
            if self.accept("."):
                node = Access(node, Literal(self.name()))
            elif self.accept("["):
                node = Access(node, self.expression())
                self.expect("]")
            else:
                return node

    def arguments(self) -> tuple[Node, ...]:
        if self.accept(")"):
            return ()
        found = [self.expression()]
        while self.accept(","):
            found.append(self.expression())
        self.expect(")")
        return tuple(found)

    def name(self) -> str:
        group, found = self.peek()
        if group != "name":
            raise self.expected("Identifier")
        self.position += 1
        return found

    def accept(self, sign: str) -> bool:
        is_here = self.peek() == ("sign", sign)
        self.position += is_here
        return is_here

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            raise self.expected(_SIGNS[sign])

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("", "")

    def expected(self, token: str) -> ExpressionError:
        group, found = self.peek()
        actual = _SIGNS[found] if group == "sign" else _TOKENS.get(group, "EndOfData")
        return ExpressionError(
            f"Unable to parse language expression '{self.source}': expected token '{token}' and actual "
            f"'{actual}'."
        )


def _tokens(source: str) -> list[tuple[str, str]]:
    """Return the tokens of an expression as (group, text)."""
    found = []
    for match in _TOKEN.finditer(source):
        group = match.lastgroup or "bad"
        if group == "bad":
            raise _unexpected(source, match.group(group), match.start(group))
        found.append((group, match.group(group)))
    return found


def _unexpected(source: str, character: str, position: int) -> ExpressionError:
    what = f"the string character '{character}' at position '{position}' is not expected."
    if character == "'":
        what = (
            f"the string constant at position '{position}' is not terminated. "
            "String constants must be enclosed within a pair of single quotes."
        )
    if character in "+-":
        what = f"the value '{character}' at position '{position}' cannot be converted to number."
    return ExpressionError(f"The language expression '{source}' is not valid: {what}")

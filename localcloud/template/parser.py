"""Template expressions: from text to a syntax tree.

A text that begins with one ``[`` and ends with ``]`` is an expression; ``[[`` at the beginning stands for a plain
``[``. The language has texts in single quotes (a quote inside is doubled), whole numbers, calls, and access by
``.name`` or ``[key]``.

Source: Azure Resource Manager, "Syntax and expressions in ARM templates".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from localcloud.template.faults import ExpressionError
from localcloud.template.syntax import Access, Call, Literal

if TYPE_CHECKING:
    from localcloud.template.syntax import Node

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<number>[+-]?\d+)|(?P<name>[A-Za-z_][\w]*)|(?P<sign>[()\[\],.])|(?P<bad>\S))"
)


def is_expression(text: str) -> bool:
    """Say whether a text of the template is to be evaluated."""
    return text.startswith("[") and text.endswith("]") and not text.startswith("[[")


def plain_text(text: str) -> str:
    """Return what a text that is not an expression stands for."""
    return text[1:] if text.startswith("[[") else text


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """Parse a whole expression, given with its brackets.

    Raises:
        ExpressionError: The text is not an expression.
    """
    return _Parser(text[1:-1]).whole()


class _Parser:
    """One pass over the tokens of an expression."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.tokens = _tokens(source)
        self.position = 0

    def whole(self) -> Node:
        node = self.expression()
        if self.position < len(self.tokens):
            _, found, at = self.tokens[self.position]
            raise self.invalid(f"expected end of string and found '{found}' at position '{at}'")
        return node

    def expression(self) -> Node:
        node = self.primary()
        while self.position < len(self.tokens):
            if self.accept("."):
                node = Access(node, Literal(self.expect_name()))
            elif self.accept("["):
                node = Access(node, self.expression())
                self.expect("]")
            else:
                break
        return node

    def primary(self) -> Node:
        group, found, at = self.take()
        if group == "text":
            return Literal(found[1:-1].replace("''", "'"))
        if group == "number":
            return Literal(int(found))
        if group != "name":
            raise self.invalid(f"found '{found}' at position '{at}' where a value was expected")
        while self.accept("."):  # a namespace: `ns.function(...)`
            found += "." + self.expect_name()
        self.expect("(")
        return Call(found, self.arguments())

    def arguments(self) -> tuple[Node, ...]:
        if self.accept(")"):
            return ()
        found = [self.expression()]
        while self.accept(","):
            found.append(self.expression())
        self.expect(")")
        return tuple(found)

    def take(self) -> tuple[str, str, int]:
        if self.position == len(self.tokens):
            raise self.invalid("it ends where a value was expected")
        self.position += 1
        return self.tokens[self.position - 1]

    def accept(self, sign: str) -> bool:
        is_here = self.position < len(self.tokens) and self.tokens[self.position][:2] == ("sign", sign)
        self.position += is_here
        return is_here

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            raise self.invalid(f"'{sign}' was expected{self.where()}")

    def expect_name(self) -> str:
        if self.position < len(self.tokens) and self.tokens[self.position][0] == "name":
            return self.take()[1]
        raise self.invalid(f"a name was expected{self.where()}")

    def where(self) -> str:
        if self.position == len(self.tokens):
            return " at its end"
        _, found, at = self.tokens[self.position]
        return f", found '{found}' at position '{at}'"

    def invalid(self, what: str) -> ExpressionError:
        return _invalid(self.source, what)


def _tokens(source: str) -> list[tuple[str, str, int]]:
    """Split an expression into (group, text, position)."""
    found = []
    for match in _TOKEN.finditer(source):
        group = match.lastgroup or "bad"
        text = match.group(group)
        if text == "'":
            raise _invalid(
                source,
                f"the string constant at position '{match.start(group)}' is not terminated. "
                "String constants must be enclosed within a pair of single quotes",
            )
        if group == "bad":
            raise _invalid(
                source, f"the character '{text}' at position '{match.start(group)}' is not expected"
            )
        found.append((group, text, match.start(group)))
    return found


def _invalid(source: str, what: str) -> ExpressionError:
    return ExpressionError(f"The language expression '{source}' is not valid: {what}.")

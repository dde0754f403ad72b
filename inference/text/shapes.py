"""What an answer's text may be required to be: JSON, one of some choices, a regular expression, or a grammar.

Source: vLLM, "Structured Outputs"; llguidance, `docs/syntax.md`, and its `gbnf_to_lark`, which reads the
grammars of llama.cpp.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from llguidance.gbnf_to_lark import any_to_lark

from inference.text.grammar import MAX_GRAMMAR_CHARACTERS, json_rule, text_rule
from inference.text.json_schema import UnsupportedSchemaError

if TYPE_CHECKING:
    from collections.abc import Mapping

SLASH_OR_ESCAPED: Final = re.compile(r"\\.|/|\n", re.DOTALL)
LINE_BREAK: Final = "\n"


@dataclass(frozen=True, slots=True)
class JsonShape:
    """The requirement that an answer be JSON.

    Attributes:
        schema: The JSON Schema that it must follow.
        param: The API field that the schema comes from.
    """

    schema: Mapping[str, Any]
    param: str

    @property
    def rule(self) -> str:
        """Return the grammar rule of the text.

        Raises:
            UnsupportedSchemaError: If the schema has a keyword that cannot be enforced.
        """
        return json_rule(self.schema)


@dataclass(frozen=True, slots=True)
class ChoiceShape:
    """The requirement that an answer be one of some texts.

    Attributes:
        choices: The texts; not empty.
        param: The API field that they come from.
    """

    choices: tuple[str, ...]
    param: str

    @property
    def rule(self) -> str:
        """Return the grammar rule of the text."""
        return " | ".join(map(text_rule, self.choices))


@dataclass(frozen=True, slots=True)
class RegexShape:
    """The requirement that a regular expression match the whole answer.

    Attributes:
        pattern: In the syntax of Rust's `regex`, without look-around and references.
        param: The API field that it comes from.
    """

    pattern: str
    param: str

    @property
    def rule(self) -> str:
        """Return the grammar rule of the text."""
        # The whole text is matched with or without anchors.
        pattern = self.pattern.removeprefix("^")
        if pattern.endswith("$") and (len(pattern) - len(pattern[:-1].rstrip("\\"))) % 2:
            pattern = pattern[:-1]
        return f"/{SLASH_OR_ESCAPED.sub(_escape, pattern)}/" if pattern else text_rule("")


@dataclass(frozen=True, slots=True)
class GrammarShape:
    """The requirement that an answer match a grammar.

    Attributes:
        grammar: In llguidance's variant of Lark, or in llama.cpp's GBNF.
        param: The API field that it comes from.
    """

    grammar: str
    param: str

    @property
    def lark(self) -> str:
        """Return the grammar in Lark.

        Raises:
            UnsupportedSchemaError: If it cannot be converted.
        """
        # What is too long is rejected as it is.
        return self.grammar if len(self.grammar) > MAX_GRAMMAR_CHARACTERS else _to_lark(self.grammar)


Shape = JsonShape | ChoiceShape | RegexShape | GrammarShape
"""A requirement on an answer's text. `param` is the API field that it comes from, for error messages."""


@lru_cache(maxsize=64)  # clients send the same grammar again and again
def _to_lark(grammar: str) -> str:
    try:
        return str(any_to_lark(grammar))
    except Exception as error:
        # The converter raises errors of several kinds.
        raise UnsupportedSchemaError(f"it is neither Lark nor GBNF: {error}", "#") from error


def _escape(match: re.Match[str]) -> str:
    return {"/": "\\/", LINE_BREAK: "\\n", "\\" + LINE_BREAK: "\\n"}.get(match[0], match[0])

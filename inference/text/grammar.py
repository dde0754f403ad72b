"""Write down what an answer's text must be, in llguidance's form of Lark, and check that it can be kept.

The engines constrain tokens by these grammars; here they are only written and checked, before a request
queues. Whitespace is bounded: a small model that may pad would pad until its length is used up.

Source: llguidance, `docs/syntax.md` and `docs/json_schema.md`. A `whitespace_pattern` with a bound does not
bound anything, since it is matched again and again; a separator is matched once.
"""

from __future__ import annotations

import asyncio
import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from llguidance import LLMatcher

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_GRAMMAR_CHARACTERS: Final = 50_000
"""The longest grammar. Compiling takes some 5 ms for a thousand characters of regular expressions."""

ONE_LINE: Final = {"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False}
ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}
PLACE: Final = re.compile(r"^at \d+\(\d+\): ")
SURROGATES: Final = re.compile("[\ud800-\udfff]")
ECHO: Final = re.compile(r"\n +\d+ \| ")


def json_rule(schema: Mapping[str, Any]) -> str:
    """Return the rule of JSON that follows a schema, on one line, with at most one space after `,` and `:`.

    What the schema says under `x-guidance` stays, but for the whitespace.
    """
    options = schema.get("x-guidance")
    whole = {**schema, "x-guidance": {**(options if isinstance(options, dict) else {}), **ONE_LINE}}
    return "%json " + json.dumps(whole, ensure_ascii=False)


def text_rule(text: str) -> str:
    """Return the rule of exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def grammar_of(rule: str) -> str:
    """Return the grammar that has a rule for its whole."""
    return f"start: {rule}"


async def find_grammar_error(grammar: str) -> str | None:
    """Return why a grammar cannot be kept, in llguidance's words; None if it can.

    It is checked in a thread, which lets go of the interpreter meanwhile, so that streams go on.
    """
    if len(grammar) > MAX_GRAMMAR_CHARACTERS:
        return f"it has {len(grammar)} characters, and {MAX_GRAMMAR_CHARACTERS} are the most"
    if SURROGATES.search(grammar):
        return "it has half a character, which JSON can spell and no tokenizer takes"
    return await asyncio.to_thread(_find_fault, grammar)


@lru_cache(maxsize=256)  # clients send the same schema again and again
def _find_fault(grammar: str) -> str | None:
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if not is_error:
        return None
    reason = ECHO.split(PLACE.sub("", messages[0].strip()))[0]
    words = reason.removeprefix("failed to compile JSON schema: ").split()
    return " ".join(word for word in words if word.strip("^"))  # carets point at a line above

"""Grammars that constrain an answer's text, in llguidance's variant of Lark.

Here they are written and validated, before a request is queued; the engines apply them. Whitespace is
bounded: a small model that may pad its JSON would do so until it reaches its length limit.

Source: llguidance, `docs/syntax.md` and `docs/json_schema.md`. A `whitespace_pattern` with a bound is matched
repeatedly, so it bounds nothing; a separator is matched once.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from llguidance import LLMatcher

from inference.text.json_schema import UnsupportedSchemaError, rewrite_schema

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_GRAMMAR_CHARACTERS: Final = 50_000
"""Compiling takes about 5 ms per thousand characters of regular expressions."""

ONE_LINE: Final = {"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False}
ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}
LOCATION_PREFIX: Final = re.compile(r"^at \d+\(\d+\): ")
SURROGATES: Final = re.compile("[\ud800-\udfff]")
SOURCE_EXCERPT: Final = re.compile(r"\n +\d+ \| ")


def json_rule(schema: Mapping[str, Any]) -> str:
    """Return the rule of JSON that follows a schema, on one line, with at most one space after `,` and `:`.

    The schema's own `x-guidance` options are kept, except for those about whitespace.

    Raises:
        UnsupportedSchemaError: If the schema has a keyword that cannot be enforced.
    """
    options = schema.get("x-guidance")
    whole = {**schema, "x-guidance": {**(options if isinstance(options, dict) else {}), **ONE_LINE}}
    try:
        text = json.dumps(whole, ensure_ascii=False)
        # What is too long is rejected as it is.
        return "%json " + (text if len(text) > MAX_GRAMMAR_CHARACTERS else _rewrite(text))
    except RecursionError:
        raise UnsupportedSchemaError("it is nested too deeply", "#") from None


@lru_cache(maxsize=256)  # clients send the same schema again and again
def _rewrite(schema: str) -> str:
    return json.dumps(rewrite_schema(json.loads(schema)), ensure_ascii=False)


def text_rule(text: str) -> str:
    """Return the rule that matches exactly this text."""
    return json.dumps(text, ensure_ascii=False)


def grammar_of(rule: str) -> str:
    """Return the grammar that consists of one rule."""
    return f"start: {rule}"


def find_grammar_error(grammar: str) -> str | None:
    """Return why llguidance rejects a grammar; None if it is valid. Run it in a thread: it takes a while."""
    if len(grammar) > MAX_GRAMMAR_CHARACTERS:
        return f"it has {len(grammar)} characters, and {MAX_GRAMMAR_CHARACTERS} are the most"
    if SURROGATES.search(grammar):
        return "it contains a lone surrogate, which no tokenizer accepts"
    return _validate(grammar)


@lru_cache(maxsize=256)  # clients send the same schema again and again
def _validate(grammar: str) -> str | None:
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if not is_error:
        return None
    reason = SOURCE_EXCERPT.split(LOCATION_PREFIX.sub("", messages[0].strip()))[0]
    words = reason.removeprefix("failed to compile JSON schema: ").split()
    return " ".join(word for word in words if word.strip("^"))  # carets that point at the line above

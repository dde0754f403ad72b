"""The grammars themselves, with a tokenizer of 256 bytes and two end tokens."""

from __future__ import annotations

import json
import re

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from inference.engines.transformers.constraint import Constraint, Vocabulary
from inference.errors import EngineError
from tests.doubles.tiny import BYTES, byte_tokenizer

ENDS = frozenset({0, 1})
WIDTH = 2 + len(BYTES)


TOKENIZER = byte_tokenizer("<end>", "<turn>")


def allowed(constraint: Constraint, width: int = WIDTH) -> set[str]:
    """What may come: characters, and the names of end tokens."""
    found = constraint.allowed(width)
    return {TOKENIZER.decode([token]) for token in range(width) if found[token]}


def advance(constraint: Constraint, text: str) -> None:
    for token in TOKENIZER.encode(text):
        assert constraint.allowed(WIDTH)[token], f"{text!r} may not come"
        constraint.advance(token)


def test_a_choice_is_spelled_and_then_ended() -> None:
    constraint = Vocabulary(TOKENIZER, ENDS, WIDTH).constrain('start: "low" | "lower" | "high"')
    assert allowed(constraint) == {"l", "h"}
    advance(constraint, "low")
    assert allowed(constraint) == {"e", "<end>", "<turn>"}
    advance(constraint, "er")
    assert allowed(constraint) == {"<end>", "<turn>"}
    advance(constraint, "<turn>")


def test_json_is_held_to_its_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    constraint = Vocabulary(TOKENIZER, ENDS, WIDTH).constrain(f"start: %json {json.dumps(schema)}")
    advance(constraint, '{"n": 12')
    assert allowed(constraint) == {*"0123456789 \t\r\n}"}
    advance(constraint, "}")
    assert allowed(constraint) == {"<end>", "<turn>"}


def test_answers_to_one_grammar_do_not_know_of_each_other() -> None:
    vocabulary = Vocabulary(TOKENIZER, ENDS, WIDTH)
    first, second = (vocabulary.constrain('start: "ab"') for _ in range(2))
    advance(first, "a")
    assert (allowed(first), allowed(second)) == ({"b"}, {"a"})


def test_scores_without_a_token_allow_nothing() -> None:
    constraint = Vocabulary(TOKENIZER, ENDS, WIDTH + 50).constrain('start: "a"')
    found = constraint.allowed(WIDTH + 90)
    assert (len(found), found.sum()) == (WIDTH + 90, 1)


def test_a_token_that_may_not_come_is_an_error_that_does_not_quote_it() -> None:
    constraint = Vocabulary(TOKENIZER, ENDS, WIDTH).constrain('start: "ab"')
    with pytest.raises(
        EngineError, match=re.escape("the grammar cannot be followed further (InternalError)")
    ):
        constraint.advance(TOKENIZER.encode("b")[0])
    with pytest.raises(EngineError, match="the grammar cannot be followed further"):
        constraint.allowed(WIDTH)


@pytest.mark.parametrize(
    ("tokenizer", "ends", "grammar", "message"),
    [
        (TOKENIZER, ENDS, "start: %json {", "the grammar cannot be used: "),
        (
            TOKENIZER,
            frozenset(),
            'start: "a"',
            "the model has no token that ends an answer, so no grammar can end",
        ),
        (
            PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))),
            ENDS,
            'start: "a"',
            "grammars do not support the model's tokenizer: can't determine decoder type: None",
        ),
    ],
)
def test_what_cannot_work_says_so(
    tokenizer: PreTrainedTokenizerFast, ends: frozenset[int], grammar: str, message: str
) -> None:
    with pytest.raises(EngineError, match=re.escape(message)):
        Vocabulary(tokenizer, ends, WIDTH).constrain(grammar)


def test_the_tokens_are_made_ready_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = Vocabulary(TOKENIZER, ENDS, WIDTH)
    vocabulary.constrain('start: "a"')
    monkeypatch.delattr("inference.engines.transformers.constraint.from_tokenizer")
    assert allowed(vocabulary.constrain('start: "b"')) == {"b"}

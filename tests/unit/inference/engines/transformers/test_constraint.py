"""The grammars themselves, with a tokenizer of 256 bytes and two end tokens."""

from __future__ import annotations

import itertools
import json
import re
import time

import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from inference.engines.transformers.constraint import FREE_S, TOKEN_S, Constraint, Vocabulary
from inference.errors import EngineError, RequestRefusedError
from inference.text.grammar import grammar_of, json_rule
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


def write(constraint: Constraint, text: str) -> None:
    """Advance without a look at what may come."""
    for token in TOKENIZER.encode(text):
        constraint.allowed(WIDTH)
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


def object_grammar(optional: int) -> str:
    """Return the grammar of an object with some optional properties."""
    properties = {f"p{index}": {"type": "null"} for index in range(optional)}
    return grammar_of(json_rule({"properties": properties, "type": "object"}))


def test_an_object_may_have_a_thousand_optional_properties() -> None:
    constraint = Vocabulary(TOKENIZER, ENDS, WIDTH).constrain(object_grammar(1000))
    advance(constraint, '{"p9')
    assert "9" in allowed(constraint)


def test_what_is_too_complex_is_said_without_the_answer() -> None:
    # The API refuses a grammar of this length.
    constraint = Vocabulary(TOKENIZER, ENDS, WIDTH).constrain(object_grammar(5000))
    with pytest.raises(RequestRefusedError, match=r"cannot be followed further \(it is too complex\)$"):
        write(constraint, '{"p')


AMBIGUOUS = 'start: x\nx: x x x | x x | "a" | "b" | ""'


def test_a_grammar_that_takes_too_long_ends_its_answer_alone() -> None:
    constraint = Vocabulary(TOKENIZER, ENDS, WIDTH).constrain(AMBIGUOUS)
    began_s = time.thread_time()
    with pytest.raises(RequestRefusedError, match=r"takes too long|it is too complex"):
        write(constraint, "a" * 1000)
    # Other answers of the batch wait for as long as this takes.
    assert time.thread_time() - began_s < FREE_S + TOKEN_S * 1000


def test_the_time_of_a_grammar_is_that_of_the_processor_and_limited() -> None:
    ticks = itertools.count()
    # A clock of its own.
    matcher = LLMatcher(Vocabulary(TOKENIZER, ENDS, WIDTH)._converted(), 'start: "a"*')
    constraint = Constraint(matcher, lambda: next(ticks) * FREE_S / 2)
    constraint.allowed(WIDTH)
    constraint.advance(TOKENIZER.encode("a")[0])
    with pytest.raises(RequestRefusedError, match=r"takes too long \(1\.5 s up to token 1\): can it read"):
        constraint.allowed(WIDTH)

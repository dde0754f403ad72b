"""Schemas as pydantic, OpenAPI and MCP write them: they are enforced, or an error names what cannot be."""

from __future__ import annotations

import enum
import json
import random
from functools import cache
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from pydantic import BaseModel, Field

from inference.text.grammar import grammar_of, json_rule
from inference.text.json_schema import FORMATS, UnsupportedSchemaError, other_texts_pattern, rewrite_schema
from tests.doubles.tiny import byte_tokenizer

DEFINITIONS: Any = {
    # A default makes pydantic leave the property out of `required`.
    "Cat": {
        "type": "object",
        "properties": {"kind": {"const": "cat", "default": "cat"}, "lives": {"type": "integer"}},
    },
    "Dog": {"type": "object", "properties": {"kind": {"const": "dog", "default": "dog"}}},
}
ANIMALS: Any = {
    "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
    "discriminator": {"propertyName": "kind"},
    "$defs": DEFINITIONS,
}
EITHER = {
    "type": "object",
    "properties": {"path": {"const": "p"}, "url": {"const": "u"}},
    "additionalProperties": False,
    "oneOf": [{"required": ["path"]}, {"required": ["url"]}],
}
OVERLAP = (
    "the alternatives {} and {} of 'oneOf' do not exclude each other: use 'anyOf', or give them a property"
    " with different constants"
)
LONG_TEXT = "'not' is enforced for texts of up to 64 characters, without quotes or backslashes (at #/not)"
CASES: list[tuple[str, dict[str, Any], list[Any], list[Any]]] = [
    ("types", {"oneOf": [{"type": "integer"}, {"type": "null"}]}, [5, None], ["x", {}]),
    (
        "references",
        {
            "type": "object",
            "required": ["a"],
            "additionalProperties": False,
            "properties": {"a": {"oneOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}},
            "$defs": {
                "A": {
                    "type": "object",
                    "properties": {"n": {"const": 1}},
                    "required": ["n"],
                    "additionalProperties": False,
                }
            },
        },
        [{"a": None}, {"a": {"n": 1}}],
        [{"a": {}}, {"a": 1}],
    ),
    (
        "discriminator",
        ANIMALS,
        [{"kind": "cat", "lives": 9}, {"kind": "dog"}],
        [{"lives": 9}, {"kind": "cow"}],
    ),
    (
        "nested discriminator",
        {
            "type": "array",
            "items": {"$ref": "#/$defs/Any"},
            "maxItems": 2,
            "$defs": {
                **DEFINITIONS,
                "Any": {"oneOf": ANIMALS["oneOf"]},
            },
        },
        [[], [{"kind": "dog"}, {"kind": "cat"}]],
        [[{}]],
    ),
    (
        "constants",
        {"oneOf": [{"enum": ["a", "b"]}, {"const": "c"}, {"enum": [1, 2]}]},
        ["a", "c", 2],
        ["d", 3],
    ),
    (
        "ranges",
        {"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 8}]},
        [3, 8, -70],
        [5, "x"],
    ),
    ("either property", EITHER, [{"path": "p"}, {"url": "u"}], [{}, {"path": "p", "url": "u"}]),
    (
        "closed object",
        {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"a": {"const": 1}},
                    "required": ["a"],
                    "additionalProperties": False,
                },
                {
                    "type": "object",
                    "properties": {"b": {"const": 1}},
                    "required": ["b"],
                    "additionalProperties": False,
                },
            ]
        },
        [{"a": 1}, {"b": 1}],
        [{}, {"a": 1, "b": 1}],
    ),
    (
        "alternatives of alternatives",
        {
            "oneOf": [
                {"anyOf": [{"type": "string", "enum": ["x"]}, {"type": "integer"}]},
                {"type": "null"},
            ]
        },
        ["x", 4, None],
        ["y", True],
    ),
    ("unknown format", {"type": "string", "format": "int32", "maxLength": 3}, ["abc"], ["abcd"]),
    ("known format", {"type": "string", "format": "date"}, ["2026-02-28"], ["tomorrow"]),
    (
        "format of a part",
        {"items": {"type": "string", "format": "uri-template", "maxLength": 2}},
        [["ab"]],
        [["abc"]],
    ),
    (
        "set",
        {"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True},
        [[], ["a"], ["c", "a", "b"]],
        [["a", "a"], ["d"], ["a", "b", "c", "a"]],
    ),
    (
        "set of a size",
        {
            "type": "array",
            "items": {"$ref": "#/$defs/E"},
            "uniqueItems": True,
            "minItems": 1,
            "maxItems": 2,
            "$defs": {"E": {"enum": ["a", "b", "c", "d"]}},
        },
        [["d"], ["b", "a"]],
        [[], ["a", "b", "c"], ["a", "a"]],
    ),
    (
        "set of booleans",
        {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True},
        [[True, False]],
        [[True, True]],
    ),
    (
        "set or null",
        {"type": ["array", "null"], "items": {"enum": [1]}, "uniqueItems": True},
        [None, [1]],
        [[1, 1], 1],
    ),
    (
        "one item",
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "maxItems": 1},
        [[7]],
        [[7, 7]],
    ),
    (
        "no set",
        {"type": "array", "items": {"enum": ["a"]}, "uniqueItems": False, "maxItems": 3},
        [["a", "a"]],
        [["b"]],
    ),
    (
        "not a type",
        {"not": {"type": "null"}, "maxLength": 1, "maxItems": 0, "maxProperties": 0},
        ["x", 5, True],
        [None],
    ),
    (
        "not a type of some",
        {"type": ["string", "null", "integer"], "maxLength": 2, "not": {"type": ["null"]}},
        ["x", 5],
        [None, []],
    ),
    ("not a value of some", {"enum": ["a", "b", 1], "not": {"enum": ["b", 1]}}, ["a"], ["b", 1]),
    (
        "not a text",
        {"type": "string", "maxLength": 4, "not": {"enum": ["", "ab", "a.", "b\n"]}},
        ["a", "abc", "b", "ac", "ax", "\n"],
        ["", "ab", "a.", "b\n"],
    ),
    (
        "not an integer",
        {"type": "integer", "minimum": 0, "maximum": 12, "not": {"enum": [0, 5, 6]}},
        [1, 4, 7, 12],
        [0, 5, 6, 13],
    ),
    ("not a number", {"type": "number", "not": {"const": 5}}, [4.5, 6], [5]),
    ("not a boolean", {"type": ["boolean", "integer"], "not": {"const": True}}, [False, 1], [True]),
    (
        "not any of",
        {"type": ["string", "null"], "maxLength": 2, "not": {"anyOf": [{"type": "null"}, {"const": "x"}]}},
        ["y"],
        [None, "x"],
    ),
    (
        "not a reference",
        {"type": "string", "maxLength": 2, "not": {"$ref": "#/$defs/X"}, "$defs": {"X": {"const": "x"}}},
        ["y"],
        ["x"],
    ),
    (
        "not a property",
        {
            "type": "object",
            "properties": {"a": {"const": 1}, "b": {"const": 2}},
            "additionalProperties": False,
            "not": {"required": ["a"]},
        },
        [{}, {"b": 2}],
        [{"a": 1}, {"a": 1, "b": 2}],
    ),
    (
        "not both properties",
        {
            "type": "object",
            "properties": {"a": {"const": 1}, "b": {"const": 2}},
            "additionalProperties": False,
            "not": {"required": ["a", "b"]},
        },
        [{}, {"b": 2}, {"a": 1}],
        [{"a": 1, "b": 2}],
    ),
    ("not nothing", {"type": "null", "not": False}, [None], [1]),
    (
        "names",
        {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"const": 1}},
        [{}, {"a": 1}, {"a": 1, "b": 1}],
        [{"c": 1}, {"a": 2}],
    ),
    (
        "names by pattern",
        {
            "type": "object",
            "propertyNames": {"pattern": "^x[0-9]$"},
            "additionalProperties": {"const": 1},
            "maxProperties": 2,
        },
        [{"x1": 1}],
        [{"y": 1}, {"x1": 2}],
    ),
    (
        "names of any text",
        {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": False},
        [{}],
        [{"y": 1}],
    ),
]


VALIDATOR = jsonschema.Draft202012Validator
FORMAT_CHECKER = VALIDATOR.FORMAT_CHECKER


@cache
def tokenizer() -> LLTokenizer:
    return from_tokenizer(byte_tokenizer("<end>"), eos_token=0)


def matcher(schema: Any) -> LLMatcher:
    return LLMatcher(tokenizer(), grammar_of(json_rule(schema)), log_level=0)


def allows(schema: Any, value: Any) -> bool:
    """Return whether a text may be generated, to its end."""
    found = matcher(schema)
    assert not found.is_error(), found.get_error()
    tokens = tokenizer().tokenize_str(json.dumps(value, ensure_ascii=False))
    return found.try_consume_tokens(tokens) == len(tokens) and bool(found.is_accepting())


@pytest.mark.parametrize(
    ("schema", "right", "wrong"), [each[1:] for each in CASES], ids=[each[0] for each in CASES]
)
def test_what_follows_a_schema_is_allowed_and_nothing_else(
    schema: Any, right: list[Any], wrong: list[Any]
) -> None:
    for value in right:
        jsonschema.validate(value, schema)
        assert allows(schema, value), value
    for value in wrong:
        assert not VALIDATOR(schema, format_checker=FORMAT_CHECKER).is_valid(value), value
        assert not allows(schema, value), value


@pytest.mark.parametrize("schema", [each[1] for each in CASES], ids=[each[0] for each in CASES])
def test_whatever_is_generated_follows_the_schema(schema: Any) -> None:
    chance = random.Random(7)  # noqa: S311 - a test
    for _ in range(25):
        jsonschema.validate(generate(schema, chance), schema)


def generate(schema: Any, chance: random.Random) -> Any:
    """Return what a model without preferences writes: one byte after the other, whichever may come next."""
    found = matcher(schema)
    text = bytearray()
    while not found.is_stopped():
        mask = found.compute_bitmask()
        allowed = [index for index in range(tokenizer().vocab_size) if mask[index // 8] >> index % 8 & 1]
        # Ends and quotes first, now and then: texts would seldom end by chance.
        short = [
            token
            for token in allowed
            if token == 0 or tokenizer().decode_bytes([token]) in (b'"', b"}", b"]")
        ]
        token = chance.choice(short if short and chance.random() < 0.5 else allowed)
        assert found.consume_token(token), found.get_error()
        text += b"" if token == 0 else tokenizer().decode_bytes([token])
    return json.loads(text.decode(errors="replace"))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, OVERLAP.format(0, 1)),
        (
            {
                "properties": {
                    "a": {
                        "oneOf": [{"type": "string"}, {"type": "null"}, {"type": "string", "format": "date"}]
                    }
                }
            },
            OVERLAP.format(0, 2) + " (at #/properties/a)",
        ),
        (
            {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            "'uniqueItems' is enforced for items with a list of values (enum), not for others",
        ),
        (
            {"type": "array", "items": {"enum": list(range(9))}, "uniqueItems": True},
            "'uniqueItems' allows too many arrays of 9 values: a schema may have 1000; lower 'maxItems'",
        ),
        (
            {"type": "array", "items": {"enum": [1]}, "uniqueItems": True, "minItems": 2},
            "no array has 2 different ones of 1 values",
        ),
        ({"not": {}}, "'not' forbids every value (at #/not)"),
        ({"type": "null", "not": {"type": "null"}}, "'not' forbids every type that is allowed (at #/not)"),
        ({"const": 1, "not": {"enum": [1.0]}}, "'not' forbids every value that is allowed (at #/not)"),
        (
            {"type": "string", "not": {"pattern": "a"}},
            "'not' is enforced for types, values and required properties, not for pattern (at #/not)",
        ),
        ({"not": {"required": ["a"]}}, "'not' with 'required' is enforced for objects only (at #/not)"),
        ({"not": {"type": "integer"}}, "numbers that are no integers cannot be enforced (at #/not)"),
        (
            {"type": "array", "not": {"const": []}},
            "'not' is not enforced for arrays and objects (at #/not)",
        ),
        *(
            (
                {"type": "string", "not": {"const": text}},
                LONG_TEXT,
            )
            for text in ("x" * 65, "\\", '"')
        ),
        (
            {"propertyNames": {"minLength": 2}},
            "'propertyNames' is enforced for lists of names (enum), and for patterns alone",
        ),
        ({"oneOf": 5}, "'oneOf' has to be a list"),
        ({"items": {"properties": []}}, "'properties' has to be an object (at #/items)"),
    ],
)
def test_what_cannot_be_enforced_is_an_error_that_names_the_keyword(schema: Any, reason: str) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        rewrite_schema(schema)
    assert str(caught.value) == reason


def test_schemas_that_refer_to_themselves_end() -> None:
    tree = {"oneOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}], "$defs": {"Node": {
        "type": "object", "properties": {"next": {"oneOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
        "additionalProperties": False,
    }}}  # fmt: skip
    assert allows(tree, {"next": {"next": None}})
    assert not allows(tree, {"next": 1})
    with pytest.raises(UnsupportedSchemaError, match="do not exclude each other"):
        rewrite_schema({"oneOf": [{"$ref": "#"}, {"$ref": "#"}]})


@pytest.mark.parametrize("width", [2, 6])
def test_definitions_that_refer_to_each_other_take_no_time(width: int) -> None:
    names = [f"D{index}" for index in range(40)]
    links = dict(zip(names, [*names[1:], names[0]], strict=True))
    schema = {"oneOf": [{"$ref": "#/$defs/D0"}, {"$ref": "#/$defs/D1"}], "$defs": {
        name: {
            "type": "object", "required": ["k"],
            "properties": {"k": {"oneOf": [{"$ref": f"#/$defs/{link}"}] * width}},
        }
        for name, link in links.items()
    }}  # fmt: skip
    with pytest.raises(UnsupportedSchemaError, match="do not exclude each other"):
        rewrite_schema(schema)


def test_a_deep_schema_is_an_error() -> None:
    schema: dict[str, Any] = {"type": "null"}
    value: Any = 1
    for _ in range(500):
        schema, value = {"items": schema}, [value]
    with pytest.raises(UnsupportedSchemaError, match="nested deeper than 64 levels"):
        json_rule(schema)
    with pytest.raises(UnsupportedSchemaError, match="nested too deeply"):
        json_rule({"const": [value for value in [value] for _ in range(2)], "x": _nest(2000)})


def _nest(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_known_formats_are_llguidances(name: str) -> None:
    assert not LLMatcher.validate_grammar(
        grammar_of("%json " + json.dumps({"type": "string", "format": name}))
    )


@pytest.mark.parametrize("texts", [["a"], ["", "ab", "abc", "b"], ["\n", "]", "-", "^", "é", "/"]])
def test_the_pattern_of_other_texts_is_all_texts_but_these(texts: list[str]) -> None:
    schema = {"type": "string", "pattern": other_texts_pattern(texts)}
    others = [
        "x",
        "aa",
        "abd",
        "abcd",
        "\n\n",
        "]]",
        "--",
        "\\\\",
        "^^",
        "éé",
        "\t",
        *({"", "a", "b", "é"} - set(texts)),
    ]
    assert [text for text in texts if allows(schema, text)] == []
    assert [text for text in others if not allows(schema, text)] == []


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Square(BaseModel):
    kind: Literal["square"] = "square"
    side: int


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: int


class Drawing(BaseModel):
    shape: Annotated[Square | Circle, Field(discriminator="kind")]
    colours: set[Colour]
    counts: dict[Literal["a", "b"], int] = {}


def test_what_pydantic_writes_is_enforced() -> None:
    schema = Drawing.model_json_schema()
    value = {"shape": {"kind": "circle", "radius": 3}, "colours": ["blue", "red"], "counts": {"b": 1}}
    assert allows(schema, value)
    assert not allows(schema, {**value, "colours": ["red", "red"]})
    assert not allows(schema, {**value, "counts": {"c": 1}})
    assert not allows(schema, {**value, "shape": {"kind": "circle", "side": "x"}})
    chance = random.Random(3)  # noqa: S311 - a test
    for _ in range(20):
        Drawing.model_validate(generate(schema, chance))


def test_llguidances_own_option_leaves_alternatives_as_they_are() -> None:
    schema = {"oneOf": [{"type": "number"}, {"type": "integer"}], "x-guidance": {"coerce_one_of": True}}
    assert allows(schema, 5)

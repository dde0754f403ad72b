"""Schemas with any values in the place of any keyword: they can be enforced, or it is said why not."""

from __future__ import annotations

import random
from typing import Any, Final

import pytest

from inference.text.grammar import find_grammar_error, grammar_of, json_rule
from inference.text.json_schema import UnsupportedSchemaError, rewrite_schema

KEYWORDS: Final = (
    "$defs", "$ref", "additionalProperties", "allOf", "anyOf", "components", "const", "contains",
    "definitions", "dependentRequired", "enum", "else", "format", "if", "items", "maxItems", "maxLength",
    "maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "not", "oneOf", "pattern",
    "patternProperties", "prefixItems", "properties", "propertyNames", "required", "then", "type",
    "uniqueItems", "x-guidance",
)  # fmt: skip
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, -1, 0, 3, 1.5, 10**30, float("nan"), float("inf"), "", "x", "(", "#", "#/$defs/a",
    "string", "object", "\ud800", [], [None], [1, "a"], ["a", "b"], [[]], [{}], [{"type": "string"}, {}],
    [{"const": 1}, {"const": True}], {}, {"a": None}, {"a": {}}, {"a": False}, {"type": "string"},
    {"type": "integer"}, {"$ref": "#"}, {"pattern": ["a"]}, {"enum": 5}, {"enum": ["a"]}, {"required": [5]},
    {"anyOf": [{"const": "a"}, True]}, {"not": {"not": {}}},
)  # fmt: skip


def find_error(schema: Any) -> str | None:
    """Return why a schema cannot be enforced; None if it can."""
    try:
        return find_grammar_error(grammar_of(json_rule(schema)))
    except UnsupportedSchemaError as error:
        return str(error)


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_any_value_of_a_keyword_has_an_answer(keyword: str) -> None:
    for value in VALUES:
        for schema in (
            {keyword: value},
            {"type": "object", keyword: value},
            {"properties": {"a": {keyword: value}}, "$defs": {"a": {keyword: value}}},
            {"not": {keyword: value}},
            {"oneOf": [{keyword: value}, {"type": "null"}]},
        ):
            assert find_error(schema) != "", schema


def test_any_values_of_several_keywords_have_an_answer() -> None:
    chance = random.Random(5)  # noqa: S311 - a test
    for _ in range(1500):
        schema = {keyword: chance.choice(VALUES) for keyword in chance.sample(KEYWORDS, 4)}
        assert find_error(schema) != "", schema


@pytest.mark.parametrize(
    ("names", "rewritten"),
    [
        (True, {"properties": {"a": {}}}),
        ({}, {"properties": {"a": {}}}),
        (False, {"properties": {"a": False}, "additionalProperties": False}),
        ({"type": "integer"}, {"properties": {"a": False}, "additionalProperties": False}),
    ],
)
def test_all_names_may_be_allowed_or_none(names: Any, rewritten: dict[str, Any]) -> None:
    assert rewrite_schema({"properties": {"a": {}}, "propertyNames": names}) == rewritten


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (5, "'propertyNames' has to be a schema"),
        ({"pattern": ["a"]}, "'pattern' has to be a text (at #/propertyNames)"),
        ({"enum": "a"}, "'enum' has to be a list (at #/propertyNames)"),
    ],
)
def test_names_that_are_no_schema_are_an_error(names: Any, reason: str) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        rewrite_schema({"propertyNames": names})
    assert str(caught.value) == reason

"""What a JSON Schema is known to allow: types, values and properties. Pure.

Facts may be weaker than the schema, never stronger: a value that the schema allows agrees with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import unquote

Schema = dict[str, Any] | bool

ALL_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
"""The types of JSON Schema. A set with `number` has `integer` too, which is a kind of number."""

FINITE_TYPES: Final[Mapping[str, tuple[Any, ...]]] = {"boolean": (True, False), "null": (None,)}
"""The types with few values."""

MAX_REFERENCES: Final = 16
"""A chain of references is followed this far."""

MAX_COMPARISONS: Final = 5000
"""Pairs of schemas are compared this often for a whole schema; then nothing more is known of them."""

MAX_COMPARISON_DEPTH: Final = 8
"""Properties and alternatives of compared schemas are compared this deep."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the values that a schema allows.

    Attributes:
        types: Their types.
        values: All of them, if the schema lists them; None if it does not.
        required: The properties that each object has.
        properties: The schemas that each property has to follow.
        is_closed: Whether objects have no properties but these.
        minimum: The least number, inclusive.
        maximum: The largest.
        alternatives: What is known of each alternative, one of which holds; empty if there are none.
    """

    types: frozenset[str] = ALL_TYPES
    values: tuple[Any, ...] | None = None
    required: frozenset[str] = frozenset()
    properties: Mapping[str, tuple[Schema, ...]] = field(default_factory=dict)
    is_closed: bool = False
    minimum: float = float("-inf")
    maximum: float = float("inf")
    alternatives: tuple[Facts, ...] = ()

    @property
    def all_values(self) -> tuple[Any, ...] | None:
        """Return all values, if the schema lists them or their types have few; None otherwise."""
        if self.values is None and self.types <= FINITE_TYPES.keys():
            return tuple(value for kind in sorted(self.types) for value in FINITE_TYPES[kind])
        return self.values

    def within(self, types: frozenset[str]) -> Facts:
        """Return the facts of those values that are of some types."""
        alternatives = tuple(each.within(types) for each in self.alternatives)
        return replace(self, types=self.types & types, alternatives=alternatives)


class FactReader:
    """Reads the facts of the parts of one schema.

    Args:
        root: The whole schema, in which references are looked up.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._by_reference: dict[str, Facts] = {}
        self._comparisons_left = MAX_COMPARISONS

    def resolve(self, schema: Schema) -> Any:  # noqa: ANN401 - a schema, or whatever else is there
        """Return what a schema refers to, if it is a reference within the root, else the schema itself."""
        for _ in range(MAX_REFERENCES):
            reference = schema.get("$ref") if isinstance(schema, dict) else None
            if not isinstance(reference, str) or not reference.startswith("#"):
                return schema
            target: Any = self._root
            for part in reference.removeprefix("#").split("/")[1:]:
                key = unquote(part).replace("~1", "/").replace("~0", "~")
                target = target.get(key, {}) if isinstance(target, Mapping) else {}
            schema = target
        return schema

    def read(self, schema: Schema) -> Facts:
        """Return what is known of the values that a schema allows."""
        if schema is False:
            return Facts(types=frozenset())
        if not isinstance(schema, dict):
            return Facts()
        found = _own_facts(schema)
        if isinstance(schema.get("$ref"), str):
            found = _both(found, self._read_reference(schema["$ref"]))
        for part in _list(schema.get("allOf")):
            found = _both(found, self.read(part))
        for key in ("anyOf", "oneOf"):
            alternatives = tuple(self.read(part).within(found.types) for part in _list(schema.get(key)))
            if alternatives:
                types = found.types & frozenset().union(*(each.types for each in alternatives))
                found = replace(_with_values(found, _union(alternatives)), alternatives=alternatives)
                found = replace(found, types=found.types & types)
        return found

    def read_property(self, facts: Facts, name: str) -> Facts:
        """Return what is known of the values of an object's property."""
        schemas = facts.properties.get(name, ())
        found = Facts(types=frozenset()) if facts.is_closed and not schemas else Facts()
        for schema in schemas:
            found = _both(found, self.read(schema))
        return found

    def exclude_each_other(self, first: Facts, second: Facts, depth: int = 0) -> bool:
        """Return whether no value agrees with both; false also if that is not known."""
        self._comparisons_left -= 1
        if self._comparisons_left < 0 or depth > MAX_COMPARISON_DEPTH:
            return False
        types = first.types & second.types
        if not types:
            return True
        for one, other in ((first, second), (second, first)):
            alternatives = one.alternatives
            if alternatives and all(self.exclude_each_other(each, other, depth + 1) for each in alternatives):
                return True
        if first.values is not None and second.values is not None:
            return not {key_of(value) for value in first.values} & {key_of(value) for value in second.values}
        if types <= {"integer", "number"}:
            return first.maximum < second.minimum or second.maximum < first.minimum
        return types == {"object"} and any(
            self.exclude_each_other(
                self.read_property(first, name), self.read_property(second, name), depth + 1
            )
            for name in sorted(first.required | second.required)
        )

    def _read_reference(self, reference: str) -> Facts:
        if reference not in self._by_reference:
            # While it is read, nothing is known of it: it may refer to itself.
            self._by_reference[reference] = Facts()
            self._by_reference[reference] = self.read(self.resolve({"$ref": reference}))
        return self._by_reference[reference]


def key_of(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return a text that equal values have in common; in JSON, unlike in Python, true is not 1."""
    return json.dumps(_normal(value), sort_keys=True)


def _normal(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a value with integers for numbers such as 1.0."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_normal(each) for each in value]
        case dict():
            return {key: _normal(each) for key, each in value.items()}
        case _:
            return value


def types_of(value: Any) -> frozenset[str]:  # noqa: ANN401 - JSON
    """Return the types that a value has: an integer is a number too."""
    match value:
        case None:
            return frozenset({"null"})
        case bool():
            return frozenset({"boolean"})
        case int() | float():
            is_integer = isinstance(value, int) or value.is_integer()
            return frozenset({"number", "integer"} if is_integer else {"number"})
        case str():
            return frozenset({"string"})
        case list():
            return frozenset({"array"})
        case _:
            return frozenset({"object"})


def read_types(kinds: Any) -> frozenset[str]:  # noqa: ANN401 - JSON
    """Return the types that a `type` keyword names; all of them if it names none."""
    named = [kinds] if isinstance(kinds, str) else [kind for kind in _list(kinds) if isinstance(kind, str)]
    types = frozenset(named) & ALL_TYPES if named else ALL_TYPES
    return types | {"integer"} if "number" in types else types


def _own_facts(schema: Mapping[str, Any]) -> Facts:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    properties = schema.get("properties")
    found = Facts(
        types=read_types(schema.get("type")),
        required=frozenset(name for name in _list(schema.get("required")) if isinstance(name, str)),
        properties={name: (part,) for name, part in properties.items()}
        if isinstance(properties, Mapping)
        else {},
        is_closed=schema.get("additionalProperties") is False and "patternProperties" not in schema,
        minimum=_number(schema.get("minimum"), float("-inf")),
        maximum=_number(schema.get("maximum"), float("inf")),
    )
    return _with_values(found, tuple(values) if isinstance(values, list) else None)


def _both(first: Facts, second: Facts) -> Facts:
    """Return the facts of values that agree with both."""
    names = {**first.properties, **second.properties}
    properties = {name: (*first.properties.get(name, ()), *second.properties.get(name, ())) for name in names}
    for one, other in ((first, second), (second, first)):
        if one.is_closed:
            properties |= {name: (False,) for name in other.properties if name not in one.properties}
    found = Facts(
        types=first.types & second.types,
        values=first.values,
        required=first.required | second.required,
        properties=properties,
        is_closed=first.is_closed or second.is_closed,
        minimum=max(first.minimum, second.minimum),
        maximum=min(first.maximum, second.maximum),
        alternatives=first.alternatives or second.alternatives,
    )
    return _with_values(found, second.values)


def _with_values(facts: Facts, values: tuple[Any, ...] | None) -> Facts:
    """Return facts with a list of all values, reduced to those of the known types."""
    if values is None:
        return facts
    known = None if facts.values is None else {key_of(value) for value in facts.values}
    left = tuple(
        value
        for value in values
        if (known is None or key_of(value) in known) and types_of(value) & facts.types
    )
    types = frozenset().union(*(types_of(value) for value in left)) & facts.types
    return replace(facts, values=left, types=types)


def _union(alternatives: tuple[Facts, ...]) -> tuple[Any, ...] | None:
    """Return the values that some alternative has; None if they are not known."""
    found: list[Any] = []
    for each in alternatives:
        if each.values is None:
            return None
        found += each.values
    return tuple(found)


def _list(value: Any) -> list[Any]:  # noqa: ANN401 - JSON
    return value if isinstance(value, list) else []


def _number(value: Any, default: float) -> float:  # noqa: ANN401 - JSON
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default

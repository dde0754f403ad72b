"""Rewrite JSON Schemas, as pydantic, OpenAPI and MCP write them, with the keywords that llguidance enforces.

A rewritten schema may be stricter than the original, never looser: whatever follows it follows the original.
What cannot be rewritten so is an error that names the keyword and where it is.

Source: JSON Schema 2020-12, "Core" and "Validation"; llguidance, `docs/json_schema.md`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from inference.text.schema_facts import FactReader, Facts, Schema, key_of, read_types, types_of

FORMATS: Final = frozenset({
    "date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid",
})  # fmt: skip
"""The formats of strings that llguidance enforces; any other is an annotation."""

ANNOTATIONS: Final = frozenset({
    "$comment", "default", "deprecated", "description", "example", "examples", "readOnly", "title",
    "writeOnly",
})  # fmt: skip

MAX_ARRANGEMENTS: Final = 1000
"""An array of unique values is enforced by listing all such arrays, if there are no more than this."""

MAX_FORBIDDEN_TEXT: Final = 64
MAX_NESTING: Final = 64

SCHEMA_MAPS: Final = ("properties", "patternProperties", "$defs", "definitions", "schemas")
SCHEMA_LISTS: Final = ("anyOf", "allOf", "oneOf", "prefixItems")
SCHEMAS: Final = ("additionalProperties", "items", "contains", "if", "then", "else", "components")
"""The keywords whose values are schemas. OpenAPI keeps definitions in `components`, under `schemas`."""

KINDS: Final[Mapping[str, tuple[type | tuple[type, ...], str]]] = {
    **dict.fromkeys((*SCHEMA_LISTS, "enum", "required"), (list, "a list")),
    **dict.fromkeys(("properties", "patternProperties"), (dict, "an object")),
    **dict.fromkeys(("minItems", "maxItems"), (int, "an integer")),
    **dict.fromkeys(("pattern", "format", "$ref"), (str, "a text")),
}
"""What the values of the keywords that are read here have to be."""


class UnsupportedSchemaError(ValueError):
    """A schema that cannot be enforced.

    Args:
        reason: What cannot be enforced, and why.
        place: Where in the schema it is, as a JSON pointer.
    """

    def __init__(self, reason: str, place: str) -> None:
        super().__init__(reason if place == "#" else f"{reason} (at {place})")


def rewrite_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that llguidance can enforce, as far as this module can rewrite it.

    Raises:
        UnsupportedSchemaError: If a keyword cannot be enforced.
    """
    options = schema.get("x-guidance")
    coerces = isinstance(options, Mapping) and bool(options.get("coerce_one_of"))
    return _Rewriter(schema, coerces_one_of=coerces).rewrite(schema, "#")


class _Rewriter:
    """Rewrites the parts of one schema.

    Args:
        root: The whole schema.
        coerces_one_of: Treat `oneOf` as `anyOf`, which llguidance has an option for.
    """

    def __init__(self, root: Mapping[str, Any], *, coerces_one_of: bool) -> None:
        self._facts = FactReader(root)
        self._coerces_one_of = coerces_one_of
        self._arrangements_left = MAX_ARRANGEMENTS

    def rewrite(self, schema: Mapping[str, Any], place: str) -> dict[str, Any]:
        _check_kinds(schema, place)
        node = self._rewrite_parts(schema, place)
        if node.get("format") not in FORMATS:
            node.pop("format", None)
        if "not" in node:
            node = self._negate(node, place)
        if "propertyNames" in node:
            node = self._hold_property_names(node, place)
        if "oneOf" in node and not self._coerces_one_of:
            node = self._hold_one_of(node, place)
        if "uniqueItems" in node:
            node = self._hold_unique_items(node, place)
        return node

    def _rewrite_parts(self, schema: Mapping[str, Any], place: str) -> dict[str, Any]:
        node = dict(schema)
        for key in SCHEMA_MAPS:
            if isinstance(node.get(key), dict):
                node[key] = {
                    name: self._rewrite_part(part, f"{place}/{key}/{name}")
                    for name, part in node[key].items()
                }
        for key in SCHEMA_LISTS:
            if key in node:
                node[key] = [
                    self._rewrite_part(part, f"{place}/{key}/{index}") for index, part in enumerate(node[key])
                ]
        for key in SCHEMAS:
            if key in node:
                node[key] = self._rewrite_part(node[key], f"{place}/{key}")
        return node

    def _rewrite_part(self, part: Any, place: str) -> Any:  # noqa: ANN401 - a schema, or whatever else is there
        return self.rewrite(part, place) if isinstance(part, dict) else part

    # oneOf

    def _hold_one_of(self, node: dict[str, Any], place: str) -> dict[str, Any]:
        """Replace `oneOf` by `anyOf`, with alternatives that exclude each other."""
        alternatives = [part if isinstance(part, dict) else {} if part else False for part in node["oneOf"]]
        rest = {key: value for key, value in node.items() if key not in {"oneOf", "discriminator"}}
        types = self._facts.read(rest).types
        required: list[set[str]] = [set() for _ in alternatives]
        forbidden: list[set[str]] = [set() for _ in alternatives]
        facts = [self._facts.read(part).within(types) for part in alternatives]
        for (left, first), (right, second) in itertools.combinations(enumerate(facts), 2):
            if self._facts.exclude_each_other(first, second):
                continue
            if (name := self._distinguishing_property(first, second)) is not None:
                required[left].add(name)
                required[right].add(name)
            elif (names := _opposing_properties(first, second)) is not None:
                forbidden[right].add(names[0])
                forbidden[left].add(names[1])
            else:
                raise UnsupportedSchemaError(
                    f"the alternatives {left} and {right} of 'oneOf' do not exclude each other: use 'anyOf',"
                    " or give them a property with different constants",
                    place,
                )
        whole = [
            _narrow(part, needed, banned)
            for part, needed, banned in zip(alternatives, required, forbidden, strict=True)
        ]
        return _also(rest, {"anyOf": whole})

    def _distinguishing_property(self, first: Facts, second: Facts) -> str | None:
        """Return a property that no object has with a value that both schemas allow."""
        if first.types != {"object"} or second.types != {"object"}:
            return None
        for name in first.properties:
            own, other = self._facts.read_property(first, name), self._facts.read_property(second, name)
            if name in second.properties and self._facts.exclude_each_other(own, other):
                return name
        return None

    # not

    def _negate(self, node: dict[str, Any], place: str) -> dict[str, Any]:
        rest = {key: value for key, value in node.items() if key != "not"}
        for part in self._split_negation(node["not"], f"{place}/not"):
            rest = self._apply_negation(rest, part, f"{place}/not")
        return rest

    def _split_negation(self, negated: Any, place: str) -> list[Schema]:  # noqa: ANN401 - a schema, or whatever else
        """Return the schemas that must not hold: those of an `anyOf`, else the schema itself."""
        if isinstance(negated, dict) and negated.keys() - ANNOTATIONS == {"$ref"}:
            negated = self._facts.resolve(negated)
        if not isinstance(negated, dict):
            return [bool(negated)]
        _check_kinds(negated, place)
        if negated.keys() - ANNOTATIONS == {"anyOf"}:
            parts = enumerate(negated["anyOf"])
            return [
                each for index, part in parts for each in self._split_negation(part, f"{place}/anyOf/{index}")
            ]
        return [negated]

    def _apply_negation(self, node: dict[str, Any], negated: Schema, place: str) -> dict[str, Any]:
        if negated is False:
            return node
        keys = negated.keys() - ANNOTATIONS if isinstance(negated, dict) else set()
        if not isinstance(negated, dict) or not keys:
            raise UnsupportedSchemaError("'not' forbids every value", place)
        if keys == {"type"}:
            return self._without_types(node, negated["type"], place)
        if keys in ({"const"}, {"enum"}, {"const", "type"}, {"enum", "type"}):
            values = [negated["const"]] if "const" in keys else negated["enum"]
            kinds = read_types(negated.get("type"))
            return self._without_values(node, [each for each in values if kinds & types_of(each)], place)
        if keys in ({"required"}, {"required", "type"}) and negated.get("type", "object") == "object":
            if self._facts.read(node).types != {"object"}:
                raise UnsupportedSchemaError("'not' with 'required' is enforced for objects only", place)
            missing = [{"properties": {str(name): False}} for name in negated["required"]]
            return _also(node, {"anyOf": missing} if len(missing) != 1 else missing[0])
        raise UnsupportedSchemaError(
            f"'not' is enforced for types, values and required properties, not for {', '.join(sorted(keys))}",
            place,
        )

    def _without_types(self, node: dict[str, Any], types: Any, place: str) -> dict[str, Any]:  # noqa: ANN401 - JSON
        left = self._facts.read(node).types - read_types(types)
        if not left:
            raise UnsupportedSchemaError("'not' forbids every type that is allowed", place)
        if {"number", "integer"} & left == {"number"}:
            raise UnsupportedSchemaError("numbers that are no integers cannot be enforced", place)
        return {**node, "type": _type_list(left)}

    def _without_values(self, node: dict[str, Any], values: Sequence[Any], place: str) -> dict[str, Any]:
        known = self._facts.read(node)
        if known.values is not None:
            forbidden = set(map(key_of, values))
            left = [value for value in known.values if key_of(value) not in forbidden]
            if not left:
                raise UnsupportedSchemaError("'not' forbids every value that is allowed", place)
            kept = {key: value for key, value in node.items() if key not in {"const", "enum", "type"}}
            return {**kept, "enum": left}
        present = [value for value in values if types_of(value) & known.types]
        return _also(node, {"anyOf": _complement(known.types, present, place)}) if present else node

    # propertyNames

    def _hold_property_names(self, node: dict[str, Any], place: str) -> dict[str, Any]:
        """Replace `propertyNames` with a list of names, or a pattern, by properties."""
        condition = self._facts.resolve(node["propertyNames"])
        if isinstance(condition, dict):
            _check_kinds(condition, f"{place}/propertyNames")
        elif not isinstance(condition, bool):
            raise UnsupportedSchemaError("'propertyNames' has to be a schema", place)
        facts = self._facts.read(condition)
        names = facts.values if "string" in facts.types else ()
        rest = {key: value for key, value in node.items() if key != "propertyNames"}
        known, others = rest.get("properties", {}), rest.get("additionalProperties", True)
        if names is not None and "patternProperties" not in rest:
            listed = {name: known.get(name, others) for name in names if isinstance(name, str)}
            banned = {name: False for name in known if name not in listed}
            return {**rest, "properties": {**listed, **banned}, "additionalProperties": False}
        keys = condition.keys() - ANNOTATIONS if isinstance(condition, dict) else set()
        if keys <= {"type"} and names is None:
            return rest
        if (
            "pattern" in keys
            and keys <= {"pattern", "type"}
            and not known
            and "patternProperties" not in rest
        ):
            patterns = {condition["pattern"]: others}
            return {**rest, "patternProperties": patterns, "additionalProperties": False}
        raise UnsupportedSchemaError(
            "'propertyNames' is enforced for lists of names (enum), and for patterns alone", place
        )

    # uniqueItems

    def _hold_unique_items(self, node: dict[str, Any], place: str) -> dict[str, Any]:
        """Replace `uniqueItems` by the list of all arrays of unique values."""
        rest = {key: value for key, value in node.items() if key != "uniqueItems"}
        types = self._facts.read(rest).types
        if node["uniqueItems"] is not True or rest.get("maxItems", 2) <= 1 or "array" not in types:
            return rest
        values = self._facts.read(rest.get("items", True)).all_values
        if values is None or rest.keys() & {"prefixItems", "contains"}:
            raise UnsupportedSchemaError(
                "'uniqueItems' is enforced for items with a list of values (enum), not for others", place
            )
        unique = list({key_of(value): value for value in values}.values())
        least, most = max(0, rest.get("minItems", 0)), min(rest.get("maxItems", len(unique)), len(unique))
        if least > most:
            raise UnsupportedSchemaError(
                f"no array has {least} different ones of {len(unique)} values", place
            )
        for length in range(least, most + 1):
            self._arrangements_left -= math.perm(len(unique), length)
            if self._arrangements_left < 0:
                raise UnsupportedSchemaError(
                    f"'uniqueItems' allows too many arrays of {len(unique)} values: a schema may"
                    f" have {MAX_ARRANGEMENTS}; lower 'maxItems'",
                    place,
                )
        lengths = range(least, most + 1)
        arrays = [list(each) for length in lengths for each in itertools.permutations(unique, length)]
        kept = {key: value for key, value in rest.items() if key not in {"items", "minItems", "maxItems"}}
        others = types - {"array"}
        listed: dict[str, Any] = {"enum": arrays}
        return _also(kept, {"anyOf": [listed, {"type": _type_list(others)}]} if others else listed)


def other_texts_pattern(texts: Sequence[str]) -> str:
    """Return a regular expression, without look-around, for all texts but these."""
    return f"^({_other_texts(tuple(sorted(set(texts))))})$"


def _other_texts(texts: tuple[str, ...]) -> str:
    """Return the alternatives for a text that is none of some texts."""
    heads = sorted({text[0] for text in texts if text})
    found = [] if "" in texts else [""]
    found.append(f"[^{''.join(map(_escape, heads))}](.|\\n)*" if heads else "(.|\\n)+")
    for head in heads:
        rest = tuple(text[1:] for text in texts if text.startswith(head))
        found.append(f"{_escape(head)}({_other_texts(rest)})")
    return "|".join(found)


def _escape(character: str) -> str:
    return character if character.isalnum() else f"\\x{{{ord(character):x}}}"


def _complement(types: frozenset[str], values: Sequence[Any], place: str) -> list[dict[str, Any]]:
    """Return the alternatives that together are all values of some types, but for some values."""
    texts = [value for value in values if isinstance(value, str)]
    # llguidance's class of all characters but a quote or a backslash has them, as JSON escapes both.
    if any(len(text) > MAX_FORBIDDEN_TEXT or not {*text}.isdisjoint('"\\') for text in texts):
        raise UnsupportedSchemaError(
            f"'not' is enforced for texts of up to {MAX_FORBIDDEN_TEXT} characters, without quotes or"
            " backslashes",
            place,
        )
    numbers = sorted({value for value in values if _is_number(value)})
    others = [value for value in values if not isinstance(value, str) and not _is_number(value)]
    if any(isinstance(value, list | dict) for value in others):
        raise UnsupportedSchemaError("'not' is not enforced for arrays and objects", place)
    finite = [
        value
        for value in (True, False, None)
        if types_of(value) & types and all(value is not other for other in others)
    ]
    free = types & {"array", "object"}
    found: list[dict[str, Any]] = [{"type": _type_list(free)}] if free else []
    found += [{"enum": finite}] if finite else []
    if "string" in types:
        found.append({"type": "string", **({"pattern": other_texts_pattern(texts)} if texts else {})})
    if kind := "number" if "number" in types else "integer" if "integer" in types else "":
        found += [{"type": kind, **bounds} for bounds in _gaps(numbers, is_integer=kind == "integer")]
    return found


def _gaps(numbers: Sequence[float], *, is_integer: bool) -> list[dict[str, float]]:
    """Return the ranges between some ascending numbers, which are left out."""
    if is_integer:
        numbers = [int(number) for number in numbers if "integer" in types_of(number)]
    lows: list[dict[str, float]] = [{}]
    highs: list[dict[str, float]] = []
    for number in numbers:
        highs.append({"maximum": number - 1} if is_integer else {"exclusiveMaximum": number})
        lows.append({"minimum": number + 1} if is_integer else {"exclusiveMinimum": number})
    highs.append({})
    ranges = [{**low, **high} for low, high in zip(lows, highs, strict=True)]
    return [each for each in ranges if each.get("minimum", -math.inf) <= each.get("maximum", math.inf)]


def _opposing_properties(first: Facts, second: Facts) -> tuple[str, str] | None:
    """Return a property that only the first schema requires, and one that only the second requires."""
    if not first.types | second.types <= {"object"}:
        return None
    only_first, only_second = first.required - second.required, second.required - first.required
    return (min(only_first), min(only_second)) if only_first and only_second else None


def _narrow(schema: Schema, required: set[str], forbidden: set[str]) -> Schema:
    if not isinstance(schema, dict) or not (required or forbidden):
        return schema
    condition: dict[str, Any] = {"required": sorted(required)} if required else {}
    if forbidden:
        condition["properties"] = dict.fromkeys(sorted(forbidden), False)
    return {"allOf": [schema, condition]}


def _also(node: dict[str, Any], condition: Schema) -> dict[str, Any]:
    """Return a schema with one more condition."""
    if isinstance(condition, dict) and not node.keys() & condition.keys():
        return {**node, **condition}
    return {**node, "allOf": [*node.get("allOf", []), condition]}


def _type_list(types: frozenset[str]) -> list[str]:
    return sorted(types - {"integer"} if "number" in types else types)


def _is_number(value: Any) -> bool:  # noqa: ANN401 - JSON
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_kinds(schema: Mapping[str, Any], place: str) -> None:
    """Check the keywords that are read here.

    Raises:
        UnsupportedSchemaError: If one has a value of another kind, or the schema is nested too deeply.
    """
    if place.count("/") > MAX_NESTING:
        raise UnsupportedSchemaError(f"it is nested deeper than {MAX_NESTING} levels", "#")
    for key, (kind, name) in KINDS.items():
        if key in schema and not isinstance(schema[key], kind):
            raise UnsupportedSchemaError(f"'{key}' has to be {name}", place)

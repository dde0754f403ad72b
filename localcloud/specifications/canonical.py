"""Give a request body the specification's spelling, as Azure's own deserializers do.

Azure ignores the case of property names and of enumeration values, and reads a number that is sent as text:
`az` sends counts and traffic weights as text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from localcloud.specifications.catalogue import Schema, body_schema, resolved

if TYPE_CHECKING:
    from collections.abc import Mapping

_INTEGER: Final = re.compile(r"-?\d+")
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")


def canonical_body(full_type: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body with the names, enumeration values and numbers as the type's specification has them."""
    schema = body_schema(full_type)
    return dict(body) if schema is None else _object(dict(body), schema, schema)


def _value(value: Any, schema: Schema, root: Schema) -> Any:  # noqa: ANN401 - JSON
    schema = resolved(schema, root)
    if isinstance(value, dict):
        return _object(value, schema, root)
    if isinstance(value, list):
        return [_value(item, schema.get("items", {}), root) for item in value]
    return _text(value, schema) if isinstance(value, str) else value


def _object(value: dict[str, Any], schema: Schema, root: Schema) -> dict[str, Any]:
    schema = resolved(schema, root)
    properties: dict[str, Schema] = schema.get("properties", {})
    spelling = {name.lower(): name for name in properties}
    more = schema.get("additionalProperties") or {}
    found: dict[str, Any] = {}
    for sent, inner in value.items():
        name = spelling.get(sent.lower(), sent)
        found[name] = _value(inner, properties.get(name, more), root)
    return found


def _text(value: str, schema: Schema) -> Any:  # noqa: ANN401 - JSON
    kind = schema.get("type")
    if kind == "integer" and _INTEGER.fullmatch(value):
        return int(value)
    if kind == "number" and _NUMBER.fullmatch(value):
        return float(value)
    # Some values may be sent with spaces, such as "SystemAssigned, UserAssigned".
    same = {_folded(choice): choice for choice in schema.get("enum", ())}
    return same.get(_folded(value), value)


def _folded(text: str) -> str:
    return text.replace(" ", "").lower()

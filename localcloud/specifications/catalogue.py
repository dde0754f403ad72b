"""Read the data of the specification: schemas of bodies, and the api-versions that Azure has."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

Schema = dict[str, Any]

_DATA: Final = Path(__file__).parent / "data"


def known_versions(full_type: str) -> tuple[str, ...]:
    """Return every api-version that Azure has for a type, oldest first; none for an unknown type."""
    found = _namespace(full_type.partition("/")[0].lower())
    return tuple(found.get("types", {}).get(full_type.lower(), {}).get("versions", ()))


def namespace_versions(namespace: str) -> tuple[str, ...]:
    """Return every api-version that Azure has for any type of a namespace, oldest first."""
    return tuple(_namespace(namespace.lower()).get("versions", ()))


def body_schema(full_type: str) -> Schema | None:
    """Return the JSON Schema of a type's body, with its `$defs`; None for a type without one."""
    document = _namespace(full_type.partition("/")[0].lower())
    reference = document.get("types", {}).get(full_type.lower(), {}).get("body")
    return None if reference is None else {"$ref": reference, "$defs": document["$defs"]}


def resolved(schema: Schema, root: Schema) -> Schema:
    """Return the definition that a schema refers to, or the schema itself."""
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Schema = root["$defs"][reference.removeprefix("#/$defs/")]
    return found


@cache
def _namespace(namespace: str) -> dict[str, Any]:
    path = _DATA / f"{namespace}.json"
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found

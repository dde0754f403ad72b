"""Make the data of the specification: `python -m localcloud.specifications.trim FOLDER`.

FOLDER is `generated/` of Azure/bicep-types-az: an `index.json`, and a `types.json` for each namespace and
api-version, compiled from Azure/azure-rest-api-specs. What is kept is what decides whether a body is valid;
descriptions and other types are dropped. Read-only properties keep their name only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

# The api-version that is validated: the newest one that the local cloud supports.
BODIES: Final = {
    "Microsoft.App/containerApps": "2026-01-01",
    "Microsoft.App/jobs": "2026-01-01",
    "Microsoft.App/managedEnvironments": "2026-01-01",
    "Microsoft.App/managedEnvironments/storages": "2026-01-01",
    "Microsoft.OperationalInsights/workspaces": "2025-07-01",
    "Microsoft.Storage/storageAccounts": "2025-08-01",
    "Microsoft.Storage/storageAccounts/fileServices": "2025-08-01",
    "Microsoft.Storage/storageAccounts/fileServices/shares": "2025-08-01",
}
NAMESPACES: Final = (
    "Microsoft.App",
    "Microsoft.OperationalInsights",
    "Microsoft.Resources",
    "Microsoft.Storage",
)

# The flags of a property.
_REQUIRED: Final = 1
_READ_ONLY: Final = 2
_IN_THE_PATH: Final = frozenset({"id", "name", "type", "apiVersion"})
# Bicep has no decimal numbers: its types call these two integers, the specification `number`.
_DECIMALS: Final = frozenset({("ContainerResources", "cpu"), ("WorkspaceCapping", "dailyQuotaGb")})
_LIMITS: Final = {"minLength": "minLength", "maxLength": "maxLength", "pattern": "pattern"}
_RANGE: Final = {"minValue": "minimum", "maxValue": "maximum"}


def main() -> None:
    """Write the data of every namespace."""
    folder, target = Path(sys.argv[1]), Path(__file__).parent / "data"
    index = json.loads((folder / "index.json").read_text("utf-8"))["resources"]
    for namespace in NAMESPACES:
        document = _namespace(folder, index, namespace)
        text = json.dumps(document, indent=1, sort_keys=True) + "\n"
        (target / f"{namespace.lower()}.json").write_text(text, "utf-8")


def _namespace(folder: Path, index: dict[str, Any], namespace: str) -> dict[str, Any]:
    versions: dict[str, list[str]] = {}
    for key in index:
        full_type, _, version = key.partition("@")
        if full_type.lower().startswith(f"{namespace.lower()}/"):
            versions.setdefault(full_type.lower(), []).append(version)
    definitions: dict[str, Any] = {}
    types: dict[str, Any] = {name: {"versions": sorted(found)} for name, found in versions.items()}
    for full_type, version in BODIES.items():
        if full_type.startswith(f"{namespace}/"):
            path, _, number = index[f"{full_type}@{version}"]["$ref"].partition("#/")
            trimmer = _Trimmer(json.loads((folder / path).read_text("utf-8")), definitions, full_type)
            types[full_type.lower()] |= {"apiVersion": version, "body": trimmer.body(int(number))}
    every = sorted({version for found in versions.values() for version in found})
    source = "Azure/azure-rest-api-specs, by way of Azure/bicep-types-az in the Bicep CLI 0.49.2"
    return {"$comment": source, "versions": every, "types": types, "$defs": definitions}


class _Trimmer:
    """Turns Bicep's types into definitions of JSON Schema, each once."""

    def __init__(self, types: list[dict[str, Any]], definitions: dict[str, Any], full_type: str) -> None:
        self._types = types
        self._definitions = definitions
        # Two types of a namespace may have different objects of one name, such as `Identity`.
        self._prefix = full_type.rpartition("/")[2]

    def body(self, number: int) -> str:
        """Return the reference to the definition of a resource's body."""
        resource = self._types[number]
        return str(self._schema(_number(resource["body"]), is_body=True)["$ref"])

    def _schema(self, number: int, *, is_body: bool = False) -> dict[str, Any]:
        found = self._types[number]
        schema: dict[str, Any] = {}
        match found["$type"]:
            case "StringType":
                schema = {"type": "string", **_renamed(found, _LIMITS)}
            case "StringLiteralType":
                schema = {"type": "string", "enum": [found["value"]]}
            case "IntegerType":
                schema = {"type": "integer", **_renamed(found, _RANGE)}
            case "BooleanType":
                schema = {"type": "boolean"}
            case "ArrayType":
                schema = {"type": "array", "items": self._schema(_number(found["itemType"]))}
            case "UnionType":
                schema = {"type": "string", "enum": self._literals(found)}
            case "ObjectType":
                schema = self._reference(number, found, is_body=is_body)
        return schema

    def _literals(self, union: dict[str, Any]) -> list[str]:
        elements = [self._types[_number(element)] for element in union["elements"]]
        return [element["value"] for element in elements if element["$type"] == "StringLiteralType"]

    def _reference(self, number: int, found: dict[str, Any], *, is_body: bool) -> dict[str, Any]:
        key = f"{self._prefix}.{found['name'].rpartition('/')[2]}.{number}"
        if key not in self._definitions:
            # First, because an object may contain itself.
            self._definitions[key] = {}
            self._definitions[key].update(self._object(found, is_body=is_body))
        return {"$ref": f"#/$defs/{key}"}

    def _object(self, found: dict[str, Any], *, is_body: bool) -> dict[str, Any]:
        properties: dict[str, dict[str, Any]] = {}
        required: list[str] = []
        for name, declared in found["properties"].items():
            if declared["flags"] & _READ_ONLY or (is_body and name in _IN_THE_PATH):
                properties[name] = {"readOnly": True}
                continue
            if declared["flags"] & _REQUIRED:
                required.append(name)
            properties[name] = self._schema(_number(declared["type"]))
            if (found["name"], name) in _DECIMALS:
                properties[name] = {"type": "number"}
        more = found.get("additionalProperties")
        schema: dict[str, Any] = {"type": "object", "title": found["name"], "properties": properties}
        schema["additionalProperties"] = False if more is None else self._schema(_number(more))
        return schema | ({"required": required} if required else {})


def _number(reference: dict[str, str]) -> int:
    return int(reference["$ref"].rpartition("/")[2])


def _renamed(found: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {ours: found[theirs] for theirs, ours in names.items() if theirs in found}


if __name__ == "__main__":
    main()

"""The check of parameters and outputs against their types: definitions and ``$ref``, limits, nullability.

Source: Azure Resource Manager, "Parameters in ARM templates", "Type definitions in ARM templates"; the
messages are those of the Bicep CLI's snapshot engine.
"""

from __future__ import annotations

from typing import Any, Final

from localcloud.errors import AzureError, not_emulated
from localcloud.template.errors import NeedsRuntime, TemplateError
from localcloud.template.syntax import text_of
from localcloud.template.values import Residual, Value, is_equal, kind, node_of, position_of, utf16_length

_KINDS: Final = {
    "string": "String",
    "securestring": "String",
    "int": "Integer",
    "bool": "Boolean",
    "object": "Object",
    "secureobject": "Object",
    "array": "Array",
}
_ECHOED: Final = {
    "string": "String",
    "securestring": "SecureString",
    "int": "Int",
    "bool": "Bool",
    "object": "Object",
    "secureobject": "SecureObject",
    "array": "Array",
}
_EXPECTED: Final = {"String": "String, Uri"}
_LIMITS_HELP: Final = "Please see https://aka.ms/arm-syntax-parameters for usage details."
_FILE_HELP: Final = "Please see https://aka.ms/arm-create-parameter-file for usage details."
_KNOWN_KEYWORDS: Final = {
    *(
        "type",
        "$ref",
        "nullable",
        "defaultValue",
        "allowedValues",
        "minValue",
        "maxValue",
        "minLength",
        "maxLength",
    ),
    *("metadata", "items", "prefixItems", "properties", "additionalProperties", "discriminator", "value"),
    *("condition", "copy"),
}


class Types:
    """The types of a template, which check values.

    Args:
        definitions: The template's ``definitions``.
    """

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.definitions = definitions

    def resolve(self, declared: dict[str, Any]) -> dict[str, Any]:
        """Return a declaration with its ``$ref`` resolved; its own keywords take precedence.

        Raises:
            TemplateError: The reference is unknown or circular.
            AzureError: 501, for a keyword that is not supported.
        """
        found = dict(declared)
        seen: set[str] = set()
        while "$ref" in found:
            name = str(found.pop("$ref"))
            target = self.definitions.get(name.removeprefix("#/definitions/"))
            if target is None or name in seen:
                raise TemplateError(f"The template type reference '{name}' does not lead to a definition.")
            seen.add(name)
            found = {**target, **found}
        unknown = sorted(found.keys() - _KNOWN_KEYWORDS)
        if unknown:
            raise not_emulated(f"the keyword '{unknown[0]}' of a template type")
        if str(found.get("type", "")).lower() not in _KINDS:
            raise TemplateError(
                f"The template type '{found.get('type')}' is not one of '{', '.join(_KINDS)}'."
            )
        return found

    def is_secure(self, declared: dict[str, Any]) -> bool:
        """Return whether values of a type are secret."""
        return str(self.resolve(declared)["type"]).lower().startswith("secure")

    def echo(self, declared: dict[str, Any], value: Value) -> dict[str, Any]:
        """Return a type's name and a value as a deployment shows them; a secret has no value."""
        shown = {"type": _ECHOED[str(self.resolve(declared)["type"]).lower()]}
        return shown if self.is_secure(declared) else {**shown, "value": value}

    def check(self, noun: str, path: str, declared: dict[str, Any], value: Value) -> None:
        """Check a value. A value that is not known yet is accepted.

        Args:
            noun: ``parameter`` or ``output``.
            path: Its name, and the path to the part that is checked: ``p[0].name``.
            declared: The type.
            value: The value.

        Raises:
            TemplateError: The value is not of the type.
        """
        if isinstance(value, Residual):
            return
        resolved = self.resolve(declared)
        if value is None and resolved.get("nullable"):
            return
        wanted = _KINDS[str(resolved["type"]).lower()]
        if kind(value) != wanted:
            raise _invalid(
                noun,
                path,
                f"Expected a value of type '{_EXPECTED.get(wanted, wanted)}', but received a value of type "
                f"'{kind(value)}'. {_FILE_HELP}",
            )
        self._check_limits(noun, path, resolved, value)
        if isinstance(value, list):
            self._check_items(noun, path, resolved, value)
        if isinstance(value, dict):
            self._check_object(noun, path, resolved, value)

    def _check_limits(self, noun: str, path: str, declared: dict[str, Any], value: Value) -> None:
        allowed = declared.get("allowedValues")
        if allowed is not None and not _is_allowed(value, allowed):
            given = value if isinstance(value, str) else f"[{text_of(node_of(value))}]"
            shown = ",".join(map(str, allowed))
            raise _invalid(noun, path, f"The value '{given}' is not part of the allowed value(s): '{shown}'.")
        error = None
        if isinstance(value, int) and not isinstance(value, bool):
            error = _range_error("Value", value, declared.get("minValue"), declared.get("maxValue"))
        if isinstance(value, str | list):
            size = utf16_length(value) if isinstance(value, str) else len(value)
            limits = declared.get("minLength"), declared.get("maxLength")
            error = _range_error("Length of the value", size, *limits)
        if error is not None:
            raise _invalid(noun, path, f"{error} {_LIMITS_HELP}")

    def _check_items(self, noun: str, path: str, declared: dict[str, Any], values: list[Value]) -> None:
        first = declared.get("prefixItems", [])
        rest = declared.get("items")
        for index, value in enumerate(values):
            each = first[index] if index < len(first) else rest
            if each is False:
                message = (
                    f"The array expects exactly {len(first)} item(s), but additional items were present."
                )
                raise _invalid(noun, path, f"{message} {_LIMITS_HELP}")
            if isinstance(each, dict):
                self.check(noun, f"{path}[{index}]", each, value)

    def _check_object(self, noun: str, path: str, declared: dict[str, Any], value: dict[str, Value]) -> None:
        declared = self._chosen(noun, path, declared, value)
        properties = declared.get("properties", {})
        rest = declared.get("additionalProperties")
        for name, each in properties.items():
            if value.get(name) is None and not self.resolve(each).get("nullable"):
                raise _invalid(
                    noun,
                    path,
                    f"A non-null value for the property '{name}' must be provided, "
                    f"but the property was null or missing. {_LIMITS_HELP}",
                )
        unknown = [name for name in value if name not in properties]
        if rest is False and unknown:
            shown = ", ".join(f"'{name}'" for name in unknown)
            raise _invalid(
                noun,
                path,
                "The object does not allow values with properties not defined in the schema, but the "
                f"following unknown properties were present: [{shown}]. {_LIMITS_HELP}",
            )
        for name, item in value.items():
            each = properties.get(name, rest)
            if isinstance(each, dict) and not (item is None and name in properties):
                self.check(noun, f"{path}.{name}", each, item)

    def _chosen(
        self, noun: str, path: str, declared: dict[str, Any], value: dict[str, Value]
    ) -> dict[str, Any]:
        """Return the variant of a tagged union that a value's discriminator selects."""
        tag = declared.get("discriminator")
        if tag is None:
            return declared
        name, mapping = tag["propertyName"], tag["mapping"]
        found = value.get(name)
        if found not in mapping:
            shown = ",".join(f"'{each}'" for each in mapping)
            raise _invalid(
                noun,
                path,
                f"The value provided for the discriminator property '{name}' did not match any known "
                f"variant. Valid discriminator property values are: {shown}. {_LIMITS_HELP}",
            )
        variant = self.resolve(mapping[found])
        own = {**variant.get("properties", {}), **declared.get("properties", {})}
        return {**variant, "properties": {**own, name: {"type": "string", "allowedValues": [found]}}}


def check_names(declared: dict[str, Any], given: dict[str, Any]) -> None:
    """Check the names of the given parameters.

    Raises:
        TemplateError: One is not declared.
        AzureError: 501, for one that is a reference to a key vault.
    """
    unknown = [name for name in given if name not in declared]
    if unknown:
        raise TemplateError(
            f"The template parameters '{', '.join(unknown)}' in the parameters file are not valid; they are "
            "not present in the original template and can therefore not be provided at deployment time. The "
            f"only supported parameters for this template are '{', '.join(declared)}'. Please see "
            "https://aka.ms/arm-pass-parameter-values for usage details."
        )
    for name, entry in given.items():
        if not isinstance(entry, dict):
            raise AzureError(
                400,
                "InvalidRequestContent",
                f"The parameter '{name}' must be an object with the key 'value'.",
            )
        if "reference" in entry:
            raise not_emulated(f"a parameter that refers to a key vault ('{name}')")


def not_provided(name: str, declared: dict[str, Any]) -> TemplateError:
    """Return the error for a parameter that has neither a value nor a default."""
    line, column = position_of(declared)
    return TemplateError(
        f"The value for the template parameter '{name}' at line '{line}' and column '{column}' is not "
        f"provided. {_FILE_HELP}",
        line=line,
        column=column,
        path=f"properties.template.parameters.{name}",
    )


def _is_allowed(value: Value, allowed: list[Any]) -> bool:
    if isinstance(value, list):  # an array is allowed if each of its elements is
        return all(any(is_equal(item, each) for each in allowed) for item in value)
    try:
        return any(is_equal(value, each) for each in allowed)
    except NeedsRuntime:
        return True


def _range_error(what: str, size: int, least: int | None, most: int | None) -> str | None:
    if least is not None and size < least:
        return f"{what} should be greater than or equal to '{least}'."
    if most is not None and size > most:
        return f"{what} should be less than or equal to '{most}'."
    return None


def _invalid(noun: str, path: str, what: str) -> TemplateError:
    name = path.partition(".")[0].partition("[")[0]
    return TemplateError(
        f"The provided value for the template {noun} '{path}' is not valid. {what}",
        path=f"properties.template.{noun}s.{name}",
    )

"""Find what the specification rules out in a request body. Pure.

Not checked: values that a deployment does not know yet, nulls (Azure takes them as not sent), read-only
properties (Azure ignores them) and the names of resources, which are in the path. The values of open
enumerations (`modelAsString`) are checked too: the specification only says that later api-versions may add
some, and the resource providers reject others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Literal

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from localcloud.json_values import without_nulls
from localcloud.specifications.catalogue import body_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Rule = Literal["type", "required", "unknown", "enum", "pattern", "length", "range"]

_RULES: Final[dict[str, Rule]] = {
    "type": "type",
    "required": "required",
    "additionalProperties": "unknown",
    "enum": "enum",
    "pattern": "pattern",
    "minLength": "length",
    "maxLength": "length",
    "minimum": "range",
    "maximum": "range",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """A value that the specification rules out.

    Attributes:
        path: The names and indices that lead to it from the body.
        rule: The rule that it breaks.
        value: The value, None where one is missing.
        wanted: What the rule requires: a type, the names or values that exist, a pattern or a number.
        class_name: The specification's name for the object that has the value.
    """

    path: tuple[str | int, ...]
    rule: Rule
    value: Any
    wanted: Any
    class_name: str

    @property
    def name(self) -> str:
        """Return the last name in the path, without indices."""
        return next((str(part) for part in reversed(self.path) if isinstance(part, str)), "")

    @property
    def json_path(self) -> str:
        """Return the path in the notation of Azure's messages, such as `$.properties.secrets[0].name`."""
        return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)

    @property
    def dotted(self) -> str:
        """Return the path below `properties`, such as `template.scale.minReplicas`."""
        return self.json_path.removeprefix("$.").removeprefix("properties.")


def find_violations(
    full_type: str, body: Mapping[str, Any], is_unknown: Callable[[object], bool]
) -> tuple[Violation, ...]:
    """Return what the specification of a type rules out in a canonical body, in the body's order.

    Args:
        full_type: The resource type; a type without a specification has no violations.
        body: The body, as `canonical_body` returns it.
        is_unknown: Whether a value is not known yet, and may be anything.
    """
    validator = _validator(full_type.lower())
    if validator is None:
        return ()
    errors = validator.iter_errors(without_nulls(body))
    return tuple(_violation(error) for error in errors if not is_unknown(error.instance))


def _violation(error: ValidationError) -> Violation:
    rule = _RULES[str(error.validator)]
    value = None if rule == "required" else error.instance
    wanted = error.validator_value
    class_name = str(error.cause_class) if isinstance(error, _ObjectError) else ""
    return Violation(tuple(error.absolute_path), rule, value, wanted, class_name)


class _ObjectError(ValidationError):
    """A property that is missing or unknown, with the name of the object that should have or not have it."""

    cause_class: str = ""


def _required(
    _validator: Any,  # noqa: ANN401 - the library's class has no type
    required: list[str],
    instance: Any,  # noqa: ANN401 - JSON
    schema: Mapping[str, Any],
) -> Iterator[ValidationError]:
    """Report each missing property by its own path."""
    for name in required if isinstance(instance, dict) else ():
        if name not in instance:
            yield _object_error(schema, name, f"'{name}' is missing", instance)


def _additional(
    validator: Any,  # noqa: ANN401 - the library's class has no type
    allowed: object,
    instance: Any,  # noqa: ANN401 - JSON
    schema: Mapping[str, Any],
) -> Iterator[ValidationError]:
    """Report each unknown property by its own path; check the values where any name is allowed."""
    for name in instance if isinstance(instance, dict) else ():
        if name in schema.get("properties", {}):
            continue
        if allowed is False:
            yield _object_error(schema, name, f"'{name}' is unknown", instance[name])
        else:
            yield from validator.descend(instance[name], allowed, path=name)


def _object_error(schema: Mapping[str, Any], name: str, message: str, instance: object) -> ValidationError:
    error = _ObjectError(message, path=(name,), instance=instance)
    error.cause_class = schema.get("title", "")
    return error


_Validator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"required": _required, "additionalProperties": _additional}
)


@cache
def _validator(full_type: str) -> Any:  # noqa: ANN401 - the library's class has no type
    schema = body_schema(full_type)
    return None if schema is None else _Validator(schema)

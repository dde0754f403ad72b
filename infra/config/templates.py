"""Render the templates in `templates/`, and validate documents by the JSON Schemas there.

No other module reads that folder. In its schemas a description is a rule (`must have 3 to 24 lower-case
letters and digits`), so that editors and error messages show the same words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from infra.document import load_json
from infra.wording import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.document import Json

FOLDER: Final = Path(__file__).resolve().parents[2] / "templates"

_MAX_SHOWN: Final = 60
"""The longest value that is shown in full, in characters."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A value in a document that breaks a rule.

    Attributes:
        path: The keys and indexes that lead to the value.
        value: The value.
        rule: The rule, as the end of a sentence.
    """

    path: tuple[str | int, ...]
    value: Json
    rule: str

    def __str__(self) -> str:
        """Return `place: value rule`; at the root of the document, the rule alone."""
        place = ".".join(str(part) for part in self.path)
        return f"{place}: {self.rule}" if place else self.rule


def render(name: str, values: Mapping[str, Json]) -> str:
    """Render a template. A missing value is a bug: `jinja2.UndefinedError`."""
    return _environment().get_template(name).render(values)


def validate(schema: str, document: Json) -> tuple[Problem, ...]:
    """Return every problem that a schema finds in a document, in the document's order.

    Args:
        schema: The schema's name: `X` for `templates/X.schema.json`.
        document: The document.
    """
    errors = _validator(schema).iter_errors(document)
    return tuple(problem for error in errors for problem in _problems(error))


def load_schema(name: str) -> dict[str, Json]:
    """Return a schema: `X` for `templates/X.schema.json`."""
    return cast("dict[str, Json]", load_json((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # the templates are JSON, which the json filter escapes
    )
    environment.filters["json"] = json.dumps
    return environment


@cache
def _validator(schema: str) -> Draft202012Validator:
    document = load_schema(schema)
    Draft202012Validator.check_schema(document)
    return cast("Draft202012Validator", _STRICT_VALIDATOR(document))


def _check_pattern(_: object, pattern: str, value: Json, __: object) -> Iterator[ValidationError]:
    """Match a pattern as ECMAScript does: its `$` does not match before a newline at the end."""
    strict = f"{pattern[:-1]}\\Z" if pattern.endswith("$") else pattern
    if isinstance(value, str) and not re.search(strict, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


_STRICT_VALIDATOR: Final = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"pattern": _check_pattern}
)


def _problems(error: ValidationError) -> list[Problem]:
    path = tuple(error.absolute_path)
    value = cast("Json", error.instance)
    if error.validator == "required":
        # There is one error for each missing name, and only its message contains the name.
        name = error.message.split("'")[1]
        return [Problem((*path, name), None, "is missing")]
    if error.validator == "additionalProperties" and isinstance(value, dict):
        known = error.schema["properties"] if isinstance(error.schema, Mapping) else {}
        unknown = [name for name in value if name not in known]
        return [Problem((*path, name), None, f"is not known{did_you_mean(name, known)}") for name in unknown]
    rule = error.schema.get("description") if isinstance(error.schema, Mapping) else None
    return [Problem(path, value, f"{_shorten(value)} {rule or error.message}")]


def _shorten(value: Json) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."

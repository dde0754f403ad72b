"""Read `templates/`, which nothing else does: render its templates, judge documents by its JSON Schemas.

In our schemas a description is a rule (`must have 3 to 24 lower-case letters and digits`), so that the same
words are shown by an editor and stand in our messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.meta import find_undeclared_variables
from jsonschema import Draft202012Validator

from infra.wording import did_you_mean

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

    from infra.document import Json

FOLDER = Path(__file__).resolve().parents[2] / "templates"


@dataclass(frozen=True, slots=True)
class Problem:
    """Say what is wrong with one place of a document.

    Attributes:
        path: The keys and indexes that lead there.
        value: What stands there.
        rule: What must be so, as the end of a sentence.
    """

    path: tuple[str | int, ...]
    value: Json
    rule: str

    def __str__(self) -> str:
        """Return `place: value rule`; at the root of the document, the rule alone."""
        place = ".".join(str(part) for part in self.path)
        return f"{place}: {self.rule}" if place else self.rule


def render(name: str, values: Mapping[str, Json]) -> str:
    """Render a template. A value that it needs and does not get is a bug: `jinja2.UndefinedError`."""
    return _environment().get_template(name).render(values)


def variables(name: str) -> frozenset[str]:
    """Return the names of all values that a template needs."""
    source = (FOLDER / name).read_text(encoding="utf-8")
    return frozenset(find_undeclared_variables(_environment().parse(source)))


def validate(schema: str, document: Json) -> tuple[Problem, ...]:
    """Return everything that a schema finds wrong with a document, in the document's order.

    Args:
        schema: The schema's name: `X` for `templates/X.schema.json`.
        document: The document.
    """
    errors = _validator(schema).iter_errors(document)
    return tuple(problem for error in errors for problem in _problems(error))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # what is rendered is JSON, and the json filter escapes it
    )
    environment.filters["json"] = json.dumps
    return environment


@cache
def _validator(schema: str) -> Draft202012Validator:
    document = json.loads((FOLDER / f"{schema}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def _problems(error: ValidationError) -> list[Problem]:
    path = tuple(error.absolute_path)
    value = cast("Json", error.instance)
    if error.validator == "required":
        # There is one error for each missing name, and its message is all that says which.
        name = error.message.split("'")[1]
        return [Problem((*path, name), None, "is missing")]
    if error.validator == "additionalProperties" and isinstance(value, dict):
        known = error.schema["properties"] if isinstance(error.schema, Mapping) else {}
        unknown = [name for name in value if name not in known]
        return [Problem((*path, name), None, f"is not known{did_you_mean(name, known)}") for name in unknown]
    rule = error.schema.get("description") if isinstance(error.schema, Mapping) else None
    return [Problem(path, value, f"{_shown(value)} {rule or error.message}")]


def _shown(value: Json) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004  # what fits a line beside the rule

"""Turn settings into the parameters file that is deployed, and validate it before it is sent to Azure.

The file is rendered from `templates/inference.parameters.json.j2`, with exactly the parameters of the
compiled template, and validated by its JSON Schema and by the limits that Azure enforces late. Pure: text in,
text out.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.az.limits import parameter_problems, template_problems
from infra.config.templates import load_schema, render, validate
from infra.document import Json, as_object, read_object
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.config.settings import Settings

BICEP: Final = Path("infra/provision/inference.bicep")
COMPILED: Final = Path("infra/provision/inference.json")
TEMPLATE: Final = "inference.parameters.json.j2"
SCHEMA: Final = "inference.parameters"
DIGEST_TAG: Final = "fjarr-provision"

_TEXT_TYPES: Final = ("string", "securestring")
_PARAMETER_REFERENCE: Final = re.compile(r"^\[parameters\('(\w+)'\)\]$")
_NOT_IN_DIGEST: Final = ("apiKey", "environmentExists")
"""The key is a secret, and the second run finds the environment that the first one made."""


@dataclass(frozen=True, slots=True)
class Template:
    """The compiled template and its parameters.

    Attributes:
        defaults: The default of every parameter; None where it has none or may be null.
        document: The whole template.
        texts: The names of the parameters that are text.
    """

    defaults: dict[str, Json]
    document: dict[str, Json]
    texts: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the parameters, in the template's order."""
        return tuple(self.defaults)


def read_template(path: Path) -> Template:
    """Read a compiled template.

    Raises:
        UsageError: The file is missing or is not a template.
    """
    document = read_object(path, hint="restore the file from the repository, or build it: az bicep build")
    parameters = document.get("parameters")
    if not isinstance(parameters, dict):
        raise UsageError(f"{path} has no parameters")
    defaults = {
        name: entry.get("defaultValue") if isinstance(entry, dict) else None
        for name, entry in parameters.items()
    }
    texts = frozenset(
        name for name, entry in parameters.items() if as_object(entry).get("type") in _TEXT_TYPES
    )
    return Template(defaults, document, texts)


def render_parameters(settings: Settings, template: Template) -> str:
    """Render the parameters file and validate it.

    Args:
        settings: The values. A parameter without one is rendered as null, which means the template's default.
        template: The template to deploy.

    Raises:
        UsageError: Some values are not allowed. Every problem is listed with the source of the value.
    """
    _check_names(template)
    values = {name: _value(settings, name) for name in template.names}
    text = render(TEMPLATE, {"parameters": values})
    problems = _schema_problems(json.loads(text), settings)
    if not problems:  # the limits assume values of the right type
        problems = parameter_problems(effective_values(values, template))
        problems += template_problems(template.document)
    if problems:
        raise UsageError(_summary(len(problems)), details=tuple(problems))
    return text


def effective_values(values: Mapping[str, Json], template: Template) -> dict[str, Json]:
    """Return the value that the template will use for each parameter. Its expressions are not evaluated."""
    effective = template.defaults | {name: value for name, value in values.items() if value is not None}
    for name, value in effective.items():
        other = _PARAMETER_REFERENCE.match(value) if isinstance(value, str) else None
        if other:
            effective[name] = effective.get(other[1])
    return effective


def digest(settings: Settings, template: Template, sources: tuple[bytes, ...]) -> str:
    """Return a short digest of a deployment, which tells whether it is deployed already.

    Args:
        settings: The values. The API key is left out, and so is what differs in a second run.
        template: The template.
        sources: The bytes of the template's files.
    """
    values = {name: _value(settings, name) for name in template.names if name not in _NOT_IN_DIGEST}
    rendered = json.dumps(values, sort_keys=True).encode()
    return hashlib.sha256(b"\0".join((rendered, *sources))).hexdigest()[:16]


def _check_names(template: Template) -> None:
    """Check that the template and the schema have the same parameters.

    Raises:
        UsageError: One has a parameter that the other does not have.
    """
    schema, file = load_schema(SCHEMA), f"templates/{SCHEMA}.schema.json"
    known = as_object(as_object(as_object(schema.get("properties")).get("parameters")).get("properties"))
    problems = [
        f"{name}: is a parameter of the template but not in {file}"
        for name in template.names
        if name not in known
    ]
    problems += [
        f"{name}: is in {file} but not a parameter of the template"
        for name in sorted(known)
        if name not in template.names
    ]
    if problems:
        raise UsageError("the template and the schema have different parameters", details=tuple(problems))


def _value(settings: Settings, name: str) -> Json:
    setting = settings.find(name)
    return None if setting is None else setting.value


def _schema_problems(document: Json, settings: Settings) -> list[str]:
    problems = []
    for problem in validate(SCHEMA, document):
        name = str(problem.path[1]) if len(problem.path) > 1 else ""
        place = ".".join(str(part) for part in problem.path[1:] if part != "value")
        problems.append(f"{place}: {_with_source(problem.rule, settings.source(name))}")
    return problems


def _with_source(rule: str, source: str) -> str:
    """Insert the source of a value before its rule: `'x' (from F) must be a number`."""
    value, must, rest = rule.partition(" must ")
    return f"{value} (from {source}){must}{rest}"


def _summary(count: int) -> str:
    return "a parameter is not allowed" if count == 1 else f"{count} parameters are not allowed"

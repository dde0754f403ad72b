"""Turn settings into the parameters file that is deployed, and judge it before Azure does.

The file is rendered from `templates/inference.parameters.json.j2`, judged by its JSON Schema and by the
limits that Azure enforces late, and held to exactly the parameters that the compiled template has. Pure:
text in, text out.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.az.limits import parameter_problems, template_problems
from infra.config.templates import render, validate, variables
from infra.document import Json, as_object, read_object
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.config.settings import Settings

BICEP = Path("infra/provision/inference.bicep")
COMPILED = Path("infra/provision/inference.json")
TEMPLATE = "inference.parameters.json.j2"
SCHEMA = "inference.parameters"
DIGEST_TAG = "fjarr-provision"
_TEXT_TYPES = ("string", "securestring")
_OTHER_PARAMETER = re.compile(r"^\[parameters\('(\w+)'\)\]$")


@dataclass(frozen=True, slots=True)
class Template:
    """Hold what the compiled template says about its parameters.

    Attributes:
        defaults: Every parameter with its default; None where it has none or may be null.
        document: All of the template.
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
    """Render the parameters file, and judge it.

    Args:
        settings: What was said; what was not is rendered as null, which means the template's default.
        template: The template to deploy.

    Raises:
        UsageError: Something is not allowed. Every problem is listed, each with where the value came from.
    """
    unknown = sorted(variables(TEMPLATE) - set(template.names))
    if unknown:
        said = tuple(
            f"{name}: is in templates/{TEMPLATE} but not a parameter of the template" for name in unknown
        )
        raise UsageError("a parameter does not exist", details=said)
    values = {name: _value(settings, name) for name in template.names}
    text = render(TEMPLATE, values)
    problems = _schema_problems(json.loads(text), settings) + _name_problems(json.loads(text), template)
    if not problems:  # the limits speak about values that are of the right type
        problems = parameter_problems(effective_values(values, template))
        problems += template_problems(template.document)
    if problems:
        raise UsageError(_count(len(problems)), details=tuple(problems))
    return text


def effective_values(values: Mapping[str, Json], template: Template) -> dict[str, Json]:
    """Return what the template will take for each parameter; its own expressions stay as they are written."""
    said = {name: value for name, value in values.items() if value is not None}
    effective = template.defaults | said
    for name, value in effective.items():
        other = _OTHER_PARAMETER.match(value) if isinstance(value, str) else None
        if other:
            effective[name] = effective.get(other[1])
    return effective


def digest(settings: Settings, template: Template, sources: tuple[bytes, ...]) -> str:
    """Return a short digest of what would be deployed, to recognise that it is deployed already.

    The API key is left out, and so is what a second run sees differently because of the first.

    Args:
        settings: What was said.
        template: The template.
        sources: The bytes of the template's files.
    """
    left_out = ("apiKey", "environmentExists")
    values = {name: _value(settings, name) for name in template.names if name not in left_out}
    told = json.dumps(values, sort_keys=True).encode()
    return hashlib.sha256(b"\0".join((told, *sources))).hexdigest()[:16]


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
    """Put the source between the value and what must be so: `'x' (from F) must be a number`."""
    value, must, rest = rule.partition(" must ")
    return f"{value} (from {source}){must}{rest}"


def _name_problems(document: Json, template: Template) -> list[str]:
    parameters = document.get("parameters") if isinstance(document, dict) else None
    named = set(parameters) if isinstance(parameters, dict) else set()
    missing = [name for name in template.names if name not in named]
    return [f"{name}: is a parameter of the template but not in templates/{TEMPLATE}" for name in missing]


def _count(count: int) -> str:
    return "a parameter is not allowed" if count == 1 else f"{count} parameters are not allowed"

"""Turn settings into the parameters file that is deployed, and validate it before it is sent to Azure.

The file is rendered from `templates/inference.parameters.json.j2`, with exactly the parameters of the
compiled template, and validated by its JSON Schema and by the limits that Azure enforces late. Pure: text in,
text out.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from infra.az.limits import parameter_problems, template_problems
from infra.config.template import effective_values
from infra.config.templates import load_schema, render, validate
from infra.config.variables import variable_problems
from infra.document import Json, load_json, object_at
from infra.errors import UsageError

if TYPE_CHECKING:
    from infra.config.settings import Settings
    from infra.config.template import Template

TEMPLATE: Final = "inference.parameters.json.j2"
SCHEMA: Final = "inference.parameters"
DIGEST_TAG: Final = "fjarr-provision"

_NOT_IN_DIGEST: Final = ("apiKey", "environmentExists", "unmanaged", "unmanagedSecrets")
"""The key is a secret, a second run finds the environment that the first one made, the rest is others'."""


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
    problems = _schema_problems(load_json(text), settings)
    faulty = {place.partition(":")[0].partition(".")[0] for place in problems}
    problems += variable_problems(settings, template)
    problems += parameter_problems(effective_values(values, template), faulty)
    problems += template_problems(template.document)
    if problems:
        raise UsageError(_summary(len(problems)), details=tuple(problems))
    return text


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
    known = object_at(schema, "properties", "parameters", "properties")
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
        name, *inner = [str(part) for part in problem.path[1:] if part != "value"] or [""]
        source = settings.source(name, inner[0] if inner else None)
        problems.append(f"{'.'.join((name, *inner))}: {_with_source(problem.rule, source)}")
    return problems


def _with_source(rule: str, source: str) -> str:
    """Insert the source of a value before its rule: `'x' (from F) must be a number`."""
    value, must, rest = rule.partition(" must ")
    return f"{value} (from {source}){must}{rest}"


def _summary(count: int) -> str:
    return "a parameter is not allowed" if count == 1 else f"{count} parameters are not allowed"

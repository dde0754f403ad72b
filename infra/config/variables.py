"""Check the container's environment variables: the server refuses to start if one is mistyped.

The server's settings are in `templates/server.settings.schema.json`, which `docs/generate.py` generates from
the server, because the pipeline does not import it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from infra.config.templates import load_schema, validate
from infra.document import Json, as_object, as_objects

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from infra.config.settings import Settings
    from infra.config.template import Template

PARAMETER: Final = "environmentVariables"
SCHEMA: Final = "server.settings"
_PREFIX: Final = "FJARR_"

RESERVED: Final = {
    "FJARR_API_KEYS": "is set from a secret of the app; the parameter for it is apiKey",
    "FJARR_MOUNT": "is set by the template; the parameter for it is mountPath",
    "FJARR_PORT": "is fixed: the ingress calls port 7860",
    "FJARR_SOCKET_FD": "is set by the server itself",
}
_SET_BY_COMMANDS: Final = {"FJARR_RELEASE": "is set by the start commands, from the share's CURRENT file"}
"""Unless the commands are the user's own."""


def variable_problems(settings: Settings, template: Template) -> list[str]:
    """Return the problems of `environmentVariables`, each with the source of the variable."""
    setting = settings.find(PARAMETER)
    given = as_object(setting.value if setting else None)
    problems = []
    for name, rule in _broken_rules(given, settings, template):
        value, must, rest = rule.partition(" must ")
        source = f"(from {settings.source(PARAMETER, name)})"
        text = f"{name}: {value} {source}{must}{rest}" if must else f"{name} {source}: {rule}"
        problems.append(f"{PARAMETER}.{text}")
    return problems


def setting_problem(name: str, text: str) -> str:
    """Return why the server would refuse a setting with this text; empty if it would not.

    The text may be secret, and is not in the reason.
    """
    if not name.startswith(_PREFIX):
        return ""
    problems = validate(SCHEMA, {name: _typed(name, text)})
    rules = (each.rule.rpartition(" must ") for each in problems)
    return next((f"must {end}" if must else end for _, must, end in rules), "")


def _broken_rules(
    given: Mapping[str, Json], settings: Settings, template: Template
) -> Iterator[tuple[str, str]]:
    reserved = RESERVED if settings.find("defaultCommands") else RESERVED | _SET_BY_COMMANDS
    for name in given:
        if name in reserved:
            yield name, reserved[name]
    typed = {
        name: _typed(name, value)
        for name, value in given.items()
        if name.startswith(_PREFIX) and name not in reserved and isinstance(value, str)
    }
    for problem in validate(SCHEMA, typed):
        yield str(problem.path[0]), problem.rule
    for name, parameter in template.own_variables.items():
        other = settings.find(parameter) if parameter and name not in reserved else None
        if name in given and other is not None and other.value not in ("", given[name]):
            yield name, f"is also set by the parameter {other.name} (from {other.source}); keep one of them"


def _typed(name: str, text: str) -> Json:
    """Return a variable's text as the number that the schema asks for, if it is one."""
    rule = as_object(as_object(load_schema(SCHEMA).get("properties")).get(name))
    kinds = {each.get("type") for each in (rule, *as_objects(rule.get("anyOf")))}
    try:
        number: Json = int(text) if "integer" in kinds else float(text) if "number" in kinds else text
    except ValueError:
        return text
    return text if isinstance(number, float) and not math.isfinite(number) else number

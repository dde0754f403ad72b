"""Check the container's environment variables: the server refuses to start if one is mistyped.

The server's settings are in `templates/server.settings.schema.json`, which `docs/generate.py` generates from
the server, because the pipeline does not import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from infra.config.templates import load_schema, validate
from infra.document import Json, as_object

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
    properties = as_object(load_schema(SCHEMA).get("properties"))
    kind = as_object(properties.get(name)).get("type")
    try:
        return int(text) if kind == "integer" else float(text) if kind == "number" else text
    except ValueError:
        return text

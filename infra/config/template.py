"""Read the Bicep template that is deployed: its parameters, its defaults and its table of GPUs.

What is deployed is the compiled `inference.json`, which needs no Bicep CLI. If `inference.bicep` was edited
since, it is compiled to the stage's folder and that is deployed; `inference.bicep.sha256` has the digest of
the source that the committed `inference.json` was compiled from.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.az.limits import CONSUMPTION
from infra.document import Json, as_object, object_at, read_object
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

BICEP: Final = Path("infra/provision/inference.bicep")
COMPILED: Final = Path("infra/provision/inference.json")
SOURCE_DIGEST: Final = Path("infra/provision/inference.bicep.sha256")

CONTAINER: Final = "inference"
"""The name of the server's container in the app."""

NO_GPU: Final = "none"

_TEXT_TYPES: Final = ("string", "securestring")
_SECURE_TYPES: Final = ("securestring", "secureobject")
_PARAMETER_REFERENCE: Final = re.compile(r"^\[parameters\('(\w+)'\)\]$")
_SET_VARIABLE: Final = re.compile(r"'([A-Z][A-Z0-9_]*)', (?:if\()?(?:parameters\('(\w+)'\)|')")


@dataclass(frozen=True, slots=True)
class Template:
    """The compiled template and its parameters.

    Attributes:
        defaults: The default of every parameter; None where it has none or may be null.
        document: The whole template.
        texts: The names of the parameters that are text.
        secrets: The names of the parameters that are secret.
    """

    defaults: dict[str, Json]
    document: dict[str, Json]
    texts: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the parameters, in the template's order."""
        return tuple(self.defaults)

    @property
    def gpus(self) -> dict[str, dict[str, Json]]:
        """Return what each value of the parameter `gpu` stands for: its profile, CPU and memory."""
        table = object_at(self.document, "variables", "gpus")
        return {name: as_object(row) for name, row in table.items()}

    @property
    def own_variables(self) -> dict[str, str | None]:
        """Return the environment variables that the template sets, each with the parameter that sets it."""
        expression = str(as_object(self.document.get("variables")).get("plainVariables"))
        return {name: parameter or None for name, parameter in _SET_VARIABLE.findall(expression)}


def read_template(path: Path) -> Template:
    """Read a compiled template.

    Raises:
        UsageError: The file is missing or is not a template.
    """
    document = read_object(path, hint="restore the file from the repository, or build it: az bicep build")
    parameters = document.get("parameters")
    if not isinstance(parameters, dict):
        raise UsageError(f"{path} has no parameters")
    entries = {name: as_object(entry) for name, entry in parameters.items()}
    definitions = as_object(document.get("definitions"))
    types = {name: _type(entry, definitions) for name, entry in entries.items()}
    return Template(
        {name: entry.get("defaultValue") for name, entry in entries.items()},
        document,
        frozenset(name for name, type_ in types.items() if type_ in _TEXT_TYPES),
        frozenset(name for name, type_ in types.items() if type_ in _SECURE_TYPES),
    )


def _type(entry: Mapping[str, Json], definitions: Mapping[str, Json]) -> str:
    """Return the type of a parameter, also if it refers to a definition."""
    name = str(entry.get("$ref", "")).rpartition("/")[2]
    return str(entry.get("type") or as_object(definitions.get(name)).get("type")).casefold()


def effective_values(values: Mapping[str, Json], template: Template) -> dict[str, Json]:
    """Return the value that the template will use for each parameter.

    Its expressions are not evaluated, but for defaults that name another parameter and for what `gpu` sets.
    """
    effective = template.defaults | {name: value for name, value in values.items() if value is not None}
    for name, value in effective.items():
        other = _PARAMETER_REFERENCE.match(value) if isinstance(value, str) else None
        if other:
            effective[name] = effective.get(other[1])
    gpu = effective.get("gpu")
    row = template.gpus.get(gpu, {}) if isinstance(gpu, str) else {}
    profile = effective.get("gpuProfileName") or row.get("profileName")
    most = effective.get("maxReplicas")
    implied: dict[str, Json] = {
        "gpuProfileName": profile,
        "gpuProfileType": row.get("profileType"),
        "workloadProfileName": CONSUMPTION if gpu == NO_GPU else profile,
        "containerCpu": row.get("cpu"),
        "containerMemory": row.get("memory"),
        "maximumInstanceCount": most,
        "stickySessions": isinstance(most, int) and most > 1,
    }
    missing = {name: value for name, value in implied.items() if _is_implied(effective.get(name))}
    return effective | {name: value for name, value in missing.items() if name in template.defaults}


def _is_implied(value: Json) -> bool:
    """Tell whether a parameter is null, or is left at a default that is an expression."""
    return value is None or (isinstance(value, str) and value.startswith("[") and value.endswith(")]"))


def is_edited(root: Path) -> bool:
    """Tell whether the Bicep source was edited since it was compiled; False if there is no source."""
    source, recorded = root / BICEP, root / SOURCE_DIGEST
    if not source.exists():
        return False
    digest = recorded.read_text(encoding="utf-8", errors="replace").split() if recorded.is_file() else []
    return digest[:1] != [source_digest(source)]


def source_digest(path: Path) -> str:
    """Return the SHA-256 of a source, with git's line ends for Windows read as line feeds."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()

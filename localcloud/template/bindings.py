"""What the names in an expression refer to, and the section of the template that the expression is in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from localcloud.template.model import Runtime, Scope
    from localcloud.template.values import Value


class Section(Enum):
    """The section of a template that an expression is in, which decides what it may call."""

    PARAMETER = "a parameter's default value"
    VARIABLE = "a variable"
    FUNCTION = "a function of the template"
    IDENTITY = "a name, a condition, a count: what must be known before the deployment runs"
    BODY = "the body of a resource"
    OUTPUT = "an output"


@dataclass(frozen=True, slots=True)
class Target:
    """A resource of the template that an expression refers to."""

    id: str
    api_version: str


class ResourceLookup(Protocol):
    """Finds the resources of a template."""

    def target(self, name: str) -> Target | None:
        """Return the resource with a symbolic name, name or id; None if it is not exactly one."""

    def targets(self, name: str) -> tuple[Target, ...] | None:
        """Return the resources of a loop, None if there are none."""


class NoResources:
    """A `ResourceLookup` that finds none."""

    def target(self, name: str) -> None:
        """Return None."""
        del name

    def targets(self, name: str) -> None:
        """Return None."""
        del name


@dataclass(frozen=True, slots=True)
class UserFunction:
    """A function that the template defines: the names of its parameters, and its result as an expression."""

    parameters: tuple[str, ...]
    output: Value


@dataclass(frozen=True, slots=True)
class Bindings:
    """What the names in an expression refer to.

    Attributes:
        scope: Where the template is deployed.
        parameter: Returns a parameter's value.
        variable: Returns a variable's value.
        resources: Finds the template's resources.
        user_functions: The functions that the template defines, by lower-case name.
        content_version: The template's content version.
        runtime: The running deployment; None before it runs.
    """

    scope: Scope
    parameter: Callable[[str], Value]
    variable: Callable[[str], Value]
    resources: ResourceLookup
    user_functions: Mapping[str, UserFunction]
    content_version: str
    runtime: Runtime | None = None

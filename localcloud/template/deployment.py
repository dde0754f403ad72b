"""A deployment of a template: what it will put, in which order, and its bodies and outputs while it runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from localcloud.template import functions  # noqa: F401 - declares the functions of the language
from localcloud.template.declarations import check_expressions, check_template, declarations
from localcloud.template.errors import TemplateError
from localcloud.template.outputs import Outputs
from localcloud.template.parameters import Types, check_names
from localcloud.template.planner import ResourcePlanner
from localcloud.template.symbols import Symbols

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.template.model import PlannedResource, Runtime, Scope


class Deployment:
    """A template that is being deployed to a resource group.

    Before it runs, `plan` returns the resources that it will put. While it runs, `body` and `outputs`
    complete the evaluation with values that only the running deployment has.

    Args:
        template: The template, as `load_template` returns it.
        parameters: The given parameters: ``{"name": {"value": ...}}``; a null value counts as not given.
        scope: Where the template is deployed.

    Raises:
        AzureError: 400 `InvalidTemplate`, in Azure's words; 501, for a construct that the local cloud does
            not know.
    """

    def __init__(self, template: dict[str, Any], parameters: dict[str, dict[str, Any]], scope: Scope) -> None:
        with _as_azure_errors():
            check_template(template)
            types = Types(template.get("definitions", {}))
            check_names(template.get("parameters", {}), parameters)
            declared = declarations(template.get("resources", []))
            check_expressions(template, declared)
            self._symbols = Symbols(template, parameters, scope, types)
            self._planner = ResourcePlanner(declared, self._symbols, scope)
            self._outputs = Outputs(template.get("outputs", {}), types)
            self._plan = self._planner.plan()
            self._planned_outputs = self._outputs.plan(self._symbols.bind(self._planner, shows_secrets=False))

    @property
    def parameters_echo(self) -> dict[str, dict[str, Any]]:
        """The parameters as a deployment shows them: types and values, without the values of secrets."""
        return self._symbols.parameters_echo

    def plan(self) -> tuple[PlannedResource, ...]:
        """Return the resources that will be put, each after those it depends on.

        Existing resources and those with a false condition are not included. In the bodies, secure parameters
        and what is only known at run time are expressions in brackets.
        """
        return self._plan

    def plan_outputs(self) -> dict[str, Any]:
        """Return the values of the outputs as far as they are known before the deployment runs."""
        return self._planned_outputs

    def body(self, resource: PlannedResource, runtime: Runtime) -> dict[str, Any]:
        """Return what to put for a planned resource, with every expression evaluated.

        Raises:
            AzureError: An expression cannot be evaluated, or what `runtime` raises.
        """
        with _as_azure_errors():
            return self._planner.body(resource, runtime)

    def outputs(self, runtime: Runtime) -> dict[str, dict[str, Any]]:
        """Return the outputs with their types: ``{"NAME": {"type": "String", "value": ...}}``.

        Raises:
            AzureError: An output cannot be evaluated, or what `runtime` raises.
        """
        with _as_azure_errors():
            return self._outputs.echo(self._symbols.bind(self._planner, shows_secrets=True, runtime=runtime))


@contextmanager
def _as_azure_errors() -> Iterator[None]:
    """Raise a `TemplateError` as the error that Resource Manager responds with."""
    try:
        yield
    except TemplateError as error:
        raise error.as_azure_error() from error

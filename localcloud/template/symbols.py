"""The parameters and variables of a template, evaluated when an expression first uses them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from localcloud.template.bindings import Bindings, NoResources, Section, UserFunction
from localcloud.template.errors import ExpressionError, TemplateError
from localcloud.template.evaluator import Evaluator
from localcloud.template.parameters import Types, not_provided
from localcloud.template.syntax import FunctionCall, Literal
from localcloud.template.values import Residual, Value, end_of

if TYPE_CHECKING:
    from localcloud.template.bindings import ResourceLookup
    from localcloud.template.model import Runtime, Scope


class Symbols:
    """The parameters, variables and user-defined functions of a template.

    Args:
        template: The template.
        parameters: The given parameters: ``{"name": {"value": ...}}``; a null value counts as not given.
        scope: Where the template is deployed.
        types: The template's types.

    Raises:
        TemplateError: A parameter has no value, or a value that its type does not allow.
    """

    def __init__(
        self, template: dict[str, Any], parameters: dict[str, dict[str, Any]], scope: Scope, types: Types
    ) -> None:
        self._scope = scope
        self._types = types
        self._declared_parameters: dict[str, dict[str, Any]] = template.get("parameters", {})
        self._declared_variables: dict[str, Any] = template.get("variables", {})
        self._functions = _user_functions(template.get("functions", []))
        self._content_version = str(template.get("contentVersion", ""))
        self._given = {name: entry.get("value") for name, entry in parameters.items()}
        self._parameters: dict[str, Value] = {}
        self._in_progress: list[str] = []
        # The defaults of parameters cannot refer to resources.
        self._default_bindings = self.bind(NoResources(), shows_secrets=True)
        for name in self._declared_parameters:
            self._parameter(name)

    @property
    def parameters_echo(self) -> dict[str, dict[str, Any]]:
        """The parameters as a deployment shows them: types and values, without the values of secrets."""
        return {
            name: self._types.echo(declared, self._parameters[name])
            for name, declared in self._declared_parameters.items()
            if self._parameters[name] is not None or self._types.is_secure(declared)
        }

    def bind(
        self, resources: ResourceLookup, *, shows_secrets: bool, runtime: Runtime | None = None
    ) -> Bindings:
        """Return what the names in expressions refer to.

        Args:
            resources: Finds the template's resources.
            shows_secrets: Whether secure parameters have their values; otherwise they stay expressions.
            runtime: The running deployment; None before it runs.
        """
        variables: dict[str, Value] = {}

        def parameter(name: str) -> Value:
            key = _find(self._declared_parameters, name)
            if key is None:
                raise TemplateError(
                    f"The template parameter '{name}' is not found. "
                    "Please see https://aka.ms/arm-syntax-parameters for usage details."
                )
            is_hidden = not shows_secrets and self._is_given_secret(key)
            hidden = Residual(FunctionCall("parameters", (Literal(name),)))
            return hidden if is_hidden else self._parameter(key)

        def variable(name: str) -> Value:
            return self._variable(name, variables, bindings)

        bindings = Bindings(
            scope=self._scope,
            parameter=parameter,
            variable=variable,
            resources=resources,
            user_functions=self._functions,
            content_version=self._content_version,
            runtime=runtime,
        )
        return bindings

    def _is_given_secret(self, name: str) -> bool:
        return self._given.get(name) is not None and self._types.is_secure(self._declared_parameters[name])

    def _parameter(self, name: str) -> Value:
        """Return a parameter's value, given or default; it is checked against its type once."""
        if name in self._parameters:
            return self._parameters[name]
        declared = self._declared_parameters[name]
        value = self._given.get(name)
        if value is None and "defaultValue" in declared:
            value = self._default(name, declared["defaultValue"])
        elif value is None and not self._types.resolve(declared).get("nullable"):
            raise not_provided(name, declared)
        self._types.check("parameter", name, declared, value)
        self._parameters[name] = value
        return value

    def _default(self, name: str, document: Any) -> Value:  # noqa: ANN401 - any JSON value
        with self._cycle_guard("parameter", name):
            try:
                return Evaluator(self._default_bindings, Section.PARAMETER).tree(document)
            except ExpressionError as exc:
                line, column = end_of(self._declared_parameters[name], "defaultValue")
                raise TemplateError(
                    f"The template expression in parameter '{name}' at line '{line}' and column '{column}' "
                    f"is not valid: {exc}",
                    line=line,
                    column=column,
                    path=f"properties.template.parameters.{name}",
                ) from exc

    def _variable(self, name: str, known: dict[str, Value], bindings: Bindings) -> Value:
        declared = self._declared_variables
        loop = next((each for each in declared.get("copy", []) if each["name"].lower() == name.lower()), None)
        key = loop["name"] if loop else _find(declared, name)
        if key is None:
            raise TemplateError(
                f"The template variable '{name}' is not found. "
                "Please see https://aka.ms/arm-syntax-variables for usage details."
            )
        if key in known:
            return known[key]
        with self._cycle_guard("variable", key):
            # A variable cannot ask a resource, so its value is the same whenever it is evaluated.
            evaluator = Evaluator(replace(bindings, runtime=None), Section.VARIABLE)
            try:
                known[key] = evaluator.loop(loop) if loop else evaluator.tree(declared[key])
            except ExpressionError as exc:
                raise TemplateError(
                    f"The template variable '{key}' is not valid: {exc}. "
                    "Please see https://aka.ms/arm-functions for usage details."
                ) from exc
        return known[key]

    def _cycle_guard(self, noun: str, name: str) -> _CycleGuard:
        return _CycleGuard(self._in_progress, noun, name)


class _CycleGuard:
    """A context manager that rejects a parameter or variable whose value depends on itself."""

    def __init__(self, in_progress: list[str], noun: str, name: str) -> None:
        self.in_progress = in_progress
        self.noun = noun
        self.name = name
        self.entry = f"{noun} {name}"

    def __enter__(self) -> None:
        if self.entry in self.in_progress:
            raise TemplateError(
                f"The template {self.noun} '{self.name}' has a circular definition: its value needs itself. "
                f"Please see https://aka.ms/arm-syntax-{self.noun}s for usage details."
            )
        self.in_progress.append(self.entry)

    def __exit__(self, *_: object) -> None:
        self.in_progress.pop()


def _user_functions(namespaces: list[dict[str, Any]]) -> dict[str, UserFunction]:
    return {
        f"{each['namespace']}.{name}".lower(): UserFunction(
            tuple(parameter["name"] for parameter in member.get("parameters", [])), member["output"]["value"]
        )
        for each in namespaces
        for name, member in each.get("members", {}).items()
    }


def _find(document: dict[str, Any], name: str) -> str | None:
    if name in document:
        return name
    return next((key for key in document if key.lower() == name.lower()), None)

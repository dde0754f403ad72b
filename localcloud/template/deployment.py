"""One deployment: a template, its parameters and its place, evaluated before it runs and while it runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from localcloud.template import functions  # noqa: F401 - declares the functions of the language
from localcloud.template.declarations import check_template, declarations
from localcloud.template.errors import (
    FUNCTIONS_HELP,
    ExpressionError,
    NeedsRuntime,
    TemplateError,
    function_error,
)
from localcloud.template.evaluator import Bindings, Evaluator, Section, Target, UserFunction
from localcloud.template.functions.resources import is_runtime_function
from localcloud.template.model import PlannedResource
from localcloud.template.parameters import Types, check_names, not_provided
from localcloud.template.parser import is_expression, parse
from localcloud.template.registry import find_function
from localcloud.template.syntax import FunctionCall, Literal, calls_in, text_of
from localcloud.template.values import Residual, Value, end_of, require_known

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.errors import AzureError
    from localcloud.template.declarations import Declaration
    from localcloud.template.model import Runtime, Scope

_RUNTIME_MEMBERS = ("properties", "tags", "sku")
_RESOURCES_HELP = "Please see https://aka.ms/arm-syntax-resources for usage details."


@dataclass(frozen=True, slots=True)
class _Instance:
    """One resource to deploy, or one that is only named: a turn of its declaration's loop."""

    declaration: Declaration
    index: int | None
    id: str
    name: str
    is_deployed: bool

    @property
    def symbolic_name(self) -> str:
        own = self.declaration.symbolic_name
        return own if self.index is None or not own else f"{own}[{self.index}]"

    @property
    def api_version(self) -> str:
        return str(self.declaration.document["apiVersion"])


class Deployment:
    """A template that is being deployed to a resource group.

    Before it runs, `plan` says what it will put, in which order; `body` and `outputs` finish the evaluation
    with what only the running deployment knows.

    Args:
        template: The template, as `load_template` reads it.
        parameters: What was given for its parameters: ``{"name": {"value": ...}}``; a null value counts as
            none.
        scope: Where and as what it is deployed.

    Raises:
        AzureError: 400 `InvalidTemplate`, in Azure's words; 501, for a construct that the local cloud does
            not know.
    """

    def __init__(self, template: dict[str, Any], parameters: dict[str, dict[str, Any]], scope: Scope) -> None:
        self._template = template
        self._scope = scope
        with _as_azure_errors():
            check_template(template)
            self._types = Types(template.get("definitions", {}))
            self._declared_parameters: dict[str, dict[str, Any]] = template.get("parameters", {})
            check_names(self._declared_parameters, parameters)
            _check_expressions(template, declarations(template.get("resources", [])))
            self._user_functions = _user_functions(template.get("functions", []))
            self._given = {name: entry.get("value") for name, entry in parameters.items()}
            self._parameters: dict[str, Value] = {}
            self._open: list[str] = []
            self._bindings = self._bind(shows_secrets=True)
            for name in self._declared_parameters:
                self._parameter(name)
            self._instances = self._expand()
            self._planned = self._plan()
            self._planned_outputs = self._shown_outputs()

    @property
    def parameters_echo(self) -> dict[str, dict[str, Any]]:
        """The parameters as a deployment's answer shows them: types and values, no secret's value."""
        return {
            name: self._echo(declared, self._parameters[name])
            for name, declared in self._declared_parameters.items()
            if self._parameters[name] is not None or self._types.is_secure(declared)
        }

    def plan(self) -> tuple[PlannedResource, ...]:
        """Return the resources that will be put, each after those it depends on.

        Existing resources and those whose condition is false are not among them. What is only known at run
        time, and secure parameters, stand in the bodies as expressions in brackets.
        """
        return self._planned

    def plan_outputs(self) -> dict[str, Any]:
        """Return the values of the outputs as far as they are known before the deployment runs."""
        return self._planned_outputs

    def body(self, resource: PlannedResource, runtime: Runtime) -> dict[str, Any]:
        """Return what to put for a planned resource, with every expression evaluated.

        Raises:
            AzureError: An expression cannot be evaluated, or what `runtime` raises.
        """
        instance = next(each for each in self._instances if each.is_deployed and each.id == resource.id)
        evaluator = self._evaluator(instance, self._bind(shows_secrets=True, runtime=runtime), Section.BODY)
        declaration = instance.declaration
        try:
            body = _body(evaluator, declaration)
            require_known(body)
        except (ExpressionError, NeedsRuntime) as exc:
            raise TemplateError(
                f"Unable to process template language expressions for resource '{instance.id}' at line "
                f"'{declaration.line}' and column '{declaration.column}'. '{exc}'",
                line=declaration.line,
                column=declaration.column,
                path=f"properties.template.resources.{declaration.label}",
            ).as_azure_error() from exc
        except TemplateError as exc:
            raise exc.as_azure_error() from exc
        return dict(body)

    def outputs(self, runtime: Runtime) -> dict[str, dict[str, Any]]:
        """Return the outputs with their types: ``{"NAME": {"type": "String", "value": ...}}``.

        Raises:
            AzureError: An output cannot be evaluated, or what `runtime` raises.
        """
        with _as_azure_errors():
            bindings = self._bind(shows_secrets=True, runtime=runtime)
            return {name: self._echo(declared, value) for name, declared, value in self._outputs(bindings)}

    def _echo(self, declared: dict[str, Any], value: Value) -> dict[str, Any]:
        shown = {"type": self._types.echoed_name(declared)}
        return shown if self._types.is_secure(declared) else {**shown, "value": value}

    def _bind(self, *, shows_secrets: bool, runtime: Runtime | None = None) -> Bindings:
        """Return the meaning of names; with `shows_secrets` off, secure parameters stay expressions."""
        variables: dict[str, Value] = {}

        def parameter(name: str) -> Value:
            key = _find(self._declared_parameters, name)
            if key is None:
                raise TemplateError(
                    f"The template parameter '{name}' is not found. "
                    "Please see https://aka.ms/arm-syntax-parameters for usage details."
                )
            declared = self._declared_parameters[key]
            is_given = self._given.get(key) is not None
            is_hidden = not shows_secrets and is_given and self._types.is_secure(declared)
            return (
                Residual(FunctionCall("parameters", (Literal(name),))) if is_hidden else self._parameter(key)
            )

        def variable(name: str) -> Value:
            return self._variable(name, variables, bindings)

        bindings = Bindings(
            scope=self._scope,
            parameter=parameter,
            variable=variable,
            target=self._target,
            targets=self._targets,
            user_functions=self._user_functions,
            content_version=str(self._template.get("contentVersion", "")),
            runtime=runtime,
        )
        return bindings

    def _parameter(self, name: str) -> Value:
        """Return a parameter's value: what was given, else its default; judged against its type once."""
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
                return Evaluator(self._bindings, Section.PARAMETER).tree(document)
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
        declared: dict[str, Any] = self._template.get("variables", {})
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
            # No resource can be asked in a variable, so that its value is the same whenever it is evaluated.
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
        return _CycleGuard(self._open, noun, name)

    def _expand(self) -> list[_Instance]:
        """Return every resource of the template, loops unrolled, conditions decided."""
        found: list[_Instance] = []
        for declaration in declarations(self._template.get("resources", [])):
            found += self._turns(declaration)
        _check_duplicates(found)
        return found

    def _turns(self, declaration: Declaration) -> Iterator[_Instance]:
        evaluator = Evaluator(self._bindings, Section.IDENTITY)
        loop = declaration.document.get("copy")
        try:
            if loop is None:
                yield self._instance(declaration, evaluator, None)
                return
            for index in range(evaluator.count(loop)):
                yield self._instance(declaration, evaluator.with_copy(loop["name"], index), index)
        except ExpressionError as exc:
            raise declaration.is_not_valid(str(exc)) from exc

    def _instance(self, declaration: Declaration, evaluator: Evaluator, index: int | None) -> _Instance:
        condition = declaration.document.get("condition", True)
        is_wanted = evaluator.known(condition, "Boolean") and not declaration.document.get("existing", False)
        name = "/".join(evaluator.known(part, "String") for part in declaration.names)
        namespace, *types = declaration.type.split("/")
        parts = name.split("/")
        if len(parts) != len(types):
            line, column = end_of(declaration.document, "type")
            raise TemplateError(
                f"The template resource '{name}' of type '{declaration.type}' at line '{line}' and column "
                f"'{column}' has an invalid name. The name '{name}' contains '{len(parts)}' name segment(s) "
                f"separated by '/', but '{len(types)}' segment(s) were expected. {_RESOURCES_HELP}",
                line=line,
                column=column,
                path=f"properties.template.resources.{declaration.label}",
            )
        path = "".join(f"/{each}/{own}" for each, own in zip(types, parts, strict=True))
        address = f"{self._group_of(declaration, evaluator)}/providers/{namespace}{path}"
        return _Instance(declaration, index, address, name, bool(is_wanted))

    def _group_of(self, declaration: Declaration, evaluator: Evaluator) -> str:
        """Return the id of the group that a resource is in; an existing one may be in another than this."""
        document = declaration.document
        subscription_id = evaluator.known(
            document.get("subscriptionId", self._scope.subscription_id), "String"
        )
        group = evaluator.known(document.get("resourceGroup", self._scope.resource_group), "String")
        return f"/subscriptions/{subscription_id}/resourceGroups/{group}"

    def _evaluator(self, instance: _Instance, bindings: Bindings, place: Section) -> Evaluator:
        evaluator = Evaluator(bindings, place)
        if instance.index is None:
            return evaluator
        return evaluator.with_copy(instance.declaration.document["copy"]["name"], instance.index)

    def _named(self, name: str) -> list[_Instance]:
        """Return what a symbolic name (with its index or of a whole loop), an id, a name or a loop means."""
        wanted = name.lower()
        exact = [
            each for each in self._instances if name in (each.symbolic_name, each.declaration.symbolic_name)
        ]
        if exact and name:
            return exact
        return [
            each
            for each in self._instances
            if wanted in (each.id.lower(), each.name.lower())
            or wanted == str(each.declaration.document.get("copy", {}).get("name", "")).lower() != ""
        ]

    def _target(self, name: str) -> Target | None:
        found = self._named(name)
        return Target(found[0].id, found[0].api_version) if len(found) == 1 else None

    def _targets(self, name: str) -> tuple[Target, ...] | None:
        found = self._named(name)
        return tuple(Target(each.id, each.api_version) for each in found) or None

    def _plan(self) -> tuple[PlannedResource, ...]:
        bindings = self._bind(shows_secrets=False)
        planned: dict[str, PlannedResource] = {}
        for instance in self._instances:
            if instance.is_deployed:
                planned[instance.id] = self._planned_resource(instance, bindings)
        return tuple(_sorted(planned))

    def _planned_resource(self, instance: _Instance, bindings: Bindings) -> PlannedResource:
        declaration = instance.declaration
        evaluator = self._evaluator(instance, bindings, Section.BODY)
        try:
            body = _body(evaluator, declaration)
            depends_on = [*self._explicit(instance), *self._implicit(declaration.body, evaluator)]
        except ExpressionError as exc:
            raise declaration.is_not_valid(str(exc)) from exc
        return PlannedResource(
            symbolic_name=instance.symbolic_name,
            id=instance.id,
            type=declaration.type,
            name=instance.name,
            api_version=instance.api_version,
            depends_on=tuple(dict.fromkeys(each for each in depends_on if each != instance.id)),
            body=_shown(body),
        )

    def _explicit(self, instance: _Instance) -> Iterator[str]:
        """Yield the ids that ``dependsOn`` names and the deployment puts; through existing ones to theirs."""
        evaluator = self._evaluator(instance, self._bindings, Section.IDENTITY)
        for document in instance.declaration.document.get("dependsOn", []):
            name = evaluator.known(document, "String")
            found = self._named(name)
            if not found and not self._is_empty_loop(name):
                raise TemplateError(
                    f"The resource '{name}' is not defined in the template. {_RESOURCES_HELP}",
                    line=instance.declaration.line,
                    column=instance.declaration.column,
                    path=f"properties.template.resources.{instance.declaration.label}",
                )
            for other in found:
                if other.is_deployed:
                    yield other.id
                elif other.declaration.document.get("existing"):
                    yield from self._explicit(other)

    def _is_empty_loop(self, name: str) -> bool:
        return any(
            name == each.symbolic_name
            or name.lower() == str(each.document.get("copy", {}).get("name", "")).lower()
            for each in declarations(self._template.get("resources", []))
        )

    def _implicit(self, document: Any, evaluator: Evaluator) -> Iterator[str]:  # noqa: ANN401 - any JSON value
        """Yield the ids of the deployed resources that `reference` and the list functions ask."""
        for expression in _expressions_in(document):
            for call in calls_in(parse(expression)):
                if not is_runtime_function(call.name) or not call.arguments:
                    continue
                try:
                    name = evaluator.evaluate(call.arguments[0])
                except (ExpressionError, TemplateError):
                    continue  # it stands in a lambda or in a branch that is not taken
                for other in self._named(name) if isinstance(name, str) else ():
                    if other.is_deployed:
                        yield other.id

    def _shown_outputs(self) -> dict[str, Any]:
        return {name: _shown(value) for name, _, value in self._outputs(self._bind(shows_secrets=False))}

    def _outputs(self, bindings: Bindings) -> Iterator[tuple[str, dict[str, Any], Value]]:
        evaluator = Evaluator(bindings, Section.OUTPUT)
        declared_outputs: dict[str, dict[str, Any]] = self._template.get("outputs", {})
        for name, declared in declared_outputs.items():
            try:
                if not evaluator.known(declared.get("condition", True), "Boolean"):
                    continue
                loop = declared.get("copy")
                value = _turned(evaluator, loop) if loop else evaluator.tree(declared.get("value"))
                if bindings.runtime is not None:
                    require_known(value)
            except (ExpressionError, NeedsRuntime) as exc:
                raise TemplateError(
                    f"The template output '{name}' is not valid: {exc}.",
                    path=f"properties.template.outputs.{name}",
                ) from exc
            self._types.check("output", name, declared, value)
            yield name, declared, value


def _body(evaluator: Evaluator, declaration: Declaration) -> dict[str, Value]:
    """Evaluate what is put for a resource; only some of its parts may ask other resources."""
    names = replace(evaluator, section=Section.IDENTITY)
    return {
        key: (evaluator if key in _RUNTIME_MEMBERS else names).tree(value)
        for key, value in declaration.body.items()
    }


def _turned(evaluator: Evaluator, loop: dict[str, Any]) -> list[Value]:
    """Evaluate the loop of an output, which has no name of its own."""
    turns = range(evaluator.count(loop))
    return [evaluator.with_copy("", index).tree(loop.get("input")) for index in turns]


class _CycleGuard:
    """Refuses a parameter or a variable whose value needs its own value."""

    def __init__(self, names: list[str], noun: str, name: str) -> None:
        self.names = names
        self.noun = noun
        self.name = name
        self.entry = f"{noun} {name}"

    def __enter__(self) -> None:
        if self.entry in self.names:
            raise TemplateError(
                f"The template {self.noun} '{self.name}' has a circular definition: its value needs itself. "
                f"Please see https://aka.ms/arm-syntax-{self.noun}s for usage details."
            )
        self.names.append(self.entry)

    def __exit__(self, *_: object) -> None:
        self.names.pop()


class _as_azure_errors:  # noqa: N801 - reads as what it does, in a `with`
    """Turns a `TemplateError` into what Resource Manager answers."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, TemplateError):
            raise self.answer(error) from error

    @staticmethod
    def answer(error: TemplateError) -> AzureError:
        return error.as_azure_error()


def _check_expressions(template: dict[str, Any], declared: list[Declaration]) -> None:
    """Judge every expression, evaluated or not: its syntax, and that its functions exist."""
    for declaration in declared:
        if (error := _first_error(_own(declaration))) is not None:
            raise declaration.is_not_valid(str(error))
    for section in ("parameters", "variables", "outputs"):
        for name, document in template.get(section, {}).items():
            if (error := _first_error(document)) is not None:
                raise TemplateError(
                    f"The template {section[:-1]} '{name}' is not valid: {error}. {FUNCTIONS_HELP}",
                    path=f"properties.template.{section}.{name}",
                )
    if (error := _first_error(template.get("functions", []))) is not None:
        raise TemplateError(f"A function of the template is not valid: {error}. {FUNCTIONS_HELP}")


def _own(declaration: Declaration) -> dict[str, Any]:
    """Return a resource without those that nest in it, which are judged by themselves."""
    return {key: value for key, value in declaration.document.items() if key != "resources"}


def _first_error(document: Any) -> ExpressionError | None:  # noqa: ANN401 - any JSON value
    for expression in _expressions_in(document):
        try:
            for call in calls_in(parse(expression)):
                if "." not in call.name and find_function(call.name) is None:
                    return function_error(f"The template function '{call.name}' is not valid.")
        except ExpressionError as exc:
            return exc
    return None


def _expressions_in(document: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
    match document:
        case str() if is_expression(document):
            yield document
        case list():
            for item in document:
                yield from _expressions_in(item)
        case dict():
            for key, value in document.items():
                if is_expression(key):
                    yield key
                if key != "metadata":
                    yield from _expressions_in(value)


def _user_functions(namespaces: list[dict[str, Any]]) -> dict[str, UserFunction]:
    return {
        f"{each['namespace']}.{name}".lower(): UserFunction(
            tuple(parameter["name"] for parameter in member.get("parameters", [])), member["output"]["value"]
        )
        for each in namespaces
        for name, member in each.get("members", {}).items()
    }


def _check_duplicates(instances: list[_Instance]) -> None:
    seen: set[str] = set()
    for instance in instances:
        if not instance.is_deployed:
            continue
        if instance.id.lower() in seen:
            declaration = instance.declaration
            raise TemplateError(
                f"The resource '{declaration.type}/{instance.name}' at line '{declaration.line}' and column "
                f"'{declaration.column}' is defined multiple times in a template. {_RESOURCES_HELP}",
                line=declaration.line,
                column=declaration.column,
                path=f"properties.template.resources.{declaration.label}",
            )
        seen.add(instance.id.lower())


def _sorted(planned: dict[str, PlannedResource]) -> Iterator[PlannedResource]:
    """Yield resources in the order in which they stand, but each after those it depends on."""
    done: set[str] = set()
    under_way: set[str] = set()

    def visit(resource: PlannedResource) -> Iterator[PlannedResource]:
        if resource.id in done:
            return
        if resource.id in under_way:
            raise TemplateError(
                f"Circular dependency detected on resource: '{resource.id}'. {_RESOURCES_HELP}"
            )
        under_way.add(resource.id)
        for other in resource.depends_on:
            yield from visit(planned[other])
        done.add(resource.id)
        yield resource

    for resource in planned.values():
        yield from visit(resource)


def _shown(value: Value) -> Any:  # noqa: ANN401 - any JSON value
    """Return a value as JSON; what is not known is its expression in brackets."""
    match value:
        case Residual(node=node):
            return f"[{text_of(node)}]"
        case list():
            return [_shown(item) for item in value]
        case dict():
            return {key: _shown(item) for key, item in value.items()}
    return value


def _find(document: dict[str, Any], name: str) -> str | None:
    if name in document:
        return name
    return next((key for key in document if key.lower() == name.lower()), None)

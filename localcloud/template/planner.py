"""The resources of a template: loops unrolled, ordered by their dependencies, with their evaluated bodies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from localcloud.template.bindings import Section, Target
from localcloud.template.errors import ExpressionError, NeedsRuntime, TemplateError
from localcloud.template.evaluator import Evaluator
from localcloud.template.functions.resources import is_runtime_function
from localcloud.template.model import PlannedResource
from localcloud.template.parser import expressions_in, parse
from localcloud.template.syntax import calls_in
from localcloud.template.values import Value, end_of, require_known, to_document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcloud.template.bindings import Bindings
    from localcloud.template.declarations import Declaration
    from localcloud.template.model import Runtime, Scope
    from localcloud.template.symbols import Symbols

_RUNTIME_MEMBERS: Final = ("properties", "tags", "sku")
_RESOURCES_HELP: Final = "Please see https://aka.ms/arm-syntax-resources for usage details."


@dataclass(frozen=True, slots=True)
class _Instance:
    """A resource of the template, or one iteration of its loop; an existing one is not deployed."""

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


class ResourcePlanner:
    """The resources of one template, as a plan before the deployment and as bodies while it runs.

    Args:
        declared: The template's resources.
        symbols: Its parameters and variables.
        scope: Where it is deployed.

    Raises:
        TemplateError: A name or a condition is not valid, or a resource is defined twice.
    """

    def __init__(self, declared: list[Declaration], symbols: Symbols, scope: Scope) -> None:
        self._declared = declared
        self._symbols = symbols
        self._scope = scope
        self._bindings = symbols.bind(self, shows_secrets=True)
        self._instances: list[_Instance] = []
        self._instances = self._expand()

    def plan(self) -> tuple[PlannedResource, ...]:
        """Return the resources to deploy, each after those it depends on.

        Raises:
            TemplateError: An expression is not valid, or dependencies are missing or circular.
        """
        bindings = self._symbols.bind(self, shows_secrets=False)
        planned: dict[str, PlannedResource] = {}
        for instance in self._instances:
            if instance.is_deployed:
                planned[instance.id] = self._planned_resource(instance, bindings)
        return tuple(_in_dependency_order(planned))

    def body(self, resource: PlannedResource, runtime: Runtime) -> dict[str, Any]:
        """Return the body of a planned resource, with every expression evaluated.

        Raises:
            TemplateError: An expression cannot be evaluated.
        """
        instance = next(each for each in self._instances if each.is_deployed and each.id == resource.id)
        bindings = self._symbols.bind(self, shows_secrets=True, runtime=runtime)
        evaluator = _evaluator(instance, bindings, Section.BODY)
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
            ) from exc
        return dict(body)

    def target(self, name: str) -> Target | None:
        """Return the resource with a symbolic name, name or id; None if it is not exactly one."""
        found = self._named(name)
        return Target(found[0].id, found[0].api_version) if len(found) == 1 else None

    def targets(self, name: str) -> tuple[Target, ...] | None:
        """Return the resources of a loop, None if there are none."""
        found = self._named(name)
        return tuple(Target(each.id, each.api_version) for each in found) or None

    def _expand(self) -> list[_Instance]:
        """Return every resource, with loops unrolled and conditions evaluated."""
        found = [instance for declaration in self._declared for instance in self._instances_of(declaration)]
        _check_duplicates(found)
        return found

    def _instances_of(self, declaration: Declaration) -> Iterator[_Instance]:
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
        """Return the id of a resource's group; an existing resource may be in another group."""
        document = declaration.document
        subscription_id = evaluator.known(
            document.get("subscriptionId", self._scope.subscription_id), "String"
        )
        group = evaluator.known(document.get("resourceGroup", self._scope.resource_group), "String")
        return f"/subscriptions/{subscription_id}/resourceGroups/{group}"

    def _named(self, name: str) -> list[_Instance]:
        """Return the resources that have this symbolic name (with an index or without), name, id or loop."""
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

    def _planned_resource(self, instance: _Instance, bindings: Bindings) -> PlannedResource:
        declaration = instance.declaration
        evaluator = _evaluator(instance, bindings, Section.BODY)
        try:
            body = _body(evaluator, declaration)
            depends_on = [
                *self._explicit_dependencies(instance),
                *self._implicit_dependencies(declaration.body, evaluator),
            ]
        except ExpressionError as exc:
            raise declaration.is_not_valid(str(exc)) from exc
        return PlannedResource(
            symbolic_name=instance.symbolic_name,
            id=instance.id,
            type=declaration.type,
            name=instance.name,
            api_version=instance.api_version,
            depends_on=tuple(dict.fromkeys(each for each in depends_on if each != instance.id)),
            body=to_document(body),
        )

    def _explicit_dependencies(self, instance: _Instance) -> Iterator[str]:
        """Yield the ids of the deployed resources in ``dependsOn``, through existing ones to theirs."""
        evaluator = _evaluator(instance, self._bindings, Section.IDENTITY)
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
                    yield from self._explicit_dependencies(other)

    def _is_empty_loop(self, name: str) -> bool:
        return any(
            name == each.symbolic_name
            or name.lower() == str(each.document.get("copy", {}).get("name", "")).lower()
            for each in self._declared
        )

    def _implicit_dependencies(
        self,
        document: Any,  # noqa: ANN401 - any JSON value
        evaluator: Evaluator,
    ) -> Iterator[str]:
        """Yield the ids of the deployed resources that `reference` and the list functions name."""
        for expression in expressions_in(document):
            for call in calls_in(parse(expression)):
                if not is_runtime_function(call.name) or not call.arguments:
                    continue
                try:
                    name = evaluator.evaluate(call.arguments[0])
                except (ExpressionError, TemplateError):
                    continue  # it is in a lambda, or in a branch that is not taken
                for other in self._named(name) if isinstance(name, str) else ():
                    if other.is_deployed:
                        yield other.id


def _evaluator(instance: _Instance, bindings: Bindings, section: Section) -> Evaluator:
    evaluator = Evaluator(bindings, section)
    if instance.index is None:
        return evaluator
    return evaluator.with_copy(instance.declaration.document["copy"]["name"], instance.index)


def _body(evaluator: Evaluator, declaration: Declaration) -> dict[str, Value]:
    """Evaluate a resource's body; only some of its members may call run-time functions."""
    identity = replace(evaluator, section=Section.IDENTITY)
    evaluated = {
        key: (evaluator if key in _RUNTIME_MEMBERS else identity).tree(value)
        for key, value in declaration.body.items()
    }
    # A member that evaluates to null, such as an identity, is as if it were not there.
    # Source: `bicep snapshot` 0.49.2.
    return {key: value for key, value in evaluated.items() if value is not None}


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


def _in_dependency_order(planned: dict[str, PlannedResource]) -> Iterator[PlannedResource]:
    """Yield resources in the template's order, but each after those it depends on."""
    done: set[str] = set()
    in_progress: set[str] = set()

    def visit(resource: PlannedResource) -> Iterator[PlannedResource]:
        if resource.id in done:
            return
        if resource.id in in_progress:
            raise TemplateError(
                f"Circular dependency detected on resource: '{resource.id}'. {_RESOURCES_HELP}"
            )
        in_progress.add(resource.id)
        for other in resource.depends_on:
            yield from visit(planned[other])
        done.add(resource.id)
        yield resource

    for resource in planned.values():
        yield from visit(resource)

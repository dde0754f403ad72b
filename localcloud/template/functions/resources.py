"""Parameters and variables, the deployment's scope, and resources with their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.errors import not_emulated
from localcloud.template.bindings import Section
from localcloud.template.errors import ExpressionError, function_error, misplaced
from localcloud.template.registry import (
    ANY,
    INTEGER,
    LIST,
    STRING,
    find_function,
    function,
    kind_error,
    lazy,
    scoped,
)
from localcloud.template.syntax import Access, FunctionCall, Literal
from localcloud.template.values import Residual, Value, kind, node_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localcloud.template.bindings import Target
    from localcloud.template.registry import FunctionContext

_LOOPS_HELP: Final = "Please see https://aka.ms/arm-resource-loops for usage details."


@scoped("parameters", STRING)
def parameters(context: FunctionContext, name: str) -> Value:
    """Return a parameter's value."""
    return context.bindings.parameter(name)


@scoped("variables", STRING)
def variables(context: FunctionContext, name: str) -> Value:
    """Return a variable's value."""
    if context.section is Section.FUNCTION:
        raise misplaced("variables")
    return context.bindings.variable(name)


@scoped("copyIndex", optional=(("String", "Integer"), INTEGER))
def copy_index(context: FunctionContext, first: str | int | None = None, second: int = 0) -> int:
    """Return the index of the innermost or a named loop, plus an offset."""
    name, offset = (first, second) if isinstance(first, str) else (context.innermost, first or 0)
    found = next(
        (index for each, index in context.copies.items() if each.lower() == (name or "").lower()), None
    )
    if found is None and context.copies:
        raise ExpressionError(
            "The template language function 'copyIndex' has an invalid argument. "
            f"The provided copy name '{name or ''}' doesn't exist in the resource. {_LOOPS_HELP}"
        )
    if found is None:
        raise ExpressionError(
            "The template function 'copyIndex' is not expected at this location. "
            f"The function can only be used in a resource with copy specified. {_LOOPS_HELP}"
        )
    return found + offset


@scoped("resourceGroup")
def resource_group(context: FunctionContext) -> Value:
    """Return the resource group."""
    scope = context.scope
    known = {
        "id": scope.group_id,
        "name": scope.resource_group,
        "type": "Microsoft.Resources/resourceGroups",
        "location": scope.location,
    }
    return known | _unknown("resourceGroup", "tags", "managedBy", "properties")


@scoped("subscription")
def subscription(context: FunctionContext) -> Value:
    """Return the subscription."""
    scope = context.scope
    known = {
        "id": f"/subscriptions/{scope.subscription_id}",
        "subscriptionId": scope.subscription_id,
        "tenantId": scope.tenant_id,
    }
    return known | _unknown("subscription", "displayName")


@scoped("tenant")
def tenant(context: FunctionContext) -> Value:
    """Return the tenant."""
    tenant_id = context.scope.tenant_id
    return _unknown("tenant", "countryCode", "displayName") | {
        "id": f"/tenants/{tenant_id}",
        "tenantId": tenant_id,
    }


@scoped("deployment")
def deployment(context: FunctionContext) -> Value:
    """Return the deployment."""
    content = {"contentVersion": context.bindings.content_version}
    return {"name": context.scope.deployment_name, "properties": {"template": content}}


@lazy("environment")
def environment(context: FunctionContext, call: FunctionCall) -> Value:
    """Leave the cloud's properties unevaluated until the deployment runs."""
    return _later(context, call, "environment")


@lazy("deployer")
def deployer(context: FunctionContext, call: FunctionCall) -> Value:
    """Leave the deploying identity unevaluated until the deployment runs."""
    return _later(context, call, "deployer")


@scoped("resourceId", STRING, STRING, rest=STRING)
def resource_id(context: FunctionContext, *parts: str) -> str:
    """Return the id of a resource in this group, or in the group that precedes the type."""
    at = _type_index("resourceId", parts)
    subscription_id, group = context.scope.subscription_id, context.scope.resource_group
    if at == 1:
        group = parts[0]
    elif at > 1:
        subscription_id, group = parts[0], parts[1]
    base = f"/subscriptions/{subscription_id}/resourceGroups/{group}"
    return base + _provider_path("resourceId", parts[at], parts[at + 1 :])


@scoped("subscriptionResourceId", STRING, STRING, rest=STRING)
def subscription_resource_id(context: FunctionContext, *parts: str) -> str:
    """Return the id of a resource of this subscription, or of the one that precedes the type."""
    at = _type_index("subscriptionResourceId", parts)
    base = f"/subscriptions/{parts[0] if at else context.scope.subscription_id}"
    return base + _provider_path("subscriptionResourceId", parts[at], parts[at + 1 :])


@function("tenantResourceId", STRING, STRING, rest=STRING)
def tenant_resource_id(*parts: str) -> str:
    """Return the id of a resource of the tenant."""
    return _provider_path("tenantResourceId", parts[0], parts[1:])


@function("extensionResourceId", STRING, STRING, STRING, rest=STRING)
def extension_resource_id(base: str, resource_type: str, *names: str) -> str:
    """Return the id of a resource that extends another."""
    return base.rstrip("/") + _provider_path("extensionResourceId", resource_type, names)


@function("managementGroupResourceId", STRING, STRING, STRING, rest=STRING)
def management_group_resource_id(group: str, resource_type: str, *names: str) -> str:
    """Return the id of a resource of a management group."""
    base = f"/providers/Microsoft.Management/managementGroups/{group}"
    return base + _provider_path("managementGroupResourceId", resource_type, names)


@lazy("reference", STRING, optional=(STRING, STRING))
def reference(context: FunctionContext, call: FunctionCall) -> Value:
    """Return a resource's properties, or with `Full` the whole resource."""
    _require_runtime_section(context, call.name)
    values = tuple(map(context.evaluate, call.arguments))
    for index, value in enumerate(values):
        if not isinstance(value, str | Residual):
            raise kind_error(call.name, kind(value), STRING, index)
    if any(isinstance(value, Residual) for value in values):
        return Residual(FunctionCall(call.name, tuple(map(node_of, values))))
    target = _target(context, call.name, values[0])
    api_version = values[1] if len(values) > 1 else (target.api_version if target else None)
    full = values[2:]
    address = target.id if target else values[0]
    if context.bindings.runtime is not None:
        is_full = bool(full) and full[0].lower() == "full"
        return context.bindings.runtime.reference(address, api_version, is_full)
    return Residual(
        FunctionCall(
            call.name, tuple(map(Literal, (address, *([api_version] if api_version else []), *full)))
        )
    )


@lazy("references", STRING, optional=(STRING,))
def references(context: FunctionContext, call: FunctionCall) -> Value:
    """Return the properties of every resource of a loop, or with `Full` the whole resources."""
    _require_runtime_section(context, call.name)
    values = tuple(map(context.evaluate, call.arguments))
    runtime = context.bindings.runtime
    if runtime is None or any(isinstance(value, Residual) for value in values):
        return Residual(FunctionCall(call.name, tuple(map(node_of, values))))
    targets = context.bindings.resources.targets(values[0])
    if targets is None:
        raise _not_found(call.name, values[0])
    is_full = len(values) > 1 and values[1].lower() == "full"
    return [runtime.reference(target.id, target.api_version, is_full) for target in targets]


@lazy("resourceInfo", STRING)
def resource_info(context: FunctionContext, call: FunctionCall) -> Value:
    """Return the id of a resource of this template."""
    name = context.evaluate(call.arguments[0])
    target = context.bindings.resources.target(name)
    if target is None:
        raise _not_found(call.name, name)
    return {"id": target.id}


@lazy(LIST, STRING, STRING, optional=(ANY,))
def list_function(context: FunctionContext, call: FunctionCall) -> Value:
    """Return the result of a list action of a resource, given its name or id and the api-version."""
    _require_runtime_section(context, call.name)
    values = tuple(map(context.evaluate, call.arguments))
    if any(isinstance(value, Residual) for value in values):
        return Residual(FunctionCall(call.name, tuple(map(node_of, values))))
    for index, value in enumerate(values[:2]):
        if not isinstance(value, str):
            raise kind_error(call.name, kind(value), STRING, index)
    target = _target(context, call.name, values[0])
    address = target.id if target else values[0]
    runtime = context.bindings.runtime
    if runtime is None:
        return Residual(FunctionCall(call.name, (Literal(address), *map(node_of, values[1:]))))
    if len(values) > 2:  # noqa: PLR2004 - the third argument is the action's body
        raise not_emulated(f"the template function '{call.name}' with a body")
    return runtime.list(call.name, address, values[1])


def is_runtime_function(name: str) -> bool:
    """Return whether a function queries a resource, so that its caller depends on the resource."""
    found = find_function(name)
    return found is not None and found.name in ("reference", "references", LIST)


def _unknown(function_name: str, *names: str) -> dict[str, Value]:
    return {name: Residual(Access(FunctionCall(function_name, ()), Literal(name))) for name in names}


def _later(context: FunctionContext, call: FunctionCall, name: str) -> Residual:
    if context.bindings.runtime is not None:
        raise not_emulated(f"the template function '{name}'")
    return Residual(call)


def _require_runtime_section(context: FunctionContext, name: str) -> None:
    if context.section not in (Section.BODY, Section.OUTPUT):
        raise misplaced(name)


def _target(context: FunctionContext, function_name: str, name: str) -> Target | None:
    """Return the resource of the template with a name or id; None for the id of another resource."""
    target = context.bindings.resources.target(name)
    if target is None and not name.startswith("/"):
        raise _not_found(function_name, name)
    return target


def _not_found(function_name: str, name: str) -> ExpressionError:
    return ExpressionError(
        f"The template {function_name} '{name}' is not valid: could not find template resource or resource "
        "copy with this name. Please see https://aka.ms/arm-function-reference for usage details."
    )


def _type_index(name: str, parts: Sequence[str]) -> int:
    for index, part in enumerate(parts):
        if "/" in part:
            return index
    raise function_error(
        f"Unable to evaluate template language function '{name}'. The type has to be fully qualified, such "
        "as 'Microsoft.Storage/storageAccounts'."
    )


def _provider_path(name: str, resource_type: str, names: Sequence[str]) -> str:
    namespace, *types = resource_type.strip("/").split("/")
    if len(types) != len(names):
        raise ExpressionError(
            f"Unable to evaluate template language function '{name}': the type '{resource_type}' requires "
            f"'{len(types)}' resource name argument(s). "
            f"Please see https://aka.ms/arm-resource-functions/#{name.lower()} for usage details."
        )
    return f"/providers/{namespace}" + "".join(
        f"/{part}/{own}" for part, own in zip(types, names, strict=True)
    )

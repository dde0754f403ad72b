"""Templates and parameters that Azure rejects, with its messages, or that only the local cloud rejects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.errors import AzureError
from localcloud.template import Deployment, Scope, load_template

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

GROUP = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/my-rg"
ACCOUNT = f"{GROUP}/providers/Microsoft.Storage/storageAccounts"


def account(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "Microsoft.Storage/storageAccounts", "apiVersion": "2025-08-01", "name": name, **more}


def test_azures_message(
    error: dict[str, Any], judging: ModuleType, deploy: Callable[..., Deployment]
) -> None:
    with pytest.raises(AzureError) as caught:
        deploy(judging.invalid_template(error["template"]))
    assert (caught.value.status, caught.value.code) == (400, "InvalidTemplate")
    assert caught.value.message == f"Deployment template validation failed: '{error['message']}'."


@pytest.mark.bicep
def test_table_equals_bicep(judging: ModuleType, judge: Any) -> None:
    assert judging.judged_errors(judge) == judging.read(judging.LANGUAGE / "errors.json")


# What Azure checks before or after its evaluator runs, so that a snapshot does not show it.
# Source: Azure Resource Manager, "Troubleshoot common Azure deployment errors"; recorded answers.
BEYOND_SNAPSHOTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a parameter without a value": (
        {"parameters": {"p": {"type": "string"}}, "resources": {}},
        {},
        (
            "The value for the template parameter 'p' at line '1' and column '188' is not provided. "
            "Please see https://aka.ms/arm-create-parameter-file for usage details."
        ),
    ),
    "a null where there is no default": (
        {"parameters": {"p": {"type": "string"}}, "resources": {}},
        {"p": None},
        (
            "The value for the template parameter 'p' at line '1' and column '188' is not provided. "
            "Please see https://aka.ms/arm-create-parameter-file for usage details."
        ),
    ),
    "a parameter that is not declared": (
        {
            "parameters": {
                "a": {"type": "string", "defaultValue": ""},
                "b": {"type": "int", "defaultValue": 1},
            }
        },
        {"x": 1, "a": "z"},
        (
            "The template parameters 'x' in the parameters file are not valid; they are not present in the "
            "original template and can therefore not be provided at deployment time. The only supported "
            "parameters for this template are 'a, b'. Please see https://aka.ms/arm-pass-parameter-values "
            "for usage details."
        ),
    ),
    "a parameter of another type": (
        {"parameters": {"p": {"type": "int"}}},
        {"p": "7"},
        (
            "The provided value for the template parameter 'p' is not valid. Expected a value of type "
            "'Integer', but received a value of type 'String'. Please see "
            "https://aka.ms/arm-create-parameter-file for usage details."
        ),
    ),
    "resources that need each other": (
        {"resources": {"a": account("a", dependsOn=["b"]), "b": account("b", dependsOn=["a"])}},
        {},
        (
            f"Circular dependency detected on resource: '{ACCOUNT}/a'. "
            "Please see https://aka.ms/arm-syntax-resources for usage details."
        ),
    ),
    "resources that ask each other": (
        {
            "resources": {
                "a": account("a", properties={"x": "[reference('b').x]"}),
                "b": account("b", properties={"x": "[listKeys('a', '2025-08-01').x]"}),
            }
        },
        {},
        (
            f"Circular dependency detected on resource: '{ACCOUNT}/a'. "
            "Please see https://aka.ms/arm-syntax-resources for usage details."
        ),
    ),
    "a dependency that is not there": (
        {"resources": {"a": account("a", dependsOn=["zz"])}},
        {},
        (
            "The resource 'zz' is not defined in the template. "
            "Please see https://aka.ms/arm-syntax-resources for usage details."
        ),
    ),
    "a resource twice": (
        {"resources": {"a": account("same"), "b": account("SAME")}},
        {},
        (
            "The resource 'Microsoft.Storage/storageAccounts/SAME' at line '1' and column '266' is defined "
            "multiple times in a template. Please see https://aka.ms/arm-syntax-resources for usage "
            "details."
        ),
    ),
    "a parameter that needs itself": (
        {
            "parameters": {
                "p": {"type": "string", "defaultValue": "[parameters('q')]"},
                "q": {"type": "string", "defaultValue": "[parameters('p')]"},
            }
        },
        {},
        (
            "The template parameter 'p' has a circular definition: its value needs itself. "
            "Please see https://aka.ms/arm-syntax-parameters for usage details."
        ),
    ),
}


@pytest.mark.parametrize("case", BEYOND_SNAPSHOTS.values(), ids=BEYOND_SNAPSHOTS)
def test_errors_beyond_snapshots(
    case: tuple[dict[str, Any], dict[str, Any], str], judging: ModuleType, deploy: Callable[..., Deployment]
) -> None:
    fragment, values, message = case
    with pytest.raises(AzureError) as caught:
        deploy(judging.invalid_template({"resources": {}, **fragment}), **values)
    assert caught.value.message == f"Deployment template validation failed: '{message}'."


def test_an_error_has_its_position(judging: ModuleType, deploy: Callable[..., Deployment]) -> None:
    template = json.dumps(
        {"$schema": judging.SCHEMA, "languageVersion": "2.0", "resources": {"a": account("[null()]")}},
        indent=2,
    )
    with pytest.raises(AzureError) as caught:
        deploy(template)
    assert caught.value.body()["additionalInfo"] == [
        {
            "type": "TemplateViolation",
            "info": {"lineNumber": 5, "linePosition": 10, "path": "properties.template.resources.a"},
        }
    ]


@pytest.mark.parametrize(
    ("fragment", "what"),
    [
        ({"extensions": {}}, "'extensions' in a template"),
        ({"languageVersion": "2.1-experimental"}, "the template language version '2.1-experimental'"),
        ({"resources": {"a": account("a", scope="/x")}}, "'scope' of a template resource ('a')"),
        ({"resources": {"a": account("a", **{"@options": {}})}}, "'@options' of a template resource ('a')"),
        (
            {"resources": {"m": {**account("m"), "type": "Microsoft.Resources/deployments"}}},
            "nested deployments (Bicep modules)",
        ),
        (
            {"parameters": {"p": {"type": "string", "pattern": "x", "defaultValue": ""}}, "resources": {}},
            "the keyword 'pattern' of a template type",
        ),
        (
            {"parameters": {"p": {"type": "string", "defaultValue": "[utcNow()]"}}, "resources": {}},
            "the template function 'utcNow' without a clock",
        ),
    ],
)
def test_an_unsupported_construct_is_rejected(
    fragment: dict[str, Any], what: str, judging: ModuleType, deploy: Callable[..., Deployment]
) -> None:
    with pytest.raises(AzureError) as caught:
        deploy(judging.invalid_template({"resources": {}, **fragment}))
    assert (caught.value.status, caught.value.message) == (501, f"The local cloud does not emulate {what}.")


@pytest.mark.parametrize(
    "expression", ["if(true(), 'x', nope('y'))", "coalesce('x', nope())", "createObject('a', nope())"]
)
def test_an_unknown_function_is_an_error_even_if_it_is_not_evaluated(
    expression: str, judging: ModuleType, deploy: Callable[..., Deployment]
) -> None:
    fragment = {"resources": {}, "outputs": {"o": {"type": "string", "value": f"[{expression}]"}}}
    with pytest.raises(
        AzureError, match=r"The template output 'o' is not valid: The template function 'nope' is not"
    ):
        deploy(judging.invalid_template(fragment))


def test_a_key_vault_reference_is_refused(judging: ModuleType, scope: Scope) -> None:
    template = judging.invalid_template({"parameters": {"p": {"type": "string"}}, "resources": {}})
    with pytest.raises(AzureError, match="does not emulate a parameter that refers to a key vault"):
        Deployment(load_template(template), {"p": {"reference": {"keyVault": {}}}}, scope)


def test_an_unknown_member_of_the_template(judging: ModuleType, deploy: Callable[..., Deployment]) -> None:
    with pytest.raises(
        AzureError, match="Could not find member 'resourcs' on object of type 'Template'"
    ) as caught:
        deploy(judging.invalid_template({"resourcs": {}}))
    assert caught.value.code == "InvalidRequestContent"


def test_a_template_of_another_scope(deploy: Callable[..., Deployment]) -> None:
    schema = "https://schema.management.azure.com/schemas/2018-05-01/subscriptionDeploymentTemplate.json#"
    with pytest.raises(AzureError, match="is not that of a resource group's deployment"):
        deploy(json.dumps({"$schema": schema, "resources": {}}))

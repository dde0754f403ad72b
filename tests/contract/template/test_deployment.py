"""A deployment while it runs: run-time values, secrets, outputs, nulls, clocks, and az's own body."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.errors import AzureError
from localcloud.template import Deployment, Scope, load_deployment_body, load_template

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from localcloud.template import PlannedResource

GROUP = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/my-rg"
ACCOUNT = f"{GROUP}/providers/Microsoft.Storage/storageAccounts"


class Cloud:
    """A `Runtime` with fixed results, which records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def reference(self, resource_id: str, api_version: str | None, full: bool) -> dict[str, Any]:  # noqa: FBT001
        self.calls.append(("reference", resource_id, str(api_version), str(full)))
        properties = {"customerId": "c-1", "configuration": {"ingress": {"fqdn": "app.example"}}}
        return {"location": "westus", "properties": properties} if full else properties

    def list(self, function: str, resource_id: str, api_version: str) -> dict[str, Any]:
        self.calls.append((function, resource_id, api_version))
        return {"keys": [{"value": "key-one"}], "primarySharedKey": "shared"}


@pytest.fixture
def inference(judging: ModuleType, deploy: Callable[..., Deployment]) -> Callable[..., Deployment]:
    return lambda **values: deploy(judging.TEMPLATE.read_text(encoding="utf-8"), **values)


@pytest.fixture
def fragment(judging: ModuleType, deploy: Callable[..., Deployment]) -> Callable[..., Deployment]:
    """Return a function that deploys an account with these properties, and other parts of a template."""

    def make(properties: dict[str, Any], values: dict[str, Any] | None = None, **more: Any) -> Deployment:
        document = {
            "resources": {"a": account("a", properties=properties), "b": account("b", properties={})},
            **more,
        }
        return deploy(judging.invalid_template(document), **(values or {}))

    return make


def account(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "Microsoft.Storage/storageAccounts", "apiVersion": "2025-08-01", "name": name, **more}


def named(deployment: Deployment, symbolic_name: str) -> PlannedResource:
    return next(each for each in deployment.plan() if each.symbolic_name == symbolic_name)


def test_bodies_get_run_time_values(inference: Callable[..., Deployment]) -> None:
    deployment, cloud = inference(apiKey="secret-key"), Cloud()
    environment = deployment.body(named(deployment, "environment"), cloud)
    assert environment["properties"]["appLogsConfiguration"]["logAnalyticsConfiguration"] == {
        "customerId": "c-1",
        "sharedKey": "shared",
    }
    storage = deployment.body(named(deployment, "environmentStorage"), cloud)
    assert storage["properties"]["azureFile"]["accountKey"] == "key-one"
    workspace = f"{GROUP}/providers/Microsoft.OperationalInsights/workspaces/ailogbmg7c"
    assert cloud.calls == [
        ("reference", workspace, "2025-02-01", "False"),
        ("listKeys", workspace, "2025-02-01"),
        ("listKeys", f"{ACCOUNT}/aistoragebmg7c", "2025-08-01"),
    ]


def test_the_key_reaches_the_body_and_nothing_else(inference: Callable[..., Deployment]) -> None:
    deployment = inference(apiKey="secret-key")
    app = named(deployment, "app")
    body = deployment.body(app, Cloud())
    assert body["properties"]["configuration"]["secrets"] == [{"name": "api-key", "value": "secret-key"}]
    container = body["properties"]["template"]["containers"][0]
    assert {"name": "FJARR_API_KEYS", "secretRef": "api-key"} in container["env"]
    assert "secret-key" not in json.dumps([deployment.parameters_echo, deployment.plan_outputs(), app.body])


def test_outputs_are_the_six_keys(inference: Callable[..., Deployment]) -> None:
    outputs = inference().outputs(Cloud())
    assert outputs == {
        "SUBSCRIPTION_ID": {"type": "String", "value": "00000000-0000-0000-0000-000000000000"},
        "RESOURCE_GROUP_NAME": {"type": "String", "value": "my-rg"},
        "STORAGE_ACCOUNT_NAME": {"type": "String", "value": "aistoragebmg7c"},
        "FILE_SHARE_NAME": {"type": "String", "value": "aifilesharebmg7c"},
        "ACA_APP_NAME": {"type": "String", "value": "aiacaappbmg7c"},
        "ACA_APP_ENDPOINT": {"type": "String", "value": "app.example"},
    }


def test_echo_has_types_and_values_and_no_secret(inference: Callable[..., Deployment]) -> None:
    echo = inference(apiKey="k", location=None, minReplicas=0).parameters_echo
    assert echo["apiKey"] == {"type": "SecureString"}
    assert echo["minReplicas"] == {"type": "Int", "value": 0}
    assert echo["environmentExists"] == {"type": "Bool", "value": False}
    assert echo["environmentVariables"] == {"type": "Object", "value": {}}
    assert "location" not in echo


def test_null_means_the_default(fragment: Callable[..., Deployment]) -> None:
    parameters = {"p": {"type": "string", "defaultValue": "d"}, "n": {"type": "int", "nullable": True}}
    properties = {"p": "[parameters('p')]", "n": "[coalesce(parameters('n'), 3)]"}
    deployment = fragment(properties, {"p": None, "n": None}, parameters=parameters)
    assert named(deployment, "a").body["properties"] == {"p": "d", "n": 3}


@pytest.mark.parametrize(
    ("declared", "accepted", "rejected"),
    [
        ({"type": "int", "minValue": 2, "maxValue": 5}, (2, 5), (1, 6)),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ("ab", "abc"), ("a", "abcd")),
        ({"type": "array", "minLength": 1, "maxLength": 2}, ([1], [1, 2]), ([], [1, 2, 3])),
    ],
)
def test_a_value_at_the_limits_of_a_parameter(
    fragment: Callable[..., Deployment],
    declared: dict[str, Any],
    accepted: tuple[Any, ...],
    rejected: tuple[Any, ...],
) -> None:
    for value in accepted:
        deployment = fragment({"p": "[parameters('p')]"}, {"p": value}, parameters={"p": declared})
        assert named(deployment, "a").body["properties"] == {"p": value}
    for value in rejected:
        with pytest.raises(AzureError, match=r"parameter 'p' is not valid\. .* should be "):
            fragment({"p": "[parameters('p')]"}, {"p": value}, parameters={"p": declared})


def test_values_of_parameters_are_never_expressions(fragment: Callable[..., Deployment]) -> None:
    parameters = {"p": {"type": "string"}}
    deployment = fragment({"p": "[parameters('p')]"}, {"p": "[resourceGroup().name]"}, parameters=parameters)
    assert named(deployment, "a").body["properties"] == {"p": "[resourceGroup().name]"}


def test_a_reference_to_a_resource_is_a_dependency(fragment: Callable[..., Deployment]) -> None:
    deployment = fragment({"x": "[reference('b', '2025-08-01', 'Full').location]"})
    assert [each.symbolic_name for each in deployment.plan()] == ["b", "a"]
    assert named(deployment, "a").depends_on == (f"{ACCOUNT}/b",)
    assert deployment.body(named(deployment, "a"), Cloud())["properties"] == {"x": "westus"}


def test_what_existing_resources_depend_on_comes_first(
    judging: ModuleType, deploy: Callable[..., Deployment]
) -> None:
    resources = {
        "late": account("late", dependsOn=["seen"]),
        "seen": account("seen", existing=True, dependsOn=["early"]),
        "never": account("never", condition=False),
        "early": account("early", dependsOn=["never"]),
    }
    deployment = deploy(judging.invalid_template({"resources": resources}))
    assert [each.symbolic_name for each in deployment.plan()] == ["early", "late"]


def test_a_wrong_run_time_value_is_an_error_of_the_resource(fragment: Callable[..., Deployment]) -> None:
    deployment = fragment({"x": "[reference('b').nothing]"})
    with pytest.raises(AzureError) as caught:
        deployment.body(named(deployment, "a"), Cloud())
    assert caught.value.code == "InvalidTemplate"
    assert (
        f"Unable to process template language expressions for resource '{ACCOUNT}/a' at line '1'"
        in caught.value.message
    )
    assert (
        "'nothing' doesn't exist, available properties are 'customerId, configuration'"
        in caught.value.message
    )


def test_a_wrong_output_is_an_error(fragment: Callable[..., Deployment]) -> None:
    outputs = {"o": {"type": "int", "value": "[reference('b').customerId]"}}
    deployment = fragment({}, outputs=outputs)
    with pytest.raises(
        AzureError, match=r"template output 'o' is not valid. Expected a value of type 'Integer'"
    ):
        deployment.outputs(Cloud())


def test_the_runtime_is_called_only_where_it_is_needed(fragment: Callable[..., Deployment]) -> None:
    deployment, cloud = fragment({"x": "[if(equals('a', 'b'), reference('b').x, 'none')]"}), Cloud()
    assert deployment.body(named(deployment, "a"), cloud)["properties"] == {"x": "none"}
    assert cloud.calls == []


def test_functions_that_are_not_emulated_are_rejected(fragment: Callable[..., Deployment]) -> None:
    deployment = fragment({"x": "[environment().suffixes.storage]"})
    with pytest.raises(AzureError, match="does not emulate the template function 'environment'"):
        deployment.body(named(deployment, "a"), Cloud())


def test_clock_and_guid_are_the_deployments_own(judging: ModuleType, scope: Scope) -> None:
    template = judging.invalid_template(
        {
            "parameters": {
                "now": {"type": "string", "defaultValue": "[utcNow()]"},
                "day": {"type": "string", "defaultValue": "[utcNow('yyyy-MM-dd')]"},
                "id": {"type": "string", "defaultValue": "[newGuid()]"},
            },
            "resources": {},
        }
    )
    moments = [datetime(2026, 5, 4, 3, 2, second, tzinfo=UTC) for second in (1, 2)]
    echoes = [
        Deployment(load_template(template), {}, replace(scope, now=moment)).parameters_echo
        for moment in moments
    ]
    assert [echo["now"]["value"] for echo in echoes] == ["20260504T030201Z", "20260504T030202Z"]
    assert echoes[0]["day"]["value"] == "2026-05-04"
    assert echoes[0]["id"] != echoes[1]["id"]


AZ_BODY = """{"properties": {"parameters": {"p": {"value": 1}}, "mode": "Incremental", template:{
  // a comment, and a text over two lines
  "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
  "contentVersion": "1.0.0.0", /* another
  comment */
  "resources": [],
  "outputs": { "o": { "type": "string", "value": "[concat('a',
    'b')]" }, },
}
}}"""


def test_the_body_that_az_sends(scope: Scope) -> None:
    properties = load_deployment_body(AZ_BODY)["properties"]
    assert (properties["parameters"], properties["mode"]) == ({"p": {"value": 1}}, "Incremental")
    assert Deployment(properties["template"], {}, scope).plan_outputs() == {"o": "ab"}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "A value was expected. Path '', line 1, position 1."),
        ("[]", "A JSON object was expected. Path '', line 1, position 3."),
        ('{"a": 1', "',' or '}' was expected after a property. Path '', line 1, position 8."),
        ('{"a" 1}', "':' was expected after a property name. Path '', line 1, position 6."),
        ('{\n"a": nope}', "A value was expected. Path '', line 2, position 6."),
        ('{"a": "x}', "Unterminated string. Path '', line 1, position 7."),
        ("{} x", "Additional text found after the end of the document. Path '', line 1, position 4."),
    ],
)
def test_text_that_is_not_json(text: str, what: str) -> None:
    with pytest.raises(AzureError) as caught:
        load_template(text)
    assert caught.value.code == "InvalidRequestContent"
    assert caught.value.message == f"The request content was invalid and could not be deserialized: '{what}'."

"""The parameters file: rendered from every example and validated before it is sent, one test a mistake."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from infra.az.limits import template_problems
from infra.config.parameters import digest, render_parameters
from infra.config.settings import Setting, Settings, from_stage, merge, read_user_parameters
from infra.config.stage import load_stage
from infra.config.template import Template, effective_values, read_template
from infra.config.templates import FOLDER, validate
from infra.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[4]
FILE = "infra/provision/inference.parameters.json"
TEMPLATE = read_template(REPOSITORY / "infra/provision/inference.json")

# What the original's users have in their files, and what people set.
EXAMPLES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "original": {
        "defaultCommands": ["cd /mount", "pip install -r requirements.txt", "python3 ./gradio_chat.py"],
        "maximumInstanceCount": 2,
    },
    "named": {
        "location": "swedencentral",
        "storageAccountName": "mystorage01",
        "fileShareName": "my-share",
        "acaEnvironmentName": "my-env",
        "acaEnvironmentStorageName": "my-env-storage",
        "acaAppName": "my-app",
        "acaLogAnalyticsName": "my-logs",
    },
    "serverless": {
        "gpuProfileName": "serverless",
        "gpuProfileType": "Consumption-GPU-NC8as-T4",
        "containerCpu": "8",
        "containerMemory": "56Gi",
        "minReplicas": 0,
    },
    "cpu": {"workloadProfileName": "Consumption", "containerCpu": "0.5", "containerMemory": "1Gi"},
    "guarded": {"externalIngress": False, "allowedIpRanges": ["203.0.113.0/24"], "tags": {"team": "a"}},
    "quotes": {
        "environmentVariables": {"A": 'it\'s "quoted" & <tagged>'},
        "defaultCommands": ["echo \"$X\" '\\n'"],
    },
}


def settings(values: dict[str, Any]) -> Settings:
    return Settings(tuple(Setting(name, value, FILE) for name, value in values.items()))


def problems(values: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        render_parameters(settings(values), TEMPLATE)
    return caught.value.details


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_set_is_rendered_and_the_rest_is_null(example: str) -> None:
    document = json.loads(render_parameters(settings(EXAMPLES[example]), TEMPLATE))
    rendered = {name: entry["value"] for name, entry in document["parameters"].items()}
    assert rendered == dict.fromkeys(TEMPLATE.names) | EXAMPLES[example]
    assert document["contentVersion"] == "1.0.0.0"
    assert document["$schema"].endswith("/deploymentParameters.json#")


@pytest.mark.parametrize("stage", ["azure", "local"])
def test_the_committed_parameters_on_the_committed_stages(stage: str) -> None:
    layers = [read_user_parameters(REPOSITORY), from_stage(load_stage(REPOSITORY, stage))]
    text = render_parameters(merge(layers, TEMPLATE.names), TEMPLATE)
    assert validate("inference.parameters", json.loads(text)) == ()


def test_the_users_file_with_all_its_nulls_is_a_valid_document() -> None:
    assert validate("inference.parameters", json.loads((REPOSITORY / FILE).read_text())) == ()


def test_the_schema_speaks_of_exactly_the_templates_parameters() -> None:
    schema = json.loads((FOLDER / "inference.parameters.schema.json").read_text())
    assert list(schema["properties"]["parameters"]["properties"]) == list(TEMPLATE.names)


def test_every_rule_is_the_end_of_a_sentence() -> None:
    schema = json.loads((FOLDER / "inference.parameters.schema.json").read_text())
    for name, entry in schema["properties"]["parameters"]["properties"].items():
        assert entry["properties"]["value"]["description"].startswith("must "), name


ENDS = "begin with a letter and end with a letter or digit"
MISTAKES: dict[str, tuple[Any, str]] = {
    "defaultCommands": ("python3 x.py", "must be a list of shell commands, each a text"),
    "maximumInstanceCount": ("x", "must be a whole number from 1 to 100"),
    "location": ("Sweden_Central", "must be a region, such as swedencentral"),
    "storageAccountName": ("My_Store", "must have 3 to 24 lower-case letters and digits"),
    "fileShareName": (
        "a--b",
        (
            "must have 3 to 63 lower-case letters, digits and single hyphens, "
            "and begin and end with a letter or digit"
        ),
    ),
    "acaEnvironmentName": ("1env", f"must have at most 60 letters, digits and single hyphens, {ENDS}"),
    "acaEnvironmentStorageName": (
        "Env",
        f"must have at most 32 lower-case letters, digits and single hyphens, {ENDS}",
    ),
    "acaAppName": ("Web1", f"must have 2 to 32 lower-case letters, digits and single hyphens, {ENDS}"),
    "acaLogAnalyticsName": (
        "log",
        "must have 4 to 63 letters, digits and hyphens, and begin and end with a letter or digit",
    ),
    "shareQuotaGib": (0, "must be a whole number from 1 to 102400 (GiB)"),
    "mountPath": ("mount", "must be an absolute path without a colon, below /"),
    "containerCpu": (
        24,
        'must be a number of cores written as text with at most two decimals, such as "24" or "0.5"',
    ),
    "containerMemory": (
        "220G",
        'must be a number with at most two decimals followed by Gi, such as "220Gi"',
    ),
    "engine": ("tgi", "must be auto, transformers or vllm"),
    "scaleRules": ("http", "must be a list of scale rules"),
    "cooldownSeconds": (-1, "must be a whole number from 0 (seconds)"),
    "pollingSeconds": (0, "must be a whole number from 1 (seconds)"),
    "stickySessions": ("yes", "must be true or false"),
    "minReplicas": (-1, "must be a whole number from 0 to 1000"),
    "maxReplicas": (1001, "must be a whole number from 1 to 1000"),
    "terminationGracePeriodSeconds": (601, "must be a whole number from 0 to 600 (seconds)"),
    "chatSignIn": ("yes", "must be true or false"),
    "environmentVariables.X": (5, "must be text"),
    "infrastructureSubnetId": ("apps", "must be the resource id of a subnet"),
    "internalEnvironment": (1, "must be true or false"),
    "systemIdentity": ("on", "must be true or false"),
    "userAssignedIdentities.0": ("me", "must be the resource id of a user-assigned identity"),
    "registryServer": ("https://r.azurecr.io", "must be a host name, such as name.azurecr.io"),
    "registryIdentity": ("me", "must be 'system' or the resource id of a user-assigned identity"),
    "shareProtocol": ("nfs", "must be SMB or NFS"),
    "apiKeyVaultUrl": (
        "vault",
        "must be the address of a secret in a Key Vault, such as https://NAME.vault.azure.net/secrets/SECRET",
    ),
    "apiKeyVaultIdentity": ("me", "must be 'system' or the resource id of a user-assigned identity"),
    "allowedIpRanges.0": (
        "all",
        "must be an address range in CIDR notation, such as 203.0.113.0/24",
    ),
}


@pytest.mark.parametrize("place", MISTAKES)
def test_a_value_that_is_not_allowed(place: str) -> None:
    value, rule = MISTAKES[place]
    name, _, inner = place.partition(".")
    given: Any = value if not inner else [value] if inner.isdecimal() else {inner: value}
    assert problems({name: given}) == (f"{place}: {value!r} (from {FILE}) {rule}",)


LATE_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a pair that Consumption does not have": (
        {"workloadProfileName": "Consumption", "containerCpu": "0.25", "containerMemory": "4Gi"},
        (
            "containerCpu, containerMemory: 0.25 cores and 4Gi are not a pair that the profile Consumption "
            "has: 0.25 to 4 cores in steps of 0.25, with twice as many Gi"
        ),
    ),
    "more than the GPU profile gives": (
        {"gpuProfileType": "Consumption-GPU-NC8as-T4"},
        (
            "containerCpu, containerMemory: 24 cores and 220Gi are more than a replica gets on "
            "Consumption-GPU-NC8as-T4: 8 cores and 56Gi"
        ),
    ),
    "fewer at most than at least": (
        {"minReplicas": 3, "maxReplicas": 2},
        "minReplicas, maxReplicas: 3 is more than 2",
    ),
    "an internal environment in Azure's network": (
        {"internalEnvironment": True},
        "internalEnvironment, infrastructureSubnetId: internalEnvironment true needs a subnet of yours",
    ),
    "NFS in Azure's network": (
        {"shareProtocol": "NFS"},
        "shareProtocol, infrastructureSubnetId: shareProtocol NFS needs a subnet of yours",
    ),
    "keys in two places": (
        {"apiKey": "a", "apiKeyVaultUrl": "https://v.vault.azure.net/secrets/s"},
        "apiKey, apiKeyVaultUrl: the keys are in a Key Vault or in the app; keep one of them",
    ),
    "a range with host bits": (
        {"allowedIpRanges": ["203.0.113.7/24"]},
        "allowedIpRanges: 203.0.113.7/24 has host bits set",
    ),
}


@pytest.mark.parametrize("mistake", LATE_MISTAKES)
def test_what_azure_would_reject_only_later(mistake: str) -> None:
    values, words = LATE_MISTAKES[mistake]
    assert problems(values) == (words,)


def test_all_mistakes_are_reported_at_once() -> None:
    assert len(problems({"storageAccountName": "A", "minReplicas": -1, "image": "a b"})) == 3


def test_a_parameter_of_the_template_that_the_schema_lacks() -> None:
    template = Template({**TEMPLATE.defaults, "brandNew": None}, TEMPLATE.document)
    with pytest.raises(UsageError) as caught:
        render_parameters(Settings(), template)
    assert caught.value.details == (
        "brandNew: is a parameter of the template but not in templates/inference.parameters.schema.json",
    )


def test_a_parameter_of_the_schema_that_the_template_lacks() -> None:
    defaults = {name: value for name, value in TEMPLATE.defaults.items() if name != "mountPath"}
    with pytest.raises(UsageError) as caught:
        render_parameters(Settings(), Template(defaults, TEMPLATE.document))
    assert caught.value.details == (
        "mountPath: is in templates/inference.parameters.schema.json but not a parameter of the template",
    )


def test_effective_values_follow_a_default_that_is_another_parameter() -> None:
    assert effective_values({}, TEMPLATE)["workloadProfileName"] == "GPU"
    assert effective_values({"gpuProfileName": "mine"}, TEMPLATE)["workloadProfileName"] == "mine"
    assert effective_values({"workloadProfileName": "own"}, TEMPLATE)["workloadProfileName"] == "own"


def test_the_digest_tells_what_would_be_deployed_and_not_the_key() -> None:
    base = digest(settings({}), TEMPLATE, (b"bicep",))
    assert digest(settings({"apiKey": "k", "environmentExists": True}), TEMPLATE, (b"bicep",)) == base
    assert digest(settings({"minReplicas": 0}), TEMPLATE, (b"bicep",)) != base
    assert digest(settings({}), TEMPLATE, (b"another",)) != base


def test_the_committed_templates_probes_are_within_the_limits() -> None:
    assert template_problems(TEMPLATE.document) == []


PROBE_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "delay": ({"initialDelaySeconds": 61}, "probes.Startup.initialDelaySeconds: 61 must be from 0 to 60"),
    "period": ({"periodSeconds": 0}, "probes.Startup.periodSeconds: 0 must be from 1 to 240"),
    "timeout": ({"timeoutSeconds": 241}, "probes.Startup.timeoutSeconds: 241 must be from 1 to 240"),
    "failures": ({"failureThreshold": 241}, "probes.Startup.failureThreshold: 241 must be from 1 to 240"),
    "success": ({"successThreshold": 2}, "probes.Startup.successThreshold: 2 must be 1"),
    "both": ({"tcpSocket": {}}, "probes.Startup: must have either httpGet or tcpSocket"),
    "liveness": (
        {"type": "Liveness", "failureThreshold": 31},
        "probes.Liveness.failureThreshold: 31 must be from 1 to 30",
    ),
}


@pytest.mark.parametrize("mistake", PROBE_MISTAKES)
def test_a_probe_that_azure_would_reject(mistake: str) -> None:
    changes, words = PROBE_MISTAKES[mistake]
    probe = {"type": "Startup", "httpGet": {"path": "/", "port": 1}, **changes}
    assert template_problems({"resources": [{"containers": [{"probes": [probe]}]}]}) == [words]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (
            "Startup",
            {"initialDelaySeconds": 0, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1},
        ),
        (
            "Startup",
            {"initialDelaySeconds": 60, "periodSeconds": 240, "timeoutSeconds": 240, "failureThreshold": 240},
        ),
        ("Liveness", {"failureThreshold": 30, "successThreshold": 1}),
        ("Readiness", {"failureThreshold": 48, "successThreshold": 10}),
    ],
)
def test_a_probe_at_the_limits_is_accepted(kind: str, values: dict[str, int]) -> None:
    probe: dict[str, Any] = {"type": kind, "httpGet": {"path": "/", "port": 1}, **values}
    assert template_problems({"resources": [{"containers": [{"probes": [probe]}]}]}) == []


def test_two_probes_of_one_kind() -> None:
    probe: dict[str, Any] = {"type": "Startup", "httpGet": {"path": "/", "port": 1}}
    twice: dict[str, Any] = {"probes": [probe, copy.deepcopy(probe)]}
    assert template_problems(twice) == ["probes: there are several of type Startup"]

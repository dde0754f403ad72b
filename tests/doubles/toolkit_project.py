"""The AI Toolkit's two templates as equivalents, and the files that its fine-tuning step leaves in a project.

They mirror `finetuning.bicep` and `inference.bicep` in `configs/Phi-3-mini-4k-instruct/infra/provision/` of
microsoft/windows-ai-studio-templates: the same parameters, resource types, api-versions and shape, written
here anew. Not in the original: the parameter `mountPath`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    from infra.az.commands import Group
    from infra.az.names import Names

ADAPTER: Final = "models/qlora/qlora/gpu_model/adapter"
BASE: Final = "model-cache/org/base"
INFERENCE: Final[dict[str, Any]] = {
    "defaultCommands": [
        "cd /mount",
        "pip install torch==2.4.0 transformers==4.43.4 bitsandbytes==0.43.1 peft==0.10.0 gradio==4.43.0",
        "cd /mount/inference",
        "python3 ./gradio_chat.py",
    ],
    "maximumInstanceCount": 2,
    **dict.fromkeys(
        (
            "location",
            "storageAccountName",
            "fileShareName",
            "acaEnvironmentName",
            "acaEnvironmentStorageName",
            "acaAppName",
            "acaLogAnalyticsName",
        )
    ),
}
"""The values of the toolkit's published parameters file."""

FINE_TUNING: Final[dict[str, Any]] = {
    "defaultCommands": ["cd /mount", "pip install -r ./setup/requirements.txt"],
    "timeout": 10800,
    "acaJobName": None,
    **{name: value for name, value in INFERENCE.items() if name not in {"defaultCommands", "acaAppName"}},
}
"""The same for the fine-tuning step."""

_ACCOUNT: Final = "Microsoft.Storage/storageAccounts"
_SERVICE: Final = f"{_ACCOUNT}/fileServices"
_SHARE: Final = f"{_SERVICE}/shares"
_ENVIRONMENT: Final = "Microsoft.App/managedEnvironments"
_STORAGE: Final = f"{_ENVIRONMENT}/storages"
_WORKSPACE: Final = "Microsoft.OperationalInsights/workspaces"
_STORAGE_VERSION: Final = "2023-01-01"
_APP_VERSION: Final = "2023-11-02-preview"
_WORKSPACE_VERSION: Final = "2022-10-01"
_PREFIXES: Final = {
    "storageAccountName": "aistorage",
    "fileShareName": "aifileshare",
    "acaEnvironmentName": "aienv",
    "acaEnvironmentStorageName": "aienvstorage",
    "acaLogAnalyticsName": "ailog",
}
_OUTPUTS: Final = {
    "SUBSCRIPTION_ID": "subscription().subscriptionId",
    "RESOURCE_GROUP_NAME": "resourceGroup().name",
    "STORAGE_ACCOUNT_NAME": "parameters('storageAccountName')",
    "FILE_SHARE_NAME": "parameters('fileShareName')",
}


def fine_tuning_template() -> dict[str, Any]:
    """Return a template with the parameters and the resources of `finetuning.bicep`: with a job."""
    job: dict[str, Any] = {
        "configuration": {
            "triggerType": "Manual",
            "replicaTimeout": "[parameters('timeout')]",
            "replicaRetryLimit": 0,
            "manualTriggerConfig": {"parallelism": 1, "replicaCompletionCount": 1},
            **dict.fromkeys(("secrets", "registries", "scheduleTriggerConfig", "eventTriggerConfig")),
        },
        "template": _template("acaJobName"),
    }
    names = {**_PREFIXES, "acaJobName": "aiacajob"}
    outputs = {"ACA_JOB_NAME": "parameters('acaJobName')"}
    return _document(names, "Microsoft.App/jobs", "acaJobName", job, outputs)


def inference_template() -> dict[str, Any]:
    """Return a template with the parameters and the resources of `inference.bicep`: with an app."""
    probe = {"httpGet": {"path": "/", "port": 7860, "scheme": "HTTP"}, "initialDelaySeconds": 60}
    probes = [{"type": kind, **probe} for kind in ("Liveness", "Readiness", "Startup")]
    ingress = {
        "external": True,
        "targetPort": 7860,
        "exposedPort": 0,
        "allowInsecure": False,
        "transport": "Auto",
        "traffic": [{"latestRevision": True, "weight": 100}],
    }
    app = {
        "configuration": {
            "activeRevisionsMode": "Single",
            "ingress": ingress,
            "maxInactiveRevisions": 100,
            **dict.fromkeys(("secrets", "registries", "dapr", "service")),
        },
        "template": {
            **_template("acaAppName", probes=probes),
            "revisionSuffix": "",
            "scale": {"minReplicas": 1, "maxReplicas": 1, "rules": None},
            **dict.fromkeys(("terminationGracePeriodSeconds", "serviceBinds")),
        },
    }
    names = {**_PREFIXES, "acaAppName": "aiacaapp"}
    outputs = {"ACA_APP_NAME": "parameters('acaAppName')"}
    return _document(names, "Microsoft.App/containerApps", "acaAppName", app, outputs)


def _document(
    names: dict[str, str], kind: str, name: str, hosted: dict[str, Any], outputs: dict[str, str]
) -> dict[str, Any]:
    """Return a template: the resources that both have, and the app or the job that runs on them."""
    resources = [*_shared_resources(), {
        "type": kind,
        "apiVersion": _APP_VERSION,
        "name": f"[parameters('{name}')]",
        "location": "[parameters('location')]",
        "identity": {"type": "None"},
        "properties": {
            "environmentId": f"[{_id(_ENVIRONMENT, 'acaEnvironmentName')}]",
            "workloadProfileName": "GPU",
            **hosted,
        },
        "dependsOn": [f"[{_id(_STORAGE, 'acaEnvironmentName', 'acaEnvironmentStorageName')}]"],
    }]  # fmt: skip
    suffix = "[substring(uniqueString(resourceGroup().id), 0, 5)]"
    parameters: dict[str, Any] = {
        "defaultCommands": {"type": "array"},
        "maximumInstanceCount": {"type": "int"},
        # Only here: a test may not write to the root of the file system.
        "mountPath": {"type": "string", "defaultValue": "/mount"},
        "location": {"type": "string", "defaultValue": "[resourceGroup().location]"},
        "resourceSuffix": {"type": "string", "defaultValue": suffix},
    }
    if kind == "Microsoft.App/jobs":
        parameters["timeout"] = {"type": "int"}
    for each, prefix in names.items():
        default = f"[format('{prefix}{{0}}', parameters('resourceSuffix'))]"
        parameters[each] = {"type": "string", "defaultValue": default}
    return {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "parameters": parameters,
        "resources": resources,
        "outputs": {
            output: {"type": "string", "value": f"[{value}]"}
            for output, value in (_OUTPUTS | outputs).items()
        },
    }


def _shared_resources() -> list[dict[str, Any]]:
    location = "[parameters('location')]"
    account, service = _id(_ACCOUNT, "storageAccountName"), "'default'"
    workspace, environment = _id(_WORKSPACE, "acaLogAnalyticsName"), _id(_ENVIRONMENT, "acaEnvironmentName")
    logs = {
        "customerId": f"[reference({workspace}, '{_WORKSPACE_VERSION}').customerId]",
        "sharedKey": f"[listKeys({workspace}, '{_WORKSPACE_VERSION}').primarySharedKey]",
    }
    unset = (
        "daprAIInstrumentationKey",
        "daprAIConnectionString",
        "vnetConfiguration",
        "openTelemetryConfiguration",
        "appInsightsConfiguration",
        "infrastructureResourceGroup",
    )
    domain = ("dnsSuffix", "certificateKeyVaultProperties", "certificateValue", "certificatePassword")
    profiles = [
        {"name": "Consumption", "workloadProfileType": "Consumption"},
        {
            "name": "GPU",
            "workloadProfileType": "NC24-A100",
            "minimumCount": 0,
            "maximumCount": "[parameters('maximumInstanceCount')]",
        },
    ]
    share = (
        f"resourceId('{_SHARE}', parameters('storageAccountName'), {service}, parameters('fileShareName'))"
    )
    return [
        {
            "type": _ACCOUNT,
            "apiVersion": _STORAGE_VERSION,
            "name": "[parameters('storageAccountName')]",
            "location": location,
            "sku": {"name": "Standard_LRS"},
            "kind": "StorageV2",
            "properties": {"largeFileSharesState": "Enabled"},
        },
        {
            "type": _SERVICE,
            "apiVersion": _STORAGE_VERSION,
            "name": "[format('{0}/default', parameters('storageAccountName'))]",
            "properties": {
                "protocolSettings": {"smb": {}},
                "cors": {"corsRules": []},
                "shareDeleteRetentionPolicy": {"enabled": True, "days": 7},
            },
            "dependsOn": [f"[{account}]"],
        },
        {
            "type": _SHARE,
            "apiVersion": _STORAGE_VERSION,
            "name": _name("{0}/default/{1}", "storageAccountName", "fileShareName"),
            "properties": {"shareQuota": 1024},
            "dependsOn": [f"[resourceId('{_SERVICE}', parameters('storageAccountName'), {service})]"],
        },
        {
            "type": _WORKSPACE,
            "apiVersion": _WORKSPACE_VERSION,
            "name": "[parameters('acaLogAnalyticsName')]",
            "location": location,
            "properties": {"sku": {"name": "PerGB2018"}},
        },
        {
            "type": _ENVIRONMENT,
            "apiVersion": _APP_VERSION,
            "name": "[parameters('acaEnvironmentName')]",
            "location": location,
            "properties": {
                **dict.fromkeys(unset),
                "zoneRedundant": False,
                "customDomainConfiguration": dict.fromkeys(domain),
                "peerAuthentication": {"mtls": {"enabled": False}},
                "appLogsConfiguration": {"destination": "log-analytics", "logAnalyticsConfiguration": logs},
                "workloadProfiles": profiles,
            },
            "dependsOn": [f"[{workspace}]"],
        },
        {
            "type": _STORAGE,
            "apiVersion": _APP_VERSION,
            "name": _name("{0}/{1}", "acaEnvironmentName", "acaEnvironmentStorageName"),
            "properties": {
                "azureFile": {
                    "accessMode": "ReadWrite",
                    "accountKey": f"[listKeys({account}, '{_STORAGE_VERSION}').keys[0].value]",
                    "accountName": "[parameters('storageAccountName')]",
                    "shareName": "[parameters('fileShareName')]",
                }
            },
            "dependsOn": [f"[{environment}]", f"[{share}]"],
        },
    ]


def _template(name: str, **container: Any) -> dict[str, Any]:
    """Return the template of an app or a job: one container that runs the commands on the mounted share."""
    volume = "[format('{0}volume', parameters('fileShareName'))]"
    return {
        "containers": [
            {
                "name": f"[parameters('{name}')]",
                "image": "docker.io/pytorch/pytorch:2.3.0-cuda11.8-cudnn8-runtime",
                "command": ["/bin/bash", "-c", "[join(parameters('defaultCommands'), '; ')]"],
                "resources": {"cpu": 24, "memory": "220Gi"},
                "volumeMounts": [{"volumeName": volume, "mountPath": "[parameters('mountPath')]"}],
                **container,
            }
        ],
        "initContainers": None,
        "volumes": [
            {
                "name": volume,
                "storageType": "AzureFile",
                "storageName": "[parameters('acaEnvironmentStorageName')]",
            }
        ],
    }


def _name(form: str, *parameters: str) -> str:
    names = ", ".join(f"parameters('{name}')" for name in parameters)
    return f"[format('{form}', {names})]"


def _id(kind: str, *parameters: str) -> str:
    names = ", ".join(f"parameters('{name}')" for name in parameters)
    return f"resourceId('{kind}', {names})"


def parameters_file(values: dict[str, Any]) -> str:
    """Return the text of a parameters file; null is a template's default, as in the toolkit's files."""
    return json.dumps({"parameters": {name: {"value": value} for name, value in values.items()}})


def write_files(root: Path, group: Group, names: Names) -> None:
    """Write the files that the toolkit leaves in a project."""
    (root / "infra/inference.parameters.json").write_text(parameters_file(INFERENCE))
    config = {
        "SUBSCRIPTION_ID": group.subscription,
        "RESOURCE_GROUP_NAME": group.name,
        "STORAGE_ACCOUNT_NAME": names.storage_account,
        "FILE_SHARE_NAME": names.file_share,
        "ACA_JOB_NAME": names.app.replace("aiacaapp", "aiacajob"),
        "COMMANDS": ["cd /mount", "pip install -r ./setup/requirements.txt"],
    }
    (root / "infra/finetuning.config.json").write_text(json.dumps(config))

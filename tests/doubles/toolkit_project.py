"""What the AI Toolkit's fine-tuning step leaves: its resources without the job, its files and its adapter.

The template has the resources that the toolkit's documentation describes, under the names that both of its
templates compute. The job is not in it: the local cloud has no `Microsoft.App/jobs`.
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

_ACCOUNT: Final = "Microsoft.Storage/storageAccounts"
_SHARE: Final = f"{_ACCOUNT}/fileServices/shares"
_ENVIRONMENT: Final = "Microsoft.App/managedEnvironments"
_WORKSPACE: Final = "Microsoft.OperationalInsights/workspaces"


def template(names: Names) -> dict[str, Any]:
    """Return a template with what the fine-tuning step creates."""
    location = "[resourceGroup().location]"
    account, workspace = names.storage_account, names.workspace
    account_id = f"resourceId('{_ACCOUNT}', '{account}')"
    workspace_id = f"resourceId('{_WORKSPACE}', '{workspace}')"
    share = f"{account}/default/{names.file_share}"
    logs = {
        "destination": "log-analytics",
        "logAnalyticsConfiguration": {
            "customerId": f"[reference({workspace_id}, '2025-07-01').customerId]",
            "sharedKey": f"[listKeys({workspace_id}, '2025-07-01').primarySharedKey]",
        },
    }
    profiles = [
        {"name": "Consumption", "workloadProfileType": "Consumption"},
        {"name": "GPU", "workloadProfileType": "NC24-A100", "minimumCount": 0, "maximumCount": 2},
    ]
    key = f"[listKeys({account_id}, '2025-08-01').keys[0].value]"
    mount = {
        "accessMode": "ReadWrite",
        "accountKey": key,
        "accountName": account,
        "shareName": names.file_share,
    }
    resources = [
        {
            "type": _ACCOUNT,
            "apiVersion": "2025-08-01",
            "name": account,
            "location": location,
            "sku": {"name": "Standard_LRS"},
            "kind": "StorageV2",
            "properties": {"largeFileSharesState": "Enabled"},
        },
        {
            "type": _SHARE,
            "apiVersion": "2025-08-01",
            "name": share,
            "properties": {"shareQuota": 1024},
            "dependsOn": [f"[{account_id}]"],
        },
        {
            "type": _WORKSPACE,
            "apiVersion": "2025-07-01",
            "name": workspace,
            "location": location,
            "properties": {"sku": {"name": "PerGB2018"}},
        },
        {
            "type": _ENVIRONMENT,
            "apiVersion": "2026-01-01",
            "name": names.environment,
            "location": location,
            "properties": {"appLogsConfiguration": logs, "workloadProfiles": profiles},
            "dependsOn": [f"[{workspace_id}]"],
        },
        {
            "type": f"{_ENVIRONMENT}/storages",
            "apiVersion": "2026-01-01",
            "name": f"{names.environment}/{names.environment_storage}",
            "properties": {"azureFile": mount},
            "dependsOn": [
                f"[resourceId('{_ENVIRONMENT}', '{names.environment}')]",
                f"[resourceId('{_SHARE}', '{account}', 'default', '{names.file_share}')]",
            ],
        },
    ]
    schema = "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#"
    return {"$schema": schema, "contentVersion": "1.0.0.0", "resources": resources}


def write_files(root: Path, group: Group, names: Names) -> None:
    """Write the files that the toolkit leaves in a project."""
    parameters = {"parameters": {name: {"value": value} for name, value in INFERENCE.items()}}
    (root / "infra/inference.parameters.json").write_text(json.dumps(parameters))
    config = {
        "SUBSCRIPTION_ID": group.subscription,
        "RESOURCE_GROUP_NAME": group.name,
        "STORAGE_ACCOUNT_NAME": names.storage_account,
        "FILE_SHARE_NAME": names.file_share,
        "ACA_JOB_NAME": "aiacajob",
        "COMMANDS": ["cd /mount", "pip install -r ./setup/requirements.txt"],
    }
    (root / "infra/finetuning.config.json").write_text(json.dumps(config))

"""What az answers to the online checks when nothing is in the way of a provision."""

from __future__ import annotations

from typing import Any, Final

from tests.doubles.azure_stage import SUBSCRIPTION

REGISTERED: Final[list[Any]] = [
    {"namespace": name, "state": "Registered"}
    for name in ("Microsoft.App", "microsoft.operationalinsights", "Microsoft.Storage", "Microsoft.Other")
]
ACCEPTING: Final[dict[str, Any]] = {
    "account show": {
        "user": {"name": "ann@contoso.com"},
        "tenantId": "t",
        "name": "Mine",
        "id": SUBSCRIPTION,
        "state": "Enabled",
    },
    "group show": {"location": "swedencentral"},
    "provider list": REGISTERED,
    "provider register": None,
    "rest --method get": {"value": [{"actions": ["*"], "notActions": []}]},
    "rest --method post": {"contentEvaluationResult": {"policyEvaluations": []}},
    "containerapp env workload-profile list-supported": [
        {"name": "D4"},
        {"name": "NC24-A100"},
        {"name": "Consumption-GPU-NC8as-T4"},
        {"name": "Consumption-GPU-NC24-A100"},
    ],
    "containerapp list-usages": [
        {"name": {"value": "ManagedEnvironmentCount"}, "currentValue": 1, "limit": 15},
        {"name": {"value": "SubscriptionNCA100Gpus"}, "currentValue": 0, "limit": 1},
    ],
    "containerapp env list-usages": [],
    "storage account check-name": {"nameAvailable": True},
}
"""Answers for `ScriptedAz`, by the words that a command begins with."""

"""Ask Azure Policy beforehand whether it lets the storage account be created, and read its answer. Pure.

An environment mounts a share by the account's key, so an account without shared keys is of no use. A policy
that comes from a management group is not evaluated by this request: if nothing is found, a policy may still
deny the account.

Source: Microsoft.PolicyInsights, "Policy Restrictions - Check At Resource Group Scope", api-version
2024-10-01; Azure/azure-dev, "Local Preflight Validation", for what it does not evaluate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import STORAGE_API_VERSION
from infra.document import Json, as_object, as_objects, object_at

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPE: Final = "Microsoft.Storage/storageAccounts"
_SHARED_KEYS: Final = "allowSharedKeyAccess"
_DENY: Final = "Deny"
_CHANGING: Final = frozenset({"Modify", "Append"})


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A policy that would deny the account, or change it so that it cannot be mounted.

    Attributes:
        effect: The effect of the policy, such as `Deny`.
        assignment: The id of its assignment, which says where it applies.
    """

    effect: str
    assignment: str


def account_request(name: str, location: str, *, is_nfs: bool = False) -> str:
    """Return the body of the request about a storage account as the template creates it.

    Args:
        name: The account's name.
        location: Its region.
        is_nfs: Whether its share is mounted over NFS, which needs no shared key.
    """
    content = {
        "type": _TYPE,
        "name": name,
        "location": location,
        "sku": {"name": "Premium_LRS" if is_nfs else "Standard_LRS"},
        "kind": "FileStorage" if is_nfs else "StorageV2",
        "properties": {
            "allowBlobPublicAccess": False,
            _SHARED_KEYS: not is_nfs,
            "minimumTlsVersion": "TLS1_2",
            "supportsHttpsTrafficOnly": not is_nfs,
        },
    }
    return json.dumps({"resourceDetails": {"resourceContent": content, "apiVersion": STORAGE_API_VERSION}})


def find_obstacles(answer: Json) -> tuple[Obstacle, ...]:
    """Return the policies in an answer that stand in the way."""
    return tuple(_obstacles(answer))


def _obstacles(answer: Json) -> Iterator[Obstacle]:
    evaluations = object_at(answer, "contentEvaluationResult").get("policyEvaluations")
    for evaluation in as_objects(evaluations):
        if evaluation.get("evaluationResult") != "NonCompliant":
            continue
        effect = str(as_object(evaluation.get("effectDetails")).get("policyEffect")).capitalize()
        # A policy that changes something else, such as a tag, does no harm.
        changes_keys = effect in _CHANGING and _SHARED_KEYS in json.dumps(evaluation.get("evaluationDetails"))
        if effect == _DENY or changes_keys:
            yield Obstacle(effect, str(as_object(evaluation.get("policyInfo")).get("policyAssignmentId")))

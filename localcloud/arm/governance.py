"""What others have set for the subscription: quotas, policies, rights, taken names, registered providers.

`subscription.json` in the state directory has the first four. It is read at every use, so that a test, or
somebody who rehearses a rejection, can change it while the local cloud runs. Everything in it is optional:

```json
{
  "quotas": {"SubscriptionNCA100Gpus": 1},
  "policies": [{
    "name": "no-shared-keys", "type": "Microsoft.Storage/storageAccounts",
    "property": "properties.allowSharedKeyAccess", "allowed": [false]
  }],
  "takenAccountNames": ["contoso"],
  "deniedActions": ["Microsoft.Storage/storageAccounts/write"]
}
```

A quota is the limit of the usage with that name (`az containerapp list-usages`, `env list-usages`). A policy
denies a resource of its type whose property has none of the allowed values; a property that is missing is
null. The caller has no right to the denied actions, which may have wildcards. Providers are unregistered with
`az provider unregister`.

Not emulated: policy definitions and assignments as resources, effects other than deny, exemptions. A
deployment does not register providers, as if the caller had no right to.

Source: "Resource provider registration errors" and "RequestDisallowedByPolicy error", Microsoft Learn; bodies
as quoted in public issues (msrestazure-for-python#53, clong/DetectionLab#774).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import jsonschema

from localcloud.errors import AzureError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from localcloud.arm.identity import Identity
    from localcloud.arm.store import Store

_PROVIDER: Final = "provider"
_NOT_REGISTERED: Final = "NotRegistered"
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "quotas": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
        "takenAccountNames": {"type": "array", "items": {"type": "string"}},
        "deniedActions": {"type": "array", "items": {"type": "string"}},
        "policies": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "type", "property", "allowed"],
                "properties": {
                    "name": {"type": "string"},
                    "type": {"type": "string"},
                    "property": {"type": "string"},
                    "allowed": {"type": "array"},
                },
            },
        },
    },
}


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that denies resources of a type whose property has none of the allowed values."""

    name: str
    type: str
    property: str
    allowed: tuple[Any, ...]

    def denies(self, full_type: str, body: Mapping[str, Any]) -> bool:
        """Return whether a resource of some type with this body is denied."""
        if full_type.lower() != self.type.lower():
            return False
        value: Any = body
        for name in self.property.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        return value not in self.allowed


class Governance:
    """The quotas, policies, rights, taken names and registrations of the subscription.

    Args:
        path: The file with them, which need not exist.
        store: Where the registrations are stored.
        identity: The subscription, and the principal whose rights are limited.
    """

    def __init__(self, path: Path, store: Store, identity: Identity) -> None:
        self._path = path
        self._store = store
        self._identity = identity

    def limit(self, usage: str, default: int) -> int:
        """Return the limit of a usage."""
        return int(self._document().get("quotas", {}).get(usage, default))

    def is_account_name_taken(self, name: str) -> bool:
        """Return whether somebody else has a storage account of that name."""
        return name in self._document().get("takenAccountNames", ())

    def registration_state(self, namespace: str) -> str:
        """Return `Registered` or `NotRegistered`."""
        stored = self._store.get(_PROVIDER, namespace)
        return "Registered" if stored is None else str(stored["state"])

    def set_registered(self, namespace: str, *, is_registered: bool) -> None:
        """Register a provider, or unregister it."""
        state = "Registered" if is_registered else _NOT_REGISTERED
        self._store.put(_PROVIDER, namespace, {"state": state})

    def check_registered(self, namespace: str) -> None:
        """Reject (409 `MissingSubscriptionRegistration`) a change of a provider that is not registered."""
        if self.registration_state(namespace) != _NOT_REGISTERED:
            return
        message = (
            f"The subscription is not registered to use namespace '{namespace}'. See "
            "https://aka.ms/rps-not-found for how to register subscriptions."
        )
        code = "MissingSubscriptionRegistration"
        raise AzureError(409, code, message, (AzureError(409, code, message, target=namespace),))

    def denied_actions(self) -> tuple[str, ...]:
        """Return the patterns of the actions that the caller has no right to."""
        return tuple(self._document().get("deniedActions", ()))

    def check_allowed(self, action: str, scope: str) -> None:
        """Reject (403 `AuthorizationFailed`) an action that the caller has no right to."""
        if not any(fnmatchcase(action.lower(), pattern.lower()) for pattern in self.denied_actions()):
            return
        who = self._identity.client_id
        message = (
            f"The client '{who}' with object id '{who}' does not have authorization to perform action "
            f"'{action}' over scope '{scope}' or the scope is invalid. If access was recently granted, "
            "please refresh your credentials."
        )
        raise AzureError(403, "AuthorizationFailed", message)

    def policy_assignments(self) -> list[dict[str, Any]]:
        """Return the policies as assignments to the subscription."""
        return [
            {
                "id": self._policy_id("policyAssignments", policy.name),
                "name": policy.name,
                "type": "Microsoft.Authorization/policyAssignments",
                "properties": {
                    "displayName": policy.name,
                    "policyDefinitionId": self._policy_id("policyDefinitions", policy.name),
                    "scope": f"/subscriptions/{self._identity.subscription_id}",
                    "enforcementMode": "Default",
                },
            }
            for policy in self._policies()
        ]

    def policy_evaluations(self, full_type: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the policies that would deny a resource, as a check of restrictions lists them."""
        return [
            {
                "policyInfo": {
                    "policyDefinitionId": self._policy_id("policyDefinitions", policy.name),
                    "policyAssignmentId": self._policy_id("policyAssignments", policy.name),
                },
                "evaluationResult": "NonCompliant",
                "evaluationDetails": {"evaluatedExpressions": [{"path": policy.property, "result": "True"}]},
                "effectDetails": {"policyEffect": "Deny"},
            }
            for policy in self._policies()
            if policy.denies(full_type, body)
        ]

    def check_policies(self, full_type: str, name: str, body: Mapping[str, Any]) -> None:
        """Reject (403 `RequestDisallowedByPolicy`) a resource that a policy denies."""
        for policy in self._policies():
            if policy.denies(full_type, body):
                raise self._disallowed(policy, name)

    def _disallowed(self, policy: Policy, name: str) -> AzureError:
        assignment = {"name": policy.name, "id": self._policy_id("policyAssignments", policy.name)}
        definition = {"name": policy.name, "id": self._policy_id("policyDefinitions", policy.name)}
        identifiers = json.dumps([{"policyAssignment": assignment, "policyDefinition": definition}])
        info = {
            "policyDefinitionDisplayName": policy.name,
            "policyDefinitionEffect": "deny",
            "policyDefinitionId": definition["id"],
            "policyDefinitionName": policy.name,
            "policyAssignmentId": assignment["id"],
            "policyAssignmentName": policy.name,
        }
        message = f"Resource '{name}' was disallowed by policy. Policy identifiers: '{identifiers}'."
        violation = {"type": "PolicyViolation", "info": info}
        code = "RequestDisallowedByPolicy"
        return AzureError(403, code, message, target=name, additional_info=(violation,))

    def _policies(self) -> list[Policy]:
        documents = self._document().get("policies", ())
        return [Policy(**{**document, "allowed": tuple(document["allowed"])}) for document in documents]

    def _policy_id(self, kind: str, name: str) -> str:
        root = f"/subscriptions/{self._identity.subscription_id}/providers/Microsoft.Authorization"
        return f"{root}/{kind}/{name}"

    def _document(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads(self._path.read_text("utf-8"))
            jsonschema.validate(document, _SCHEMA)
        except FileNotFoundError:
            return {}
        except (ValueError, jsonschema.ValidationError) as error:
            reason = str(error).partition("\n")[0]
            raise AzureError(500, "InvalidSubscriptionFile", f"{self._path}: {reason}") from error
        return document

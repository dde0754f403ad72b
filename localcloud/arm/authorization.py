"""Emulate Microsoft.Authorization for reading: the caller's permissions, policy assignments and locks.

A resource can also be checked against the policies before it exists (Microsoft.PolicyInsights).

The principal may do everything, except the actions that `subscription.json` denies (`arm.governance`). There
are no locks.

Not emulated: role assignments and definitions, changes of policies and locks, and the restrictions of single
fields in the check of a resource.

Source: Microsoft.Authorization REST API 2022-04-01 (permissions), 2024-05-01 (policy assignments); "Azure
resource provider operations"; Microsoft.PolicyInsights REST API 2024-10-01, "Check At Resource Group Scope".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from localcloud.arm.requests import ArmRequest, ArmResponse
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from localcloud.arm.governance import Governance
    from localcloud.arm.resource_ids import Scope
    from localcloud.arm.router import Router

_NAMESPACE: Final = "Microsoft.Authorization"
_CHECK: Final = "Microsoft.PolicyInsights/checkPolicyRestrictions"
_VERBS: Final = {"PUT": "write", "PATCH": "write", "DELETE": "delete", "GET": "read", "HEAD": "read"}
_GROUPS: Final = "Microsoft.Resources/subscriptions/resourceGroups"


class Authorization:
    """The operations of Microsoft.Authorization, for the subscription and for resource groups."""

    def __init__(self, governance: Governance) -> None:
        self._governance = governance

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        scopes: tuple[Scope, ...] = ("subscription", "group")
        for scope in scopes:
            for noun, handler in (
                ("permissions", self.permissions),
                ("policyAssignments", self.policy_assignments),
                ("locks", self.locks),
            ):
                router.add("GET", scope, f"{_NAMESPACE}/{noun}", handler, ())
            router.add("POST", scope, _CHECK, self.check_restrictions, ())

    async def permissions(self, request: ArmRequest) -> ArmResponse:
        """Return what the caller may do in a scope."""
        del request
        denied = list(self._governance.denied_actions())
        permission = {"actions": ["*"], "notActions": denied, "dataActions": [], "notDataActions": []}
        return ArmResponse(200, {"value": [permission]})

    async def policy_assignments(self, request: ArmRequest) -> ArmResponse:
        """Handle `policy assignment list`."""
        del request
        return ArmResponse(200, {"value": self._governance.policy_assignments()})

    async def check_restrictions(self, request: ArmRequest) -> ArmResponse:
        """Return which policies would deny a resource that need not exist."""
        details = request.json().get("resourceDetails")
        content = details.get("resourceContent") if isinstance(details, dict) else None
        if not isinstance(content, dict) or not isinstance(content.get("type"), str):
            message = "The request must have a resourceDetails.resourceContent with the type of a resource."
            raise AzureError(400, "InvalidCheckRestrictionsRequest", message)
        evaluations = self._governance.policy_evaluations(content["type"], content)
        body = {"fieldRestrictions": [], "contentEvaluationResult": {"policyEvaluations": evaluations}}
        return ArmResponse(200, body)

    async def locks(self, request: ArmRequest) -> ArmResponse:
        """Handle `lock list`."""
        del request
        return ArmResponse(200, {"value": []})


def action_of(request: ArmRequest) -> str | None:
    """Return the action that a request needs the right to, such as `Microsoft.App/jobs/write`.

    Requests to the tenant, such as to list subscriptions, need none.
    """
    path = request.path
    if path.scope == "tenant" or not path.types:
        return None
    if not path.namespace:
        is_group = path.types[0].lower() == "resourcegroups"
        return f"{_GROUPS}/{_VERBS[request.method]}" if is_group and request.method in _VERBS else None
    if request.method == "POST":
        return f"{path.full_type}/action"
    return f"{path.full_type}/{_VERBS.get(request.method, 'read')}"

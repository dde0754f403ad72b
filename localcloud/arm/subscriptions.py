"""Emulate Resource Manager itself: tenants, the subscription, its regions, providers and resource groups.

Not emulated: management groups, more than one subscription or tenant, tags as resources, exporting a group
as a template, moving resources, features.

Source: Azure Resource Manager REST API 2022-12-01 (subscriptions) and 2024-11-01 (groups, resources,
providers).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from localcloud.arm.operations import RETRY_AFTER, Operations, result_response
from localcloud.arm.regions import DISPLAY_NAMES, checked_region
from localcloud.arm.requests import ArmRequest, ArmResponse, Json
from localcloud.arm.resource_ids import group_id
from localcloud.arm.resources import GROUP, Resources, check_not_deleting
from localcloud.arm.tags import tag_errors
from localcloud.errors import AzureError, bad_request, not_emulated, raise_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.arm.governance import Governance
    from localcloud.arm.identity import Identity
    from localcloud.arm.resource_kinds import ResourceKind
    from localcloud.arm.router import Router
    from localcloud.arm.store import Store

SUBSCRIPTION_VERSIONS: Final = (
    "2022-12-01",
    "2022-09-01",
    "2021-01-01",
    "2020-01-01",
    "2019-11-01",
    "2016-06-01",
)
VERSIONS: Final = (
    "2025-04-01",
    "2025-03-01",
    "2024-11-01",
    "2024-07-01",
    "2024-03-01",
    "2022-09-01",
    "2021-04-01",
)
_GROUP_TYPE: Final = "Microsoft.Resources/resourceGroups"
_GROUP_NAME: Final = re.compile(r"[-\w._()]{0,89}[-\w_()]")
_FILTER: Final = re.compile(r"resourceGroup eq '([^']+)'", re.IGNORECASE)


class Subscriptions:
    """The operations on tenants, the subscription and its resource groups.

    Args:
        identity: The tenant and the subscription.
        store: Where resource groups are stored.
        resources: The resources in them.
        operations: The background operations.
        delete_deployments: Deletes the deployments of the resource group with an id.
        governance: Which resource providers are registered.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts of the local cloud that it shows
        self,
        identity: Identity,
        store: Store,
        resources: Resources,
        operations: Operations,
        delete_deployments: Callable[[str], None],
        governance: Governance,
    ) -> None:
        self._identity = identity
        self._store = store
        self._resources = resources
        self._operations = operations
        self._delete_deployments = delete_deployments
        self._governance = governance

    def routes(self, router: Router) -> None:
        """Add the operations to the routing table."""
        router.add("GET", "tenant", "/tenants", self.list_tenants, SUBSCRIPTION_VERSIONS)
        router.add("GET", "tenant", "/subscriptions", self.list_subscriptions, SUBSCRIPTION_VERSIONS)
        router.add("GET", "tenant", "/subscriptions/{}", self.show_subscription, SUBSCRIPTION_VERSIONS)
        router.add("GET", "subscription", "/locations", self.list_locations, SUBSCRIPTION_VERSIONS)
        router.add("GET", "subscription", "/providers", self.list_providers, VERSIONS)
        router.add("GET", "subscription", "/providers/{}", self.show_provider, VERSIONS)
        for namespace in self._namespaces():
            for verb, handler in (("register", self.register), ("unregister", self.unregister)):
                router.add("POST", "subscription", f"{namespace}/{verb}", handler, VERSIONS)
        router.add("GET", "subscription", "/resources", self.list_resources, VERSIONS)
        router.add("GET", "group", "Microsoft.Resources/resources", self.list_resources, VERSIONS)
        router.add("GET", "subscription", "/resourcegroups", self.list_groups, VERSIONS)
        router.add("GET", "subscription", "/operationresults/{}", self.show_result, ())
        group = "/resourcegroups/{}"
        router.add("PUT", "subscription", group, self.put_group, VERSIONS)
        router.add("PATCH", "subscription", group, self.patch_group, VERSIONS)
        router.add("GET", "subscription", group, self.show_group, VERSIONS)
        router.add("HEAD", "subscription", group, self.has_group, VERSIONS)
        router.add("DELETE", "subscription", group, self.delete_group, VERSIONS)

    async def list_tenants(self, request: ArmRequest) -> ArmResponse:
        """Handle `account tenant list`: the local cloud has one tenant."""
        del request
        tenant = self._identity.tenant_id
        shown = {"id": f"/tenants/{tenant}", "tenantId": tenant, "displayName": "Local cloud"}
        return ArmResponse(200, {"value": [shown | {"tenantCategory": "Home"}]})

    async def list_subscriptions(self, request: ArmRequest) -> ArmResponse:
        """Handle `account list`: the local cloud has one subscription."""
        del request
        return ArmResponse(200, {"value": [self._subscription()]})

    async def show_subscription(self, request: ArmRequest) -> ArmResponse:
        """Handle `account subscription show`."""
        del request
        return ArmResponse(200, self._subscription())

    async def list_locations(self, request: ArmRequest) -> ArmResponse:
        """Handle `account list-locations`."""
        del request
        root = f"/subscriptions/{self._identity.subscription_id}/locations"
        value = [
            {
                "id": f"{root}/{name}",
                "name": name,
                "type": "Region",
                "displayName": display,
                "regionalDisplayName": display,
                "metadata": {"regionType": "Physical", "regionCategory": "Recommended"},
            }
            for name, display in DISPLAY_NAMES.items()
        ]
        return ArmResponse(200, {"value": value})

    async def list_providers(self, request: ArmRequest) -> ArmResponse:
        """Handle `provider list`."""
        del request
        return ArmResponse(200, {"value": [self._provider(namespace) for namespace in self._namespaces()]})

    async def show_provider(self, request: ArmRequest) -> ArmResponse:
        """Handle `provider show`."""
        return ArmResponse(200, self._provider(request.path.name))

    async def register(self, request: ArmRequest) -> ArmResponse:
        """Handle `provider register`: the response says `Registering`, as on Azure, and it is done."""
        shown = self._provider(request.path.namespace)
        if shown["registrationState"] != "Registered":
            self._governance.set_registered(shown["namespace"], is_registered=True)
            shown["registrationState"] = "Registering"
        return ArmResponse(200, shown)

    async def unregister(self, request: ArmRequest) -> ArmResponse:
        """Handle `provider unregister`: reject it (409) while there are resources of the provider."""
        shown = self._provider(request.path.namespace)
        namespace = shown["namespace"]
        used = sorted({
            resource.type for resource in self._resources.all() if resource.type.startswith(f"{namespace}/")
        })  # fmt: skip
        if used:
            message = (
                f"The subscription '{self._identity.subscription_id}' cannot be unregistered from resource "
                f"provider '{namespace}', because it still has resources of the types {', '.join(used)}."
            )
            raise AzureError(409, "CannotUnregisterResourceProviderWithResources", message)
        self._governance.set_registered(namespace, is_registered=False)
        return ArmResponse(200, shown | {"registrationState": "Unregistering"})

    async def list_resources(self, request: ArmRequest) -> ArmResponse:
        """Handle `resource list`, of the subscription or of one group."""
        group = request.path.group or _group_of_filter(request.query.get("$filter", ""))
        below = group_id(self._identity.subscription_id, group) if group else ""
        if below and self._store.get(GROUP, below) is None:
            raise _group_not_found(str(group))
        tracked = [
            found for found in self._resources.all(below) if self._resources.kind(found.type).is_tracked
        ]
        value = []
        for resource in tracked:
            shown = self._resources.shown(resource)
            state = shown.pop("properties").get("provisioningState", "Succeeded")
            times = resource.top["systemData"]
            shown |= {"createdTime": times["createdAt"], "changedTime": times["lastModifiedAt"]}
            value.append(shown | {"provisioningState": state})
        return ArmResponse(200, {"value": value})

    async def show_result(self, request: ArmRequest) -> ArmResponse:
        """Handle a poll of `Location`."""
        return result_response(self._operations.get(request.path.name))

    async def list_groups(self, request: ArmRequest) -> ArmResponse:
        """Handle `group list`."""
        if "$filter" in request.query:
            raise not_emulated("filters on the list of resource groups")
        return ArmResponse(200, {"value": self._store.under(GROUP)})

    async def put_group(self, request: ArmRequest) -> ArmResponse:
        """Handle `group create`."""
        body, name = request.json(), request.path.name
        before = self._store.get(GROUP, self._group_id(name))
        if not _GROUP_NAME.fullmatch(name):
            message = (
                f"The provided resource group name '{name}' has these invalid characters or its length or "
                "its end is wrong: 1 to 90 letters, digits, '_', '-', '.', '(' and ')', not ending in '.'."
            )
            raise AzureError(400, "InvalidResourceGroupName", message)
        if not body.get("location"):
            message = "The location property is required for this definition."
            raise AzureError(400, "LocationRequired", message)
        region = checked_region(str(body["location"]), _GROUP_TYPE)
        if before is not None and before["location"] != region:
            message = (
                f"Invalid resource group location '{region}'. The Resource group already exists in location "
                f"'{before['location']}'."
            )
            raise AzureError(409, "InvalidResourceGroupLocation", message)
        if before is not None:
            check_not_deleting(before)
        _check_tags(body.get("tags"))
        group = self._new_group(before["name"] if before else name, region, body.get("tags") or {})
        self._store.put(GROUP, group["id"], group)
        return ArmResponse(201 if before is None else 200, group)

    async def patch_group(self, request: ArmRequest) -> ArmResponse:
        """Handle `group update` with a PATCH, which changes the tags."""
        group = self._group(request)
        check_not_deleting(group)
        tags = request.json().get("tags", group["tags"])
        _check_tags(tags)
        group["tags"] = tags or {}
        self._store.put(GROUP, group["id"], group)
        return ArmResponse(200, group)

    async def show_group(self, request: ArmRequest) -> ArmResponse:
        """Handle `group show`."""
        return ArmResponse(200, self._group(request))

    async def has_group(self, request: ArmRequest) -> ArmResponse:
        """Handle `group exists`."""
        found = self._store.get(GROUP, self._group_id(request.path.name))
        return ArmResponse(404 if found is None else 204)

    async def delete_group(self, request: ArmRequest) -> ArmResponse:
        """Handle `group delete`: delete everything in it, newest first, in the background."""
        group = self._group(request)
        identifier = group["id"]
        operation = self._operations.running(identifier)
        if operation is None:
            group["properties"] = {"provisioningState": "Deleting"}
            self._store.put(GROUP, identifier, group)
            operation = self._operations.start(identifier, self._remove(identifier), lambda: ArmResponse(200))
        where = f"{request.base_url}/subscriptions/{self._identity.subscription_id}"
        location = f"{where}/operationresults/{operation.id}?api-version={request.api_version}"
        return ArmResponse(202, None, RETRY_AFTER | {"Location": location})

    async def _remove(self, identifier: str) -> None:
        await self._resources.remove_group(identifier)
        self._delete_deployments(identifier)

    def _group(self, request: ArmRequest) -> Json:
        found = self._store.get(GROUP, self._group_id(request.path.name))
        if found is None:
            raise _group_not_found(request.path.name)
        return found

    def _group_id(self, name: str) -> str:
        return group_id(self._identity.subscription_id, name)

    def _new_group(self, name: str, region: str, tags: Json) -> Json:
        return {
            "id": self._group_id(name),
            "name": name,
            "type": _GROUP_TYPE,
            "location": region,
            "tags": tags,
            "properties": {"provisioningState": "Succeeded"},
        }

    def _subscription(self) -> Json:
        subscription, tenant = self._identity.subscription_id, self._identity.tenant_id
        return {
            "id": f"/subscriptions/{subscription}",
            "subscriptionId": subscription,
            "tenantId": tenant,
            "displayName": "Fjarr local cloud",
            "state": "Enabled",
            "subscriptionPolicies": {"quotaId": "LocalCloud", "spendingLimit": "Off"},
            "authorizationSource": "RoleBased",
            "managedByTenants": [],
        }

    def _namespaces(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(kind.type.partition("/")[0] for kind in self._resources.kinds))

    def _provider(self, namespace: str) -> Json:
        wanted = namespace.lower()
        kinds = [kind for kind in self._resources.kinds if kind.type.lower().startswith(f"{wanted}/")]
        if not kinds:
            raise not_emulated(f"the resource provider '{namespace}'")
        name = kinds[0].type.partition("/")[0]
        return {
            "id": f"/subscriptions/{self._identity.subscription_id}/providers/{name}",
            "namespace": name,
            "registrationPolicy": "RegistrationRequired",
            "registrationState": self._governance.registration_state(name),
            "resourceTypes": [_resource_type(kind) for kind in kinds],
        }


def _check_tags(tags: object) -> None:
    """Reject (400) tags of a resource group that are no texts by name, or exceed a limit."""
    if tags is None:
        return
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        message = "The request content was invalid and could not be deserialized: 'Path 'tags'.'."
        raise bad_request("InvalidRequestContent", message)
    raise_all(tuple(tag_errors(tags, _GROUP_TYPE)))


def _group_not_found(name: str) -> AzureError:
    return AzureError(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")


def _group_of_filter(text: str) -> str | None:
    if not text:
        return None
    found = _FILTER.fullmatch(text.strip())
    if found is None:
        raise not_emulated(f'the filter "{text}" on the list of resources')
    return found.group(1)


def _resource_type(kind: ResourceKind) -> Json:
    return {
        "resourceType": kind.type.partition("/")[2],
        "locations": list(DISPLAY_NAMES.values()),
        "apiVersions": list(kind.versions),
        "capabilities": "SupportsTags, SupportsLocation" if kind.is_tracked else "None",
    }

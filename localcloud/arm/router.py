"""The routing table: it leads from a request to its handler.

A route is a method and a pattern of words (`resource_ids.ArmPath.pattern`), so one dictionary look-up serves
every service alike. Operations that are not in the table are rejected with 501, and api-versions that a route
does not list with 501 if Azure has them, else with 400.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from localcloud.arm.requests import ArmRequest, ArmResponse
from localcloud.arm.resource_ids import pattern_of
from localcloud.errors import AzureError, not_emulated
from localcloud.specifications import namespace_versions

if TYPE_CHECKING:
    from localcloud.arm.resource_ids import Scope

_RESOURCES: Final = "Microsoft.Resources"
# Those of subscriptions and tenants, which are no resource types and have no versions in the specification.
_SUBSCRIPTION_VERSIONS: Final = (
    "2014-04-01",
    "2016-06-01",
    "2018-06-01",
    "2019-06-01",
    "2019-11-01",
    "2020-01-01",
    "2021-01-01",
    "2022-09-01",
    "2022-12-01",
)
Handler = Callable[[ArmRequest], Awaitable[ArmResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A handler and the api-versions that it supports.

    Attributes:
        handler: Handles the request.
        versions: The api-versions; empty for any.
        has_own_auth: Whether the handler verifies the token itself.
    """

    handler: Handler
    versions: tuple[str, ...]
    has_own_auth: bool = False


class Router:
    """The routing table: every operation that the local cloud has."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], Route] = {}

    def add(  # noqa: PLR0913 - the columns of the table
        self,
        method: str,
        scope: Scope,
        template: str,
        handler: Handler,
        versions: tuple[str, ...],
        *,
        has_own_auth: bool = False,
    ) -> None:
        """Route `method` on `template`, such as `Microsoft.App/containerApps/{}/start`, to `handler`."""
        self._routes[method, pattern_of(scope, template)] = Route(handler, versions, has_own_auth)

    def find(self, request: ArmRequest) -> Route:
        """Return the route of `request`.

        Raises:
            AzureError: 501 for an operation that is not emulated, 400 for an unknown api-version.
        """
        route = self._routes.get((request.method, request.path.pattern))
        if route is None:
            raise not_emulated(f"{request.method} {request.url_path} (route: {request.path.pattern})")
        if route.versions:
            _check_request_version(request, route.versions)
        return route


def _check_request_version(request: ArmRequest, versions: tuple[str, ...]) -> None:
    requested = request.api_version
    if not requested:
        raise AzureError(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    namespace = request.path.namespace or _RESOURCES
    if requested not in versions and namespace == _RESOURCES:
        if requested in (*namespace_versions(namespace), *_SUBSCRIPTION_VERSIONS):
            raise not_emulated(f"the api-version '{requested}' of {namespace}")
        supported = ", ".join(versions)
        message = f"The api-version '{requested}' is invalid. The supported versions are '{supported}'."
        raise AzureError(400, "InvalidApiVersionParameter", message)
    check_version(request.path.full_type, "", requested, versions)


def check_version(full_type: str, location: str, requested: str, versions: tuple[str, ...]) -> None:
    """Reject an api-version that a type does not have, or that the local cloud does not support.

    Args:
        full_type: The resource type, possibly followed by an action.
        location: The location in the request, for the message.
        requested: The api-version in the request.
        versions: The api-versions that the local cloud supports.

    Raises:
        AzureError: 400 `NoRegisteredProviderFound` for a version that Azure does not have; 501 for one that
            it has, and that the local cloud does not support.
    """
    if requested in versions:
        return
    namespace, _, kind = full_type.partition("/")
    known = namespace_versions(namespace)
    if requested in known:
        supported = ", ".join(versions)
        raise not_emulated(f"the api-version '{requested}' of {full_type}; it supports {supported}")
    raise AzureError(
        400,
        "NoRegisteredProviderFound",
        f"No registered resource provider found for location '{location}' and API version '{requested}' for "
        f"type '{kind}' of namespace '{namespace}'. The supported api-versions are '{', '.join(known)}'.",
    )

"""A request and its answer as values, and the table that leads from the one to who gives the other.

A route is a method and a pattern of words (`resource_ids.ArmPath.pattern`): one dictionary look-up finds
it, for every service alike. What is not in the table is refused with 501, and an api-version that a route
does not list with 400.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from localcloud.arm.resource_ids import ArmPath, Scope, pattern_of
from localcloud.errors import AzureError, not_emulated

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the management plane.

    Attributes:
        method: The HTTP method, upper case.
        path: Where it points.
        url_path: The path as it was sent, for messages and for what comes back in headers.
        query: The query's values by lower-case name.
        text: The body, undecoded JSON.
        base_url: The listener's address without a slash at its end.
        token: The bearer token that it carries, None without one.
    """

    method: str
    path: ArmPath
    url_path: str
    query: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    base_url: str = ""
    token: str | None = None

    @property
    def api_version(self) -> str:
        """Return the api-version asked for, empty if there is none."""
        return self.query.get("api-version", "")

    @property
    def group(self) -> str:
        """Return the resource group; only routes of group scope ask."""
        if self.path.group is None:
            raise ValueError(f"{self.url_path} is not below a resource group")
        return self.path.group

    def json(self) -> Json:
        """Parse the body as a JSON object.

        Raises:
            AzureError: 400 `InvalidRequestContent` if it is none.
        """
        try:
            found = json.loads(self.text or "{}")
        except ValueError as error:
            raise _bad_content(str(error)) from error
        if not isinstance(found, dict):
            raise _bad_content("a JSON object was expected")
        return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back: JSON, nothing, or a stream of lines that ends when its iterator does."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None


Handler = Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """Who answers a method on a pattern, for which api-versions (none: for any), and who checks the token."""

    handler: Handler
    versions: tuple[str, ...]
    has_own_auth: bool = False


class Router:
    """The table of every operation that the local cloud has."""

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
        """Let `handler` answer `method` on `template`, such as `Microsoft.App/containerApps/{}/start`."""
        self._routes[method, pattern_of(scope, template)] = Route(handler, versions, has_own_auth)

    def find(self, call: Call) -> Route:
        """Return who answers `call`.

        Raises:
            AzureError: 501 for an operation that is not emulated, 400 for an api-version that is unknown.
        """
        route = self._routes.get((call.method, call.path.pattern))
        if route is None:
            raise not_emulated(f"{call.method} {call.url_path} (route: {call.path.pattern})")
        if route.versions:
            _check_version(call, route.versions)
        return route


def _check_version(call: Call, versions: tuple[str, ...]) -> None:
    asked = call.api_version
    if not asked:
        raise AzureError(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    if asked in versions:
        return
    supported = ", ".join(versions)
    if call.path.namespace in ("", "Microsoft.Resources"):
        message = f"The api-version '{asked}' is invalid. The supported versions are '{supported}'."
        raise AzureError(400, "InvalidApiVersionParameter", message)
    raise no_registered_provider(call.path.full_type, "", asked, versions)


def no_registered_provider(
    full_type: str, location: str, asked: str, versions: tuple[str, ...]
) -> AzureError:
    """Return the refusal of an api-version that a type does not have."""
    namespace, _, kind = full_type.partition("/")
    return AzureError(
        400,
        "NoRegisteredProviderFound",
        f"No registered resource provider found for location '{location}' and API version '{asked}' for type "
        f"'{kind}' of namespace '{namespace}'. The supported api-versions are '{', '.join(versions)}'.",
    )


def _bad_content(reason: str) -> AzureError:
    message = f"The request content was invalid and could not be deserialized: '{reason}'."
    return AzureError(400, "InvalidRequestContent", message)

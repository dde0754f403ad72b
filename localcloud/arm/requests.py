"""A request to Resource Manager and its response, as values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from localcloud.errors import AzureError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from localcloud.arm.resource_ids import ArmPath

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ArmRequest:
    """A request to the management plane.

    Attributes:
        method: The HTTP method, upper case.
        path: Its parsed path.
        url_path: The path as sent, for messages and for headers of the response.
        query: The query's values by lower-case name.
        text: The body, undecoded JSON.
        base_url: The listener's address, without a trailing slash.
        token: Its bearer token, None without one.
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
        """Return the requested api-version, empty if there is none."""
        return self.query.get("api-version", "")

    @property
    def group(self) -> str:
        """Return the resource group, which requests of routes in group scope have."""
        if self.path.group is None:
            raise ValueError(f"{self.url_path} is not below a resource group")
        return self.path.group

    def json(self) -> Json:
        """Parse the body as a JSON object.

        Raises:
            AzureError: 400 `InvalidRequestContent` if it is not one.
        """
        try:
            found = json.loads(self.text or "{}")
        except ValueError as error:
            raise _invalid_content(str(error)) from error
        if not isinstance(found, dict):
            raise _invalid_content("a JSON object was expected")
        return found


@dataclass(frozen=True, slots=True)
class ArmResponse:
    """The response to a request: JSON, no body, or a stream of lines that ends with its iterator."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None


def _invalid_content(reason: str) -> AzureError:
    message = f"The request content was invalid and could not be deserialized: '{reason}'."
    return AzureError(400, "InvalidRequestContent", message)

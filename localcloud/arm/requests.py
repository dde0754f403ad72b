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
class ArmResponse:
    """What to send back: JSON, nothing, or a stream of lines that ends when its iterator does."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None


def _bad_content(reason: str) -> AzureError:
    message = f"The request content was invalid and could not be deserialized: '{reason}'."
    return AzureError(400, "InvalidRequestContent", message)

"""The bodies of errors: in Anthropic's format below `/v1/messages`, in OpenAI's elsewhere.

Source: Anthropic API reference, "Errors".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict  # comes with pydantic, which reads no other before Python 3.12

from inference.web.access import API_PATH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Scope

    from inference.errors import ApiError

MESSAGES_PATH: Final = API_PATH + "/messages"

ErrorType = Literal[
    "invalid_request_error", "authentication_error", "permission_error", "not_found_error",
    "request_too_large", "rate_limit_error", "api_error", "overloaded_error", "timeout_error",
]  # fmt: skip
ERROR_TYPES: Final[Mapping[int, ErrorType]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
"""Anthropic's types by our statuses; any other status is an invalid request."""


@with_config(ConfigDict(extra="forbid"))
class MessagesErrorDetail(TypedDict):
    """What is wrong with a request."""

    type: ErrorType
    message: str


@with_config(ConfigDict(extra="forbid"))
class MessagesError(TypedDict):
    """The body of every answer below `/v1/messages` that is not a success."""

    type: Literal["error"]
    error: MessagesErrorDetail
    request_id: str


def is_messages_path(path: str) -> bool:
    """Return whether a path is one of Anthropic's API."""
    return path == MESSAGES_PATH or path.startswith(MESSAGES_PATH + "/")


def error_body(error: ApiError, scope: Scope) -> Mapping[str, Any]:
    """Return the body of the error response to a request."""
    if is_messages_path(scope["path"]):
        return messages_error(error, scope["state"]["request_id"])
    return error.to_json()


def messages_error(error: ApiError, request_id: str) -> MessagesError:
    """Return an error in Anthropic's format."""
    kind = ERROR_TYPES.get(error.status, "invalid_request_error")
    return {
        "type": "error",
        "error": {
            "type": "timeout_error" if error.code == "request_timeout" else kind,
            "message": error.to_json()["error"]["message"],
        },
        "request_id": request_id,
    }

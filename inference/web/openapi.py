"""Complete the API's OpenAPI document with what FastAPI cannot read from the handlers.

That is the API key, the errors, which are answered by exception handlers, and the events of a stream. FastAPI
also documents a status 422, which is never sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from inference.web.access import KEY_HEADERS
from inference.web.messages_api.documents import MessageEvent
from inference.web.messages_api.errors import MessagesError
from inference.web.responses import ChatCompletionChunk, CompletionChunk, Error
from inference.web.responses_api.documents import ResponseEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI

REFERENCE: Final = "#/components/schemas/{model}"
RETRY_AFTER: Final = {
    "Retry-After": {"description": "After how many seconds to try again.", "schema": {"type": "string"}}
}
ERRORS: Final[Mapping[int, str]] = {
    400: "The request is invalid or unsupported.",
    401: "The API key is missing or wrong.",
    403: "The path needs the admin key.",
    404: "There is no such model, or no such path.",
    405: "The path does not support the method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "The queue is full, or the key has reached its limit.",
    431: "The first line or the headers are too large.",
    500: "The server has an internal error.",
    503: "The server starts or stops, the request has timed out, or the engine has failed.",
}
"""What any path may answer."""

RETRIED: Final = frozenset({429, 503})
"""The statuses of requests that may succeed later."""

SECURITY_SCHEMES: Final = {
    "key": {"type": "http", "scheme": "bearer"},
    **{name: {"type": "apiKey", "in": "header", "name": name} for name in KEY_HEADERS},
}
"""How a key is sent; one of them is enough."""


def error_responses(error: type[Any]) -> dict[int | str, dict[str, Any]]:
    """Return the description of the errors, for the `responses` of an application or a route.

    The schema is named, since FastAPI would build a validator for the model of each status of each route:
    four fifths of the time to make the application.

    Args:
        error: The type of an error's body.
    """
    content = {"application/json": {"schema": {"$ref": REFERENCE.format(model=error.__name__)}}}
    return {
        status: {
            "content": content,
            "description": description,
            **({"headers": RETRY_AFTER} if status in RETRIED else {}),
        }
        for status, description in ERRORS.items()
    }


def stream_response(chunk: type[Any], error: type[Any] = Error) -> dict[int | str, dict[str, Any]]:
    """Return the description of a stream, for a route's `responses`.

    The data of each event are a chunk or an error, as JSON. Streams of chunks end with `[DONE]`.
    """
    names = (chunk.__name__, error.__name__)
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [{"$ref": REFERENCE.format(model=name)} for name in names]},
    }
    event = {"type": "object", "required": ["data"], "properties": {"data": data}}
    return {200: {"content": {"text/event-stream": {"schema": event}}}}


def complete_openapi(api: FastAPI) -> None:
    """Make an application serve the completed document."""

    def document() -> dict[str, Any]:
        if not api.openapi_schema:
            generated = get_openapi(
                title=api.title, version=api.version, openapi_version=api.openapi_version, routes=api.routes
            )
            api.openapi_schema = _complete(generated)
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    components = document["components"]
    schemas = {**_named_schemas(), **components["schemas"]}
    for unsent in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unsent, None)
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    return {
        **document,
        "servers": [{"url": "/v1"}],
        "security": [{name: []} for name in SECURITY_SCHEMES],
        "components": {
            **components,
            "schemas": schemas,
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def _named_schemas() -> dict[str, Any]:
    """Return the schemas of the chunks and of errors, which no route has as its response model."""
    adapters: list[tuple[str, Literal["serialization"], TypeAdapter[Any]]] = [
        ("chat", "serialization", TypeAdapter(ChatCompletionChunk)),
        ("completion", "serialization", TypeAdapter(CompletionChunk)),
        ("response", "serialization", TypeAdapter(ResponseEvent)),
        ("message", "serialization", TypeAdapter(MessageEvent)),
        ("error", "serialization", TypeAdapter(Error)),
        ("message error", "serialization", TypeAdapter(MessagesError)),
    ]
    _, document = TypeAdapter.json_schemas(adapters, ref_template=REFERENCE)
    schemas: dict[str, Any] = document["$defs"]
    return schemas

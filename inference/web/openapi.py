"""Make the API's own document say the truth: who may ask, and what is answered, errors included.

FastAPI writes the document from the handlers' signatures. They return finished responses, and errors are
answered by handlers of their own, so it knows neither, and tells of a status 422 that is never sent.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final

from fastapi.openapi.utils import get_openapi

if TYPE_CHECKING:
    from fastapi import FastAPI

ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"enum": ["invalid_request_error", "requests", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}

ERRORS: Final = {
    400: "The request cannot be served as it is.",
    401: "The API key is missing or wrong.",
    404: "There is no such model, or no such path.",
    405: "The path is not asked this way.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    429: "The queue is full, or the key has all that a key may have.",
    431: "The first line or the headers are too large.",
    500: "The server made a mistake.",
    503: "The server starts or stops, the request's time is over, or the engine failed.",
}
RETRY_AFTER: Final = {
    "Retry-After": {"description": "After how many seconds to ask again.", "schema": {"type": "string"}}
}
RETRIABLE: Final = (429, 503)

USAGE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {
        name: {"type": "integer", "minimum": 0}
        for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    },
}
MODEL: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"type": "string"},
        "parent": {"type": ["string", "null"]},
        "root": {"type": "string"},
    },
}


def describe(api: FastAPI) -> None:
    """Let an application's document be the one that this module completes."""

    def document() -> dict[str, Any]:
        if not api.openapi_schema:
            plain = get_openapi(
                title=api.title, version=api.version, openapi_version=api.openapi_version, routes=api.routes
            )
            api.openapi_schema = complete(plain)
        return api.openapi_schema

    api.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Return FastAPI's document with what it cannot know."""
    document = copy.deepcopy(document)
    document["servers"] = [{"url": "/v1"}]
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"key": []}]
    schemas = components.setdefault("schemas", {})
    for unsent in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unsent, None)
    schemas |= {"Error": ERROR, "Model": MODEL, "Usage": USAGE, **_answers()}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete_operation(path, operation)
    return document


def _complete_operation(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    for status, meaning in ERRORS.items():
        responses[str(status)] = {
            "description": meaning,
            "content": _json({"$ref": "#/components/schemas/Error"}),
            **({"headers": RETRY_AFTER} if status in RETRIABLE else {}),
        }
    success = SUCCESSES.get(path)
    if success is not None:
        responses["200"] = {"description": "The answer.", "content": success}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _or_stream(name: str) -> dict[str, Any]:
    # Each event of the stream is such an object; its data are JSON, but for the last one's, which are [DONE].
    event = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
    stream = {"text/event-stream": {"schema": event}}
    return _json({"$ref": f"#/components/schemas/{name}"}) | stream


SUCCESSES: Final[dict[str, dict[str, Any]]] = {
    "/models": _json(
        {
            "type": "object",
            "required": ["object", "data"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
            },
        }
    ),
    "/models/{name}": _json({"$ref": "#/components/schemas/Model"}),
    "/chat/completions": _or_stream("ChatCompletion"),
    "/completions": _or_stream("Completion"),
}


def _answers() -> dict[str, Any]:
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"const": "assistant"}, "content": {"type": ["string", "null"]}},
    }
    return {
        "ChatCompletion": _answer("chat.completion", "message", message),
        "Completion": _answer("text_completion", "text", {"type": "string"}),
    }


def _answer(object_name: str, key: str, said: dict[str, Any]) -> dict[str, Any]:
    choice = {
        "type": "object",
        "required": ["index", key, "logprobs", "finish_reason"],
        "properties": {
            "index": {"type": "integer", "minimum": 0},
            key: said,
            "logprobs": {"type": ["object", "null"]},
            "finish_reason": {"type": "string", "minLength": 1},
        },
    }
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices", "usage"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": object_name},
            "created": {"type": "integer"},
            "model": {"type": "string"},
            "choices": {"type": "array", "minItems": 1, "items": choice},
            "usage": {"$ref": "#/components/schemas/Usage"},
        },
    }

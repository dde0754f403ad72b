"""Serve OpenAI's API: `/v1/models`, `/v1/chat/completions`, `/v1/completions`; others are in packages.

The official Python client is the reference. Every response below `/v1` that is not a success has OpenAI's
error shape.

Source: OpenAI API reference, "Chat", "Completions", "Models", "Streaming".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from inference.errors import ApiError, InvalidRequestError, MethodNotAllowedError, NotFoundError
from inference.service.model_names import ListedModel
from inference.web.access import API_PATH
from inference.web.answering import client_of, make_bug_error, request_id_of, respond
from inference.web.extensions.adapters import AdapterAdministration, add_adapter_routes
from inference.web.extensions.tokenization import add_tokenization_routes
from inference.web.messages_api.errors import error_body
from inference.web.messages_api.routes import add_messages_routes
from inference.web.openapi import complete_openapi, error_responses, stream_response
from inference.web.response_writer import (
    ChatResponseWriter,
    CompletionResponseWriter,
    model_object,
)
from inference.web.responses import (
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Error,
    Model,
    ModelList,
)
from inference.web.responses_api.routes import add_responses_routes
from inference.web.schemas import ChatCompletionRequest, CompletionRequest, describe_error

if TYPE_CHECKING:
    from inference.service.service import Service

DESCRIPTION: Final = "The answer."


def make_api(service: Service, heartbeat_s: float, administration: AdapterAdministration) -> FastAPI:
    """Return the application that is mounted at `/v1`."""
    api = FastAPI(
        title="Fjarr",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses=error_responses(Error),
    )
    complete_openapi(api)
    # FastAPI types handlers by the base class alone.
    api.add_exception_handler(ApiError, _answer_api_error)  # type: ignore[arg-type]
    api.add_exception_handler(RequestValidationError, _answer_validation_error)  # type: ignore[arg-type]
    api.add_exception_handler(HTTPException, _answer_http_error)  # type: ignore[arg-type]
    api.add_exception_handler(Exception, _answer_bug)

    @api.get("/models", response_description=DESCRIPTION)
    async def list_models() -> ModelList:
        """List the base and the adapters, each adapter under its name and under those of its versions."""
        engine = service.require_ready()
        models = [
            model_object(listed, engine.context_tokens(listed.model.name)) for listed in service.listed_models
        ]
        document: ModelList = {"object": "list", "data": models}
        if service.failed_adapters:
            document["failed_adapters"] = [
                {"id": name, "reason": reason} for name, reason in service.failed_adapters.items()
            ]
        return document

    @api.get("/models/{name:path}", response_description=DESCRIPTION)
    async def retrieve_model(name: str) -> Model:
        """Describe one model."""
        model = service.model(name)
        listed = next((each for each in service.listed_models if each.name == name), ListedModel(name, model))
        return model_object(listed, service.require_ready().context_tokens(model.name))

    @api.post(
        "/chat/completions",
        response_model=ChatCompletion,
        response_description=DESCRIPTION,
        responses=stream_response(ChatCompletionChunk),
    )
    async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation."""
        text_requests = body.to_text_requests(request_id_of(request), client_of(request))
        writer = ChatResponseWriter(
            text_requests[0],
            has_usage=body.has_usage_in_stream,
            has_continuous_usage=body.has_continuous_usage,
        )
        return await respond(service, text_requests, writer, request, heartbeat_s if body.stream else None)

    @api.post(
        "/completions",
        response_model=Completion,
        response_description=DESCRIPTION,
        responses=stream_response(CompletionChunk),
    )
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Continue a text, or several."""
        text_requests = body.to_text_requests(request_id_of(request), client_of(request))
        writer = CompletionResponseWriter(
            text_requests[0],
            has_usage=body.has_usage_in_stream,
            has_continuous_usage=body.has_continuous_usage,
        )
        return await respond(service, text_requests, writer, request, heartbeat_s if body.stream else None)

    add_responses_routes(api, service, heartbeat_s)
    add_messages_routes(api, service, heartbeat_s)
    add_tokenization_routes(api, service)
    add_adapter_routes(api, service, administration)
    return api


async def _answer_api_error(request: Request, error: ApiError) -> Response:
    return JSONResponse(error_body(error, request.scope), error.status, error.headers)


async def _answer_validation_error(request: Request, error: RequestValidationError) -> Response:
    message, param, code = describe_error(_most_helpful(error))
    return await _answer_api_error(request, InvalidRequestError(message, param=param, code=code))


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    if isinstance(error.__cause__, ApiError):
        # FastAPI wraps what is raised while it reads the body, such as the middleware's limit on its size.
        return await _answer_api_error(request, error.__cause__)
    path, method = request.url.path, request.method
    is_deep = isinstance(error.__cause__, RecursionError)
    answers: dict[int, ApiError] = {
        400: InvalidRequestError(
            "The body is nested too deeply." if is_deep else "The body is not valid JSON in UTF-8."
        ),
        404: NotFoundError(_describe_unknown(path), code="unknown_url"),
        405: MethodNotAllowedError(f"{path} does not take {method}.", headers=error.headers or {}),
    }
    return await _answer_api_error(
        request, answers.get(error.status_code) or InvalidRequestError(str(error.detail))
    )


async def _answer_bug(request: Request, _error: Exception) -> Response:
    return await _answer_api_error(request, make_bug_error(request_id_of(request)))


def _most_helpful(error: RequestValidationError) -> dict[str, Any]:
    """Return the error to report: an unknown field explains more than the errors that follow from it."""
    errors: list[dict[str, Any]] = list(error.errors())
    return next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])


def _describe_unknown(path: str) -> str:
    """Return a sentence about a path that is not served, and what is."""
    if path.startswith(2 * API_PATH + "/"):
        return f"There is no {path}: your client adds {API_PATH} to a base URL that has it already."
    return (
        f"There is no {path}. This server generates text: POST {API_PATH}/chat/completions, /completions,"
        f" /responses or /messages. GET {API_PATH}/models lists the models, and {API_PATH}/openapi.json all"
        " paths."
    )

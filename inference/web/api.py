"""Speak OpenAI's API: `/v1/models`, `/v1/chat/completions`, `/v1/completions`.

The judge is the official Python client. Every answer below `/v1` that is not a success has OpenAI's error
shape.

Source: OpenAI API reference, "Chat", "Completions", "Models", "Streaming".
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from inference.errors import ApiError, InvalidRequestError, MethodNotAllowedError, NotFoundError
from inference.service.service import Answer, ServedModel, Service, TextDelta, TextRequest, Usage
from inference.web.openapi import describe
from inference.web.schemas import ChatCompletionRequest, CompletionRequest, describe_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.types import Receive, Scope, Send

    from inference.service.logprobs import Likelihood, TokenReport
    from inference.text.tools import ToolCall

LOGGER: Final = logging.getLogger(__name__)
COMPLETION_TOKENS: Final = 16
"""The length of a completion whose request names none. Source: OpenAI API reference, "Create completion"."""

DONE: Final = b"data: [DONE]\n\n"
HEARTBEAT: Final = b": still there\n\n"


@dataclass(frozen=True, slots=True)
class Form:
    """Say how an endpoint dresses text: the names of its objects and where the text goes."""

    id_prefix: str
    object_name: str
    chunk_name: str
    is_chat: bool


CHAT: Final = Form("chatcmpl-", "chat.completion", "chat.completion.chunk", is_chat=True)
TEXT: Final = Form("cmpl-", "text_completion", "text_completion", is_chat=False)


def make_api(service: Service, heartbeat_s: float) -> FastAPI:
    """Return the application that is mounted at `/v1`."""
    api = FastAPI(title="Fjarr", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    describe(api)
    # FastAPI types handlers by the base class alone.
    api.add_exception_handler(ApiError, _answer_api_error)  # type: ignore[arg-type]
    api.add_exception_handler(RequestValidationError, _answer_validation_error)  # type: ignore[arg-type]
    api.add_exception_handler(HTTPException, _answer_http_error)  # type: ignore[arg-type]
    api.add_exception_handler(Exception, _answer_bug)

    @api.get("/models")
    async def list_models() -> dict[str, Any]:
        """List the base and the adapters."""
        service.require_ready()
        return {"object": "list", "data": [_model_document(model) for model in service.models]}

    @api.get("/models/{name:path}")
    async def retrieve_model(name: str) -> dict[str, Any]:
        """Describe one model."""
        return _model_document(service.model(name))

    @api.post("/chat/completions")
    async def create_chat_completion(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer a conversation."""
        text_request = TextRequest(
            request_id=request_id_of(request),
            model=body.model,
            prompt=body.prompt,
            max_new_tokens=body.max_completion_tokens or body.max_tokens,
            sampling=body.sampling,
            stops=tuple(body.stop or ()),
            length_param="max_completion_tokens" if body.max_completion_tokens else "max_tokens",
            choices=body.n or 1,
            top_logprobs=body.wanted_logprobs,
            shape=body.shape,
            tool_use=body.tool_use,
            client=client_of(request),
        )
        dressing = Dressing(CHAT, text_request, has_usage=body.has_usage_in_stream)
        return await _respond(
            service, (text_request,), dressing, request, heartbeat_s if body.stream else None
        )

    @api.post("/completions")
    async def create_completion(body: CompletionRequest, request: Request) -> Response:
        """Continue a text, or several."""
        text_requests = [
            TextRequest(
                request_id=request_id_of(request),
                model=body.model,
                prompt=prompt,
                max_new_tokens=body.max_tokens or COMPLETION_TOKENS,
                sampling=body.sampling,
                stops=tuple(body.stop or ()),
                length_param="max_tokens",
                choices=body.n or 1,
                top_logprobs=body.logprobs,
                client=client_of(request),
            )
            for prompt in body.prompts
        ]
        dressing = Dressing(TEXT, text_requests[0], has_usage=body.has_usage_in_stream)
        return await _respond(service, text_requests, dressing, request, heartbeat_s if body.stream else None)

    return api


def request_id_of(request: Request) -> str:
    """Return the id that the edge gave the request."""
    return str(request.scope["state"]["request_id"])


def client_of(request: Request) -> str:
    """Return the name of the key that the edge let in."""
    return str(request.scope["state"]["key_name"])


class Whole:
    """Gather one choice of an answer that is not a stream."""

    def __init__(self) -> None:
        self.text = ""
        self.calls: list[tuple[int, ToolCall]] = []
        self.tokens: list[TokenReport] = []
        self.finish_reason = ""

    def add(self, delta: TextDelta) -> None:
        """Add what came."""
        self.text += delta.text
        self.calls += delta.calls
        self.tokens += delta.tokens
        self.finish_reason = delta.finish_reason or self.finish_reason


class Dressing:
    """Dress one answer in the API's objects.

    Args:
        has_usage: Whether a stream ends with a chunk that holds the count.
    """

    def __init__(self, form: Form, request: TextRequest, *, has_usage: bool) -> None:
        self._form = form
        self._has_usage = has_usage
        self._has_logprobs = request.top_logprobs is not None
        self._head = {
            "id": form.id_prefix + request.request_id,
            "created": int(time.time()),
            "model": request.model,
        }
        # What the events of a stream have in common is written once.
        chunk = {**self._head, "object": form.chunk_name, "choices": []}
        self._before = b"data: " + _json(chunk).removesuffix(b"]}")
        self._after = (b'],"usage":null}' if has_usage else b"]}") + b"\n\n"

    def whole(self, choices: Sequence[Whole], usage: Usage) -> dict[str, Any]:
        """Return the answer that is not a stream."""
        return {
            **self._head,
            "object": self._form.object_name,
            "choices": [self._whole_choice(index, whole) for index, whole in enumerate(choices)],
            "usage": _usage_document(usage),
        }

    def opening(self, choices: int) -> bytes:
        """Return the events that open a stream: the role of each choice, in a chat; nothing, otherwise."""
        if not self._form.is_chat:
            return b""
        said = {"role": "assistant", "content": ""}
        return b"".join(self._event(index, said, None, None) for index in range(choices))

    def delta(self, delta: TextDelta) -> bytes:
        """Return the events of a delta; the finish reason has an event of its own in a chat."""
        logprobs = self._logprobs(delta.tokens) if delta.tokens else None
        if not self._form.is_chat:
            return self._event(delta.choice, delta.text, delta.finish_reason, logprobs)
        events = b""
        if delta.text or delta.tokens:
            events = self._event(delta.choice, {"content": delta.text}, None, logprobs)
        if delta.calls:
            calls = [{"index": index, **_call_document(call)} for index, call in delta.calls]
            events += self._event(delta.choice, {"tool_calls": calls}, None, None)
        if delta.finish_reason:
            events += self._event(delta.choice, {}, delta.finish_reason, None)
        return events

    def closing(self, usage: Usage) -> bytes:
        """Return the events that end a stream."""
        if not self._has_usage:
            return DONE
        document = {
            **self._head,
            "object": self._form.chunk_name,
            "choices": [],
            "usage": _usage_document(usage),
        }
        return _event_of(document) + DONE

    def _whole_choice(self, index: int, whole: Whole) -> dict[str, Any]:
        said: dict[str, Any] = {"text": whole.text}
        if self._form.is_chat:
            content = whole.text if whole.text or not whole.calls else None
            calls = {"tool_calls": [_call_document(call) for _, call in whole.calls]} if whole.calls else {}
            said = {"message": {"role": "assistant", "content": content, "refusal": None, **calls}}
        logprobs = self._logprobs(whole.tokens) if self._has_logprobs else None
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": whole.finish_reason}

    def _event(
        self, index: int, said: object, finish_reason: str | None, logprobs: dict[str, Any] | None
    ) -> bytes:
        key = "delta" if self._form.is_chat else "text"
        choice = {"index": index, key: said, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._before + _json(choice) + self._after

    def _logprobs(self, tokens: Sequence[TokenReport]) -> dict[str, Any]:
        if self._form.is_chat:
            return {"content": [_token_document(token) for token in tokens], "refusal": None}
        return {
            "tokens": [token.chosen.token.text for token in tokens],
            "token_logprobs": [token.chosen.logprob for token in tokens],
            "top_logprobs": [_likelihoods_by_text(token) for token in tokens],
            "text_offset": [token.offset for token in tokens],
        }


class EventStream(Response):
    """Send server-sent events, with comments when it is quiet, until they end or the client leaves.

    The client's leaving is noticed by listening, not by a failing write: a stream that waits in the queue
    writes nothing.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], heartbeat_s: float) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._heartbeat_s = heartbeat_s
        self._sent_at = asyncio.get_running_loop().time()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the stream to its end, or to the client's."""
        del scope
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = asyncio.create_task(self._send_events(send))
        others = (asyncio.create_task(wait_for_disconnect(receive)), asyncio.create_task(self._beat(send)))
        try:
            await asyncio.wait((sending, others[0]), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, *others):
                task.cancel()
            await asyncio.gather(sending, *others, return_exceptions=True)
        if not sending.cancelled():
            sending.result()

    async def _send_events(self, send: Send) -> None:
        async for event in self._events:
            await self._send(send, event, is_more=True)
        await self._send(send, b"", is_more=False)

    async def _beat(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        while True:
            quiet_s = loop.time() - self._sent_at
            if quiet_s >= self._heartbeat_s:
                await self._send(send, HEARTBEAT, is_more=True)
                quiet_s = 0.0
            await asyncio.sleep(self._heartbeat_s - quiet_s)

    async def _send(self, send: Send, body: bytes, *, is_more: bool) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": body, "more_body": is_more})


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _respond(
    service: Service,
    requests: Sequence[TextRequest],
    dressing: Dressing,
    http: Request,
    heartbeat_s: float | None,
) -> Response:
    answer = await service.begin(*requests)
    if heartbeat_s is not None:
        return EventStream(_stream(answer, dressing, requests[0].request_id), heartbeat_s)
    whole = asyncio.create_task(_collect(answer, dressing))
    left = asyncio.create_task(wait_for_disconnect(http.receive))
    try:
        await asyncio.wait((whole, left), return_when=asyncio.FIRST_COMPLETED)
        if whole.done():
            return JSONResponse(whole.result())
        return Response(status_code=499)  # nobody reads it; the access log shows it
    finally:
        for task in (whole, left):
            task.cancel()
        await asyncio.gather(whole, left, return_exceptions=True)
        answer.close()


async def _collect(answer: Answer, dressing: Dressing) -> dict[str, Any]:
    choices = [Whole() for _ in range(answer.choices)]
    async for delta in answer:
        choices[delta.choice].add(delta)
    return dressing.whole(choices, answer.usage)


async def _stream(answer: Answer, dressing: Dressing, request_id: str) -> AsyncIterator[bytes]:
    with_opening = dressing.opening(answer.choices)
    async with answer:
        try:
            async for delta in answer:
                yield with_opening + dressing.delta(delta)
                with_opening = b""
        except ApiError as error:
            yield _event_of(error.to_json())
        except Exception:
            # The status is sent already, so the error goes into the stream, where the client raises it.
            LOGGER.exception("request %s: the stream broke", request_id)
            yield _event_of(_bug_document(request_id))
        else:
            yield dressing.closing(answer.usage)


def _model_document(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "fjarr",
        "parent": model.parent,
        "root": model.parent or model.name,
    }


def _usage_document(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _call_document(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _token_document(report: TokenReport) -> dict[str, Any]:
    return {
        **_likelihood_document(report.chosen),
        "top_logprobs": [_likelihood_document(each) for each in report.top],
    }


def _likelihoods_by_text(report: TokenReport) -> dict[str, float]:
    """Return the likeliest tokens' and the taken one's; of tokens that look alike, the likeliest's."""
    found: dict[str, float] = {}
    for each in (*report.top, report.chosen):
        found.setdefault(each.token.text, each.logprob)
    return found


def _likelihood_document(likelihood: Likelihood) -> dict[str, Any]:
    token = likelihood.token
    return {
        "token": token.text,
        "logprob": likelihood.logprob,
        "bytes": None if token.data is None else list(token.data),
    }


def _event_of(document: dict[str, Any]) -> bytes:
    return b"data: " + _json(document) + b"\n\n"


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _bug_document(request_id: str) -> dict[str, Any]:
    message = f"The server made a mistake. Its log has the details under the request id {request_id}."
    return {"error": {"message": message, "type": "server_error", "param": None, "code": "internal_error"}}


async def _answer_api_error(_request: Request, error: ApiError) -> Response:
    return JSONResponse(error.to_json(), error.status, error.headers)


async def _answer_validation_error(request: Request, error: RequestValidationError) -> Response:
    message, param, code = describe_error(_worst(error))
    return await _answer_api_error(request, InvalidRequestError(message, param=param, code=code))


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    if isinstance(error.__cause__, ApiError):
        # FastAPI wraps what goes wrong while it reads the body; the edge's limit on it is such a thing.
        return await _answer_api_error(request, error.__cause__)
    path, method = request.url.path, request.method
    answers: dict[int, ApiError] = {
        400: InvalidRequestError("The body is not valid JSON in UTF-8."),
        404: NotFoundError(f"There is no {path}.", code="unknown_url"),
        405: MethodNotAllowedError(f"{path} does not take {method}.", headers=error.headers or {}),
    }
    return await _answer_api_error(
        request, answers.get(error.status_code) or InvalidRequestError(str(error.detail))
    )


async def _answer_bug(request: Request, _error: Exception) -> Response:
    return JSONResponse(_bug_document(request_id_of(request)), 500)


def _worst(error: RequestValidationError) -> dict[str, Any]:
    """Return the error to show first: an unknown field explains more than what it was taken for."""
    errors: list[dict[str, Any]] = list(error.errors())
    return next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])

"""Answer requests for text over HTTP: as a stream of events, or as one document."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from inference.errors import ApiError
from inference.web.event_stream import EventStream, wait_for_disconnect
from inference.web.response_writer import ChoiceBuffer, select_best

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from inference.service.answer import Answer
    from inference.service.requests import TextRequest
    from inference.service.service import Service
    from inference.web.response_writer import ResponseWriter

LOGGER: Final = logging.getLogger(__name__)


def request_id_of(request: Request) -> str:
    """Return the id that the middleware gave the request."""
    return str(request.scope["state"]["request_id"])


def client_of(request: Request) -> str:
    """Return the name of the API key that the middleware found in the request."""
    return str(request.scope["state"]["key_name"])


async def respond(
    service: Service,
    requests: Sequence[TextRequest],
    writer: ResponseWriter,
    http: Request,
    heartbeat_s: float | None,
) -> Response:
    """Answer requests, as a stream if there is a heartbeat for it, else with one document."""
    answer = await service.begin(*requests)
    if heartbeat_s is not None:
        events = _stream(answer, writer, requests[0].request_id)
        return EventStream(events, heartbeat_s, answer.close, writer.heartbeat)
    collecting = asyncio.create_task(_collect(answer, writer, requests[0]))
    disconnect = asyncio.create_task(wait_for_disconnect(http.receive))
    try:
        await asyncio.wait((collecting, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if collecting.done():
            return JSONResponse(collecting.result())
        return Response(status_code=499)  # for the access log: the client is gone
    finally:
        for task in (collecting, disconnect):
            task.cancel()
        await asyncio.gather(collecting, disconnect, return_exceptions=True)
        answer.close()


async def _collect(answer: Answer, writer: ResponseWriter, request: TextRequest) -> Mapping[str, object]:
    choices = [ChoiceBuffer() for _ in range(answer.choices)]
    async for delta in answer:
        choices[delta.choice].add(delta)
    if request.best_of is not None:
        choices = select_best(choices, request.best_of, request.choices)
    return writer.response(choices, answer.usage)


async def _stream(answer: Answer, writer: ResponseWriter, request_id: str) -> AsyncIterator[bytes]:
    async with answer:
        try:
            is_open, start = False, answer.usage
            async for delta in answer:
                opening = b"" if is_open else writer.opening(answer.choices, start)
                is_open = True
                yield opening + writer.delta(delta, answer.usage)
        except ApiError as error:
            yield writer.failure(error)
        except Exception:
            # The status is sent already, so the error goes into the stream, where the client raises it.
            LOGGER.exception("request %s: the stream broke", request_id)
            yield writer.failure(make_bug_error(request_id))
        else:
            yield writer.closing(answer.usage)


def make_bug_error(request_id: str) -> ApiError:
    """Return the error for a request that the server has an error with."""
    message = f"The server made a mistake. Its log has the details under the request id {request_id}."
    return ApiError(message, code="internal_error")

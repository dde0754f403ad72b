"""Serve `/v1/responses`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from fastapi import Request, Response  # noqa: TC002 - FastAPI reads the handlers' annotations

from inference.errors import NotFoundError
from inference.web.answering import client_of, request_id_of, respond
from inference.web.openapi import stream_response
from inference.web.responses_api.documents import ResponseDocument, ResponseEvent
from inference.web.responses_api.schemas import ResponseRequest  # noqa: TC001 - see above
from inference.web.responses_api.writer import ResponsesWriter

if TYPE_CHECKING:
    from fastapi import FastAPI

    from inference.service.service import Service


def add_responses_routes(api: FastAPI, service: Service, heartbeat_s: float) -> None:
    """Add the routes of the Responses API."""

    @api.post(
        "/responses",
        response_model=ResponseDocument,
        response_description="The response.",
        responses=stream_response(ResponseEvent),
    )
    async def create_response(body: ResponseRequest, request: Request) -> Response:
        """Answer a conversation, as an input of items."""
        text_request = body.to_text_request(request_id_of(request), client_of(request))
        writer = ResponsesWriter(body, text_request)
        return await respond(service, (text_request,), writer, request, heartbeat_s if body.stream else None)

    @api.get("/responses/{name:path}", include_in_schema=False, response_model=None)
    @api.delete("/responses/{name:path}", include_in_schema=False, response_model=None)
    @api.post("/responses/{name:path}", include_in_schema=False, response_model=None)
    async def find_response(name: str) -> NoReturn:
        """Explain that there is no stored response."""
        raise NotFoundError(
            f"There is no response {name!r}: responses are not stored by this server.",
            code="response_not_found",
        )

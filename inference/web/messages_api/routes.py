"""Serve `/v1/messages`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request, Response  # noqa: TC002 - FastAPI reads the handlers' annotations

from inference.web.answering import client_of, request_id_of, respond
from inference.web.messages_api.documents import InputTokens, MessageDocument, MessageEvent
from inference.web.messages_api.errors import MessagesError
from inference.web.messages_api.schemas import CountTokensRequest, MessageRequest  # noqa: TC001 - see above
from inference.web.messages_api.writer import MessagesWriter
from inference.web.openapi import error_responses, stream_response

if TYPE_CHECKING:
    from fastapi import FastAPI

    from inference.service.service import Service


def add_messages_routes(api: FastAPI, service: Service, heartbeat_s: float) -> None:
    """Add the routes of the Messages API."""
    errors = error_responses(MessagesError)

    @api.post(
        "/messages",
        response_model=MessageDocument,
        response_description="The message.",
        responses=errors | stream_response(MessageEvent, MessagesError),
    )
    async def create_message(body: MessageRequest, request: Request) -> Response:
        """Answer a conversation, in the format of Anthropic's API."""
        text_request = body.to_text_request(request_id_of(request), client_of(request))
        writer = MessagesWriter(text_request, body.max_tokens)
        return await respond(service, (text_request,), writer, request, heartbeat_s if body.stream else None)

    @api.post("/messages/count_tokens", response_description="The number.", responses=errors)
    async def count_tokens_of_messages(body: CountTokensRequest, request: Request) -> InputTokens:
        """Return the number of tokens of a conversation, in the format of Anthropic's API."""
        token_ids = await service.tokenize(body.to_text_request(request_id_of(request)))
        return {"input_tokens": len(token_ids)}

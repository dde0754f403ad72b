"""Serve `/tokenize` and `/detokenize`, as vLLM does.

Source: vLLM, "OpenAI-Compatible Server", "Tokenizer API", and `entrypoints/serve/tokenize/protocol.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Self

from fastapi import Request  # noqa: TC002 - FastAPI reads the handlers' annotations
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # comes with pydantic, which reads no other before Python 3.12

from inference.engines.protocol import Sampling
from inference.errors import InvalidRequestError
from inference.service.requests import ChatPrompt, TextPrompt, TextRequest
from inference.text.codec import TemplateOptions
from inference.text.tools import ToolUse
from inference.web.answering import request_id_of
from inference.web.message_schemas import ChatMessage, FunctionTool, StrictModel, missing_field

if TYPE_CHECKING:
    from fastapi import FastAPI

    from inference.service.service import Service
    from inference.text.codec import Codec


class TokenizeRequest(StrictModel):
    """The body of `POST /tokenize`: a text, or a conversation. Without `model` it is for the base."""

    model: Annotated[str, Field(min_length=1)] | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: list[FunctionTool] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _require_one_prompt(self) -> Self:
        if self.prompt is None and self.messages is None:
            raise missing_field("prompt")
        if self.prompt is not None and self.messages is not None:
            raise PydanticCustomError("prompts", "it cannot be combined with 'messages'", {"field": "prompt"})
        if self.continue_final_message and self.add_generation_prompt:
            raise PydanticCustomError(
                "template", "it cannot be combined with 'add_generation_prompt'",
                {"field": "continue_final_message"},
            )  # fmt: skip
        return self

    def to_text_request(self, request_id: str, model: str) -> TextRequest:
        """Return a request for the service, of which only the prompt is used."""
        return TextRequest(
            request_id=request_id,
            model=model,
            prompt=self._text_prompt if self.messages is None else self._chat_prompt,
            max_new_tokens=None,
            sampling=Sampling(),
            tool_use=ToolUse(tuple(tool.to_tool() for tool in self.tools)) if self.tools else None,
        )

    @property
    def _text_prompt(self) -> TextPrompt:
        return TextPrompt(self.prompt or "", has_special=self.add_special_tokens is not False)

    @property
    def _chat_prompt(self) -> ChatPrompt:
        continues_last = bool(self.continue_final_message)
        options = TemplateOptions(
            is_answer_next=self.add_generation_prompt is not False and not continues_last,
            continues_last=continues_last,
            has_special=bool(self.add_special_tokens),
            variables=self.chat_template_kwargs or {},
        )
        return ChatPrompt(tuple(message.to_message() for message in self.messages or ()), options)


class DetokenizeRequest(StrictModel):
    """The body of `POST /detokenize`. Without `model` it is for the base."""

    model: Annotated[str, Field(min_length=1)] | None = None
    tokens: list[Annotated[int, Field(ge=0)]]


class Tokens(TypedDict):
    """The tokens of a prompt; `token_strs` is null unless `return_token_strs` is true."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(TypedDict):
    """The text of some tokens, special ones included."""

    prompt: str


def add_tokenization_routes(api: FastAPI, service: Service) -> None:
    """Add the two routes."""

    @api.post("/tokenize", response_description="The tokens.")
    async def tokenize(body: TokenizeRequest, request: Request) -> Tokens:
        """Return the tokens of a text, or of a conversation as the model gets it."""
        model = _find_model(service, body.model)
        token_ids = await service.tokenize(body.to_text_request(request_id_of(request), model))
        codec = service.model(model).codec
        texts = None
        if body.return_token_strs:
            texts = await asyncio.to_thread(lambda: [codec.token(each).text for each in token_ids])
        return {
            "count": len(token_ids),
            "max_model_len": service.require_ready().context_tokens(model),
            "tokens": list(token_ids),
            "token_strs": texts,
        }

    @api.post("/detokenize", response_description="The text.")
    async def detokenize(body: DetokenizeRequest) -> Detokenized:
        """Return the text of tokens."""
        codec = service.model(_find_model(service, body.model)).codec
        # Many tokens take a while, during which other streams would pause.
        return {"prompt": await asyncio.to_thread(_text_of, codec, body.tokens)}


def _find_model(service: Service, name: str | None) -> str:
    """Return the model's name, which is the base's if there is none."""
    service.require_ready()
    return service.models[0].name if name is None else name


def _text_of(codec: Codec, token_ids: list[int]) -> str:
    unknown = [token_id for token_id in token_ids if token_id >= codec.vocabulary_size]
    if unknown:
        raise InvalidRequestError(
            f"Token ids are from 0 to {codec.vocabulary_size - 1}, and {unknown[0]} is none.", param="tokens"
        )
    tokens = {token_id: codec.token(token_id) for token_id in set(token_ids)}
    special = {token_id: token.text for token_id, token in tokens.items() if token.data is None}
    return codec.decode(token_ids, special)

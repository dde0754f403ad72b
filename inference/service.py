"""Answer a request with text: what the API and the chat have in common.

A request becomes token ids, is measured against the context, goes through the door, and comes back as deltas
of text, with a true finish reason and a true count. Prompts and answers are never logged.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

from inference.admission import Door, Ticket
from inference.engine import Engine, FinishReason, GenerationRequest, Increment, Sampling, TokenStream
from inference.errors import (
    ApiError,
    EngineError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from inference.passage import Observer, Passage
from inference.text import Detokenizer, StopFinder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from inference.codec import Codec, Message

LOGGER: Final = logging.getLogger(__name__)
LONG_PROMPT_CHARACTERS: Final = 20_000
"""Longer prompts are tokenised in a thread: it takes milliseconds, and streams would stutter meanwhile."""

State = Literal["starting", "ready", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Say what serves under a name.

    Attributes:
        parent: The base's name, if this is an adapter.
        created: Seconds since the epoch, for the list of models.
        end_token_ids: Tokens that end an answer; they are not part of its text.
    """

    name: str
    parent: str | None
    codec: Codec
    end_token_ids: frozenset[int]
    created: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Hold the limits that every request is under. `Settings` says what each means."""

    max_concurrent: int = 64
    max_waiting: int = 128
    max_new_tokens: int = 1024
    request_timeout_s: float = 230.0
    max_per_key: int | None = None


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """Be a conversation, for the model's chat template."""

    messages: tuple[Message, ...]
    param: ClassVar[str] = "messages"


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Be bare text."""

    text: str
    param: ClassVar[str] = "prompt"


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Be token ids, taken as they are."""

    token_ids: tuple[int, ...]
    param: ClassVar[str] = "prompt"


Prompt = ChatPrompt | TextPrompt | TokenPrompt


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Ask for text.

    Attributes:
        max_new_tokens: None takes the server's default, or what the context leaves if that is less.
        stops: Strings at which the answer ends, themselves left out.
        length_param: The request's field to name when prompt and answer do not fit together; None
            cuts the answer to what fits.
        client: The name of the key that asks.
    """

    request_id: str
    model: str
    prompt: Prompt
    max_new_tokens: int | None
    sampling: Sampling
    stops: tuple[str, ...] = ()
    length_param: str | None = None
    client: str = "-"


@dataclass(frozen=True, slots=True)
class Usage:
    """Count tokens. The token that ends an answer is one of the completion's."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Hold new text; with the last one, why it ended."""

    text: str
    finish_reason: FinishReason | None = None


class Service:
    """Hold the engine and the models, once there are any, and take requests for them.

    Args:
        limits: What every request is under.

    Attributes:
        observers: Who is told of what happens to requests.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.door = Door(limits.max_concurrent, limits.max_waiting, limits.max_per_key)
        self.observers: list[Observer] = []
        self.phase = "starting"
        self.percent = 0
        self._state: State = "starting"
        self._engine: Engine | None = None
        self._models: dict[str, ServedModel] = {}

    @property
    def state(self) -> State:
        """Return how far the server is; `failed` as soon as the engine is dead."""
        if self._state == "ready" and self._engine is not None and not self._engine.is_alive:
            return "failed"
        return self._state

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """Return the models, the base first; none while loading."""
        return tuple(self._models.values())

    def report(self, phase: str, percent: int) -> None:
        """Note how far the start is. Safe to call from any thread."""
        self.phase, self.percent = phase, percent

    def begin_serving(self, engine: Engine, models: Sequence[ServedModel]) -> None:
        """Take requests from now on, unless the server has been told to stop meanwhile."""
        self._engine = engine
        self._models = {model.name: model for model in models}
        if self._state == "starting":
            self._state = "ready"

    def begin_draining(self) -> None:
        """Take no new requests from now on."""
        self._state = "draining"

    def model(self, name: str) -> ServedModel:
        """Return a model by its name.

        Raises:
            UnavailableError: While no model is loaded.
            NotFoundError: If there is none of that name.
        """
        self.require_ready()
        if name not in self._models:
            known = ", ".join(repr(known) for known in self._models)
            raise NotFoundError(
                f"The model {name!r} does not exist; there are {known}.",
                param="model",
                code="model_not_found",
            )
        return self._models[name]

    async def begin(self, request: TextRequest) -> Answer:
        """Check a request and give it a place. The answer must be closed; it is an async context manager.

        Raises:
            ApiError: If the request cannot be served, or not now.
        """
        try:
            return await self._begin(request)
        except ApiError as error:
            for observer in self.observers:
                observer.refused(request, error)
            raise

    async def _begin(self, request: TextRequest) -> Answer:
        model = self.model(request.model)
        deadline = asyncio.get_running_loop().time() + self.limits.request_timeout_s
        token_ids = await _encode(model.codec, request.prompt)
        # While it was being tokenised the server may have begun to stop.
        engine = self.require_ready()
        generation = GenerationRequest(
            request_id=request.request_id,
            model=model.name,
            prompt_token_ids=token_ids,
            max_new_tokens=self._room(engine.context_tokens(model.name), len(token_ids), request),
            sampling=request.sampling,
        )
        ticket = self.door.enter(request.client)
        passage = Passage(request, len(token_ids), self.observers)
        return Answer(engine, model, generation, request.stops, ticket, deadline, passage)

    def require_ready(self) -> Engine:
        """Return the engine.

        Raises:
            UnavailableError: If requests cannot be taken now.
        """
        state = self.state
        if state == "ready" and self._engine is not None:
            return self._engine
        if state == "failed":
            raise UnavailableError(
                "The engine has stopped; the server is about to be restarted.", code="engine_dead"
            )
        reason = f"{self.phase}, {self.percent} %" if state == "starting" else "it stops"
        raise UnavailableError(
            f"The server takes no requests now ({reason}). Try again shortly.",
            code=state,
            headers={"Retry-After": "5"},
        )

    def _room(self, context: int, prompt: int, request: TextRequest) -> int:
        wanted = request.max_new_tokens
        if prompt == 0:
            raise InvalidRequestError("The prompt is empty.", param=request.prompt.param)
        if prompt >= context:
            raise InvalidRequestError(
                f"This model's maximum context length is {context} tokens, and the prompt alone has {prompt}."
                " Shorten it.",
                param=request.prompt.param,
                code="context_length_exceeded",
            )
        if request.length_param is not None and wanted is not None and prompt + wanted > context:
            raise InvalidRequestError(
                f"This model's maximum context length is {context} tokens, and you requested"
                f" {prompt + wanted} ({prompt} in the prompt, {wanted} in the answer). Shorten the prompt, or"
                f" lower {request.length_param}.",
                param=request.length_param,
                code="context_length_exceeded",
            )
        return min(wanted or self.limits.max_new_tokens, context - prompt)


class Answer:
    """Be one request's answer: an async iterator of `TextDelta`, and a context manager that frees its place.

    Attributes:
        usage: What it took so far; final once a delta has a finish reason.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place, `Service.begin`
        self,
        engine: Engine,
        model: ServedModel,
        request: GenerationRequest,
        stops: tuple[str, ...],
        ticket: Ticket,
        deadline: float,
        passage: Passage,
    ) -> None:
        self._engine = engine
        self._model = model
        self._request = request
        self._ticket = ticket
        self._deadline = deadline
        self._passage = passage
        self._detokenizer = Detokenizer(model.codec.decode)
        self._stop_finder = StopFinder(stops)
        self._stream: TokenStream | None = None
        self._is_over = False
        self.usage = Usage(len(request.prompt_token_ids), 0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop generating and give the place back; idempotent. Whoever reads the answer is at its end."""
        self._is_over = True
        if self._stream is not None:
            self._stream.cancel()
        self._ticket.leave()
        self._passage.ended()

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        while not self._is_over:
            delta = self._read(await self._next_increment())
            if delta.text or delta.finish_reason:
                return delta
        raise StopAsyncIteration

    async def _next_increment(self) -> Increment:
        try:
            async with asyncio.timeout_at(self._deadline):
                if self._stream is None:
                    await self._ticket.wait()
                    if self._is_over:
                        raise StopAsyncIteration
                    self._passage.admitted()
                    self._stream = self._engine.submit(self._request)
                return await anext(self._stream)
        except TimeoutError:
            self._passage.ended("error", "request_timeout")
            self.close()
            raise self._timeout_error() from None
        except OverloadedError as error:
            self._passage.ended("error", error.code)
            self.close()
            raise
        except EngineError as error:
            self._passage.ended("error", "engine_failed")
            self.close()
            LOGGER.error("request %s: %s", self._request.request_id, error)  # noqa: TRY400 - the engine has logged where
            raise UnavailableError(
                "The engine failed before the answer was complete.", code="engine_failed"
            ) from error

    def _read(self, increment: Increment) -> TextDelta:
        """Turn tokens into text. Pure but for the counts and the two finders."""
        tokens = increment.token_ids
        self.usage = Usage(self.usage.prompt_tokens, self.usage.completion_tokens + len(tokens))
        reason = increment.finish_reason
        if reason == "stop" and tokens and tokens[-1] in self._model.end_token_ids:
            tokens = tokens[:-1]
        text = self._detokenizer.push(tokens)
        if reason is not None:
            text += self._detokenizer.finish()
        text = self._stop_finder.push(text)
        if self._stop_finder.is_found:
            reason = "stop"
        elif reason is not None:
            text += self._stop_finder.finish()
        self._passage.said(len(increment.token_ids), text)
        if reason is not None:
            self._passage.finished(reason)
            self.close()
        return TextDelta(text, reason)

    def _timeout_error(self) -> ApiError:
        where = "was being answered" if self._stream else "waited for its turn"
        # The official client would ask three times; a request that was too long once is too long again.
        return UnavailableError(
            f"The request's time was over while it {where}, after {self.usage.completion_tokens} tokens."
            " Ask for fewer tokens, or try again when the server has less to do.",
            code="request_timeout",
            headers={"x-should-retry": "false"},
        )


async def _encode(codec: Codec, prompt: Prompt) -> tuple[int, ...]:
    match prompt:
        case ChatPrompt(messages):
            _require_unicode(prompt, *(message.content for message in messages))
            size = sum(len(message.content) for message in messages)
            return await _near_or_far(size, lambda: codec.encode_chat(messages))
        case TextPrompt(text):
            _require_unicode(prompt, text)
            return await _near_or_far(len(text), lambda: codec.encode(text))
        case TokenPrompt(token_ids):
            if any(not 0 <= token < codec.vocabulary_size for token in token_ids):
                raise InvalidRequestError(
                    f"Token ids are from 0 to {codec.vocabulary_size - 1}.", param=prompt.param
                )
            return token_ids


def _require_unicode(prompt: Prompt, *texts: str) -> None:
    """Refuse halves of characters, which JSON can spell and no tokenizer takes."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:
        half, position = ord(error.object[error.start]), error.start
        raise InvalidRequestError(
            f"The text has half a character, U+{half:04X}, at position {position}.", param=prompt.param
        ) from error


async def _near_or_far(size: int, encode: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Encode here, or in a thread if it takes long."""
    return encode() if size < LONG_PROMPT_CHARACTERS else await asyncio.to_thread(encode)

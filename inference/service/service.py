"""Answer a request with text: what the API and the chat have in common.

A request becomes token ids, is measured against the context, goes through the door, and comes back as deltas
of text, with a true finish reason and a true count. Prompts and answers are never logged.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Self

from inference.engines.protocol import (
    Ability,
    Engine,
    FinishReason,
    GenerationRequest,
    Increment,
    Sampling,
    TokenStream,
)
from inference.errors import (
    ApiError,
    EngineError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from inference.service.admission import Door, Ticket
from inference.service.lifecycle import Observer, Passage
from inference.service.logprobs import LogprobLedger, TokenReport
from inference.text.detokenizer import Detokenizer, StopFinder
from inference.text.grammar import find_fault, grammar_of, json_rule
from inference.text.tools import CallFormat, CallParser, Tool, ToolCall, ToolUse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from inference.text.codec import Codec, Message

LOGGER: Final = logging.getLogger(__name__)
LONG_PROMPT_CHARACTERS: Final = 20_000
"""Longer prompts are tokenised in a thread: it takes milliseconds, and streams would stutter meanwhile."""

MOST_SEEDS: Final = 2**63
"""Seeds are taken modulo this: not every library takes negative or larger ones."""

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
class JsonShape:
    """Demand JSON.

    Attributes:
        schema: What it must follow, as JSON Schema.
        param: The request's field that the schema is in.
    """

    schema: Mapping[str, Any]
    param: str


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Ask for text.

    Attributes:
        max_new_tokens: None takes the server's default, or what the context leaves if that is less.
        stops: Strings at which the answer ends, themselves left out.
        length_param: The request's field to name when prompt and answer do not fit together; None
            cuts the answer to what fits.
        choices: How many answers to give.
        top_logprobs: Tell each token's log-probability, and those of so many of the likeliest; None tells
            none.
        shape: What the text must be; None leaves it free.
        tool_use: What the model may call; None for nothing.
        client: The name of the key that asks.
    """

    request_id: str
    model: str
    prompt: Prompt
    max_new_tokens: int | None
    sampling: Sampling
    stops: tuple[str, ...] = ()
    length_param: str | None = None
    choices: int = 1
    top_logprobs: int | None = None
    shape: JsonShape | None = None
    tool_use: ToolUse | None = None
    client: str = "-"


@dataclass(frozen=True, slots=True)
class Usage:
    """Count tokens. The token that ends an answer is one of the completion's."""

    prompt_tokens: int
    completion_tokens: int


TextFinishReason = FinishReason | Literal["tool_calls"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Hold new text of one choice; with its last one, why it ended.

    Attributes:
        choice: Which of the answer's choices it is of, from 0.
        calls: New calls, with their numbers within the choice.
        tokens: What was asked to be told of the text's tokens.
    """

    text: str
    finish_reason: TextFinishReason | None = None
    choice: int = 0
    calls: tuple[tuple[int, ToolCall], ...] = ()
    tokens: tuple[TokenReport, ...] = ()


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

    async def begin(self, request: TextRequest, *others: TextRequest) -> Answer:
        """Check requests and give them places. The answer must be closed; it is an async context manager.

        Args:
            request: What is asked.
            others: Requests of the same client for the same model, whose choices follow the first one's.

        Raises:
            ApiError: If the requests cannot be served, or not now.
        """
        requests = (request, *others)
        try:
            return await self._begin(requests)
        except ApiError as error:
            for observer in self.observers:
                observer.refused(request, error)
            raise

    async def _begin(self, requests: Sequence[TextRequest]) -> Answer:
        request = requests[0]
        model = self.model(request.model)
        deadline = asyncio.get_running_loop().time() + self.limits.request_timeout_s
        self._require_room_for(requests)
        form = _call_format(model.codec, request.tool_use)
        grammar = await _find_grammar(request, form)
        prompts = [await _encode(model.codec, each) for each in requests]
        # While they were being tokenised the server may have begun to stop.
        engine = self.require_ready()
        context = engine.context_tokens(model.name)
        generations = [
            generation
            for each, token_ids in zip(requests, prompts, strict=True)
            for generation in _generations(
                each, token_ids, self._room(context, len(token_ids), each), grammar
            )
        ]
        _require_abilities(engine, request, generations[0])
        _require_known_tokens(model.codec, request.sampling)
        prompt_tokens = sum(len(token_ids) for token_ids in prompts)
        ticket = self.door.enter(request.client, len(generations))
        stay = Stay(ticket, Passage(request, prompt_tokens, self.observers), len(generations))
        choices = tuple(
            Choice(index, engine, model, generation, request, form, stay, deadline)
            for index, generation in enumerate(generations)
        )
        return Answer(choices, stay, prompt_tokens)

    def _require_room_for(self, requests: Sequence[TextRequest]) -> None:
        request, most = requests[0], self.door.most_places
        count = sum(each.choices for each in requests)
        if count > most:
            raise InvalidRequestError(
                f"The request asks for {count} answers, and this server gives {most} at once. Ask for fewer.",
                param="n" if request.choices > most else request.prompt.param,
            )

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
    """Be the answer to a request: an async iterable of `TextDelta`, and a context manager that frees places.

    Args:
        choices: The texts that are being generated, side by side.
        prompt_tokens: How many tokens the prompts have together; each counts once.
    """

    def __init__(self, choices: tuple[Choice, ...], stay: Stay, prompt_tokens: int) -> None:
        self._choices = choices
        self._stay = stay
        self._prompt_tokens = prompt_tokens
        self._pumps: tuple[asyncio.Task[None], ...] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def choices(self) -> int:
        """Return how many texts there are."""
        return len(self._choices)

    @property
    def usage(self) -> Usage:
        """Return what it took so far; final once every choice has a finish reason."""
        return Usage(self._prompt_tokens, sum(choice.completion_tokens for choice in self._choices))

    def close(self) -> None:
        """Stop generating and give the places back; idempotent. Whoever reads the answer is at its end."""
        for choice in self._choices:
            choice.close()
        self._stay.end()

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self._choices[0] if len(self._choices) == 1 else self._merge()

    async def _merge(self) -> AsyncIterator[TextDelta]:
        """Yield the choices' deltas as they come. One that fails ends all."""
        news: asyncio.Queue[TextDelta | Exception | None] = asyncio.Queue()
        self._pumps = tuple(asyncio.create_task(_pump(choice, news)) for choice in self._choices)
        running = len(self._pumps)
        while running:
            match await news.get():
                case None:
                    running -= 1
                case TextDelta() as delta:
                    yield delta
                case error:
                    self.close()
                    raise error


async def _pump(choice: Choice, news: asyncio.Queue[TextDelta | Exception | None]) -> None:
    """Pass on what a choice says, and None at its end. It ends when the choice is closed."""
    try:
        async for delta in choice:
            news.put_nowait(delta)
    except Exception as error:  # noqa: BLE001 - it is raised where the answer is read
        news.put_nowait(error)
    news.put_nowait(None)


class Stay:
    """Be an answer's time in the server: the places that its choices share, and who is told of it.

    Args:
        choices: How many there are; the places are given back when the last one has ended.
    """

    def __init__(self, ticket: Ticket, passage: Passage, choices: int) -> None:
        self.ticket = ticket
        self.passage = passage
        self._open = choices

    def end_one(self) -> None:
        """Note that a choice has ended. For each of them, once."""
        self._open -= 1
        if self._open == 0:
            self.end()

    def end(self) -> None:
        """Give the places back; idempotent."""
        self.ticket.leave()
        self.passage.ended()


class Choice:
    """Be one text of an answer: an async iterator of `TextDelta`.

    Attributes:
        completion_tokens: How many tokens were generated so far.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place, `Service.begin`
        self,
        index: int,
        engine: Engine,
        model: ServedModel,
        generation: GenerationRequest,
        request: TextRequest,
        form: CallFormat | None,
        stay: Stay,
        deadline: float,
    ) -> None:
        self._index = index
        self._engine = engine
        self._model = model
        self._request = generation
        self._stay = stay
        self._deadline = deadline
        codec, use = model.codec, request.tool_use
        kept = dict(form.special) if form else {}
        self._detokenizer = Detokenizer(partial(codec.decode, kept=kept) if kept else codec.decode)
        self._stop_finder = StopFinder(request.stops)
        self._ledger = LogprobLedger(codec.token) if request.top_logprobs is not None else None
        self._parser = CallParser(form, use.names) if form and use else None
        self._most_calls = None if use is None or use.is_parallel else 1
        self._decoded = self._shown = self._called = 0
        self._stream: TokenStream | None = None
        self._is_over = False
        self.completion_tokens = 0

    def close(self) -> None:
        """Stop generating; idempotent. Whoever reads it is at its end."""
        if not self._is_over:
            self._is_over = True
            if self._stream is not None:
                self._stream.cancel()
            self._stay.end_one()

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        while not self._is_over:
            delta = self._read(await self._next_increment())
            if delta.text or delta.finish_reason or delta.calls:
                return delta
        raise StopAsyncIteration

    async def _next_increment(self) -> Increment:
        try:
            async with asyncio.timeout_at(self._deadline):
                if self._stream is None:
                    await self._stay.ticket.wait()
                    if self._is_over:
                        raise StopAsyncIteration
                    self._stay.passage.admitted()
                    self._stream = self._engine.submit(self._request)
                return await anext(self._stream)
        except TimeoutError:
            self._break_off("request_timeout")
            raise self._timeout_error() from None
        except OverloadedError as error:
            self._break_off(error.code)
            raise
        except EngineError as error:
            self._break_off("engine_failed")
            LOGGER.error("request %s: %s", self._request.request_id, error)  # noqa: TRY400 - the engine has logged where
            raise UnavailableError(
                "The engine failed before the answer was complete.", code="engine_failed"
            ) from error

    def _break_off(self, error_code: str | None) -> None:
        """End what cannot go on. It is the error that is told of it, so that comes before the end."""
        self._stay.passage.ended("error", error_code)
        self.close()

    def _read(self, increment: Increment) -> TextDelta:
        """Turn tokens into text. Pure but for the count and the finders."""
        tokens = increment.token_ids
        self.completion_tokens += len(tokens)
        reason = increment.finish_reason
        if reason == "stop" and tokens and tokens[-1] in self._model.end_token_ids:
            tokens = tokens[:-1]
        text = self._detokenizer.push(tokens) if self._ledger is None else self._note(tokens, increment)
        if reason is not None:
            text += self._detokenizer.finish()
        text = self._stop_finder.push(text)
        if self._stop_finder.is_found:
            reason = "stop"
        elif reason is not None:
            text += self._stop_finder.finish()
        self._stay.passage.said(len(increment.token_ids), text, self._index)
        if self._ledger is None and self._parser is None:
            delta = TextDelta(text, reason, self._index)
        else:
            delta = self._to_delta(text, reason)
        if delta.finish_reason is not None:
            self._stay.passage.finished("length" if delta.finish_reason == "length" else "stop")
            self.close()
        return delta

    def _note(self, tokens: Sequence[int], increment: Increment) -> str:
        """Decode token by token, to know which text is whose."""
        text = ""
        for token_id, logprobs in zip(tokens, increment.logprobs[: len(tokens)], strict=True):
            if self._ledger is not None:
                self._ledger.add(token_id, logprobs, self._decoded)
            piece = self._detokenizer.push((token_id,))
            self._decoded += len(piece)
            text += piece
        return text

    def _to_delta(self, text: str, reason: FinishReason | None) -> TextDelta:
        """Take calls out of the text, and say of its tokens what was asked."""
        calls: tuple[tuple[int, ToolCall], ...] = ()
        finish_reason: TextFinishReason | None = reason
        if self._parser is not None:
            output = self._parser.push(text)
            text, found = output.text, output.calls
            if reason is not None:
                rest = self._parser.finish()
                text, found = text + rest.text, found + rest.calls
            calls = tuple(enumerate(found, self._called))[: self._most_calls]
            self._called += len(calls)
            # Behind a call, where text was cut out, tokens are no longer told of.
            self._shown = self._parser.shown
        else:
            self._shown += len(text)
        if self._called and reason != "length" and (reason or self._called == self._most_calls):
            finish_reason = "tool_calls"
        tokens = self._ledger.release(self._shown) if self._ledger else ()
        return TextDelta(text, finish_reason, self._index, calls, tokens)

    def _timeout_error(self) -> ApiError:
        where = "was being answered" if self._stream else "waited for its turn"
        # The official client would ask three times; a request that was too long once is too long again.
        return UnavailableError(
            f"The request's time was over while it {where}, after {self.completion_tokens} tokens."
            " Ask for fewer tokens, or try again when the server has less to do.",
            code="request_timeout",
            headers={"x-should-retry": "false"},
        )


def _generations(
    request: TextRequest, token_ids: tuple[int, ...], room: int, grammar: str | None
) -> list[GenerationRequest]:
    """Return what the engine is to do for a request: the same for each choice, but for the seed."""
    first = GenerationRequest(
        request_id=request.request_id,
        model=request.model,
        prompt_token_ids=token_ids,
        max_new_tokens=room,
        sampling=request.sampling,
        top_logprobs=request.top_logprobs,
        grammar=grammar,
    )
    seed = request.sampling.seed
    if seed is None:
        return [first] * request.choices
    return [
        replace(first, sampling=replace(request.sampling, seed=(seed + index) % MOST_SEEDS))
        for index in range(request.choices)
    ]


def _call_format(codec: Codec, use: ToolUse | None) -> CallFormat | None:
    """Return how the model writes calls, if it is to have tools."""
    if use is None:
        return None
    if not codec.has_tools:
        raise InvalidRequestError(
            "This model has no tools: its chat template renders none. Leave 'tools' out.",
            param="tools",
            code="unsupported",
        )
    if codec.call_format is None:
        raise InvalidRequestError(
            "This server does not know the form in which this model writes its calls. Leave 'tools' out.",
            param="tools",
            code="unsupported",
        )
    return codec.call_format


async def _find_grammar(request: TextRequest, form: CallFormat | None) -> str | None:
    """Return what the answer must be; None if it is free.

    Raises:
        InvalidRequestError: If no grammar can be made of a schema.
    """
    grammar = _grammar(request, form)
    if grammar is None:
        return None
    reason = await find_fault(grammar)
    if reason is None:
        return grammar
    for param, schema in _schemas(request):
        of_its_own = await find_fault(grammar_of(json_rule(schema)))
        if of_its_own is not None:
            raise InvalidRequestError(
                f"'{param}' cannot be honoured: {of_its_own}.", param=param, code="invalid_schema"
            )
    param = request.shape.param if request.shape else "tools"
    raise InvalidRequestError(f"'{param}' cannot be honoured: {reason}.", param=param, code="invalid_schema")


def _grammar(request: TextRequest, form: CallFormat | None) -> str | None:
    shape, use = request.shape, request.tool_use
    if form is None or use is None:
        return grammar_of(json_rule(shape.schema)) if shape else None
    if use.choice == "required":
        return grammar_of(form.calls_rule(use))
    if shape is not None:
        return grammar_of(f"{json_rule(shape.schema)} | {form.calls_rule(use)}")
    return form.free_grammar(use) if any(tool.is_strict for tool in use.tools) else None


def _schemas(request: TextRequest) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the request's schemas, by their fields."""
    tools: tuple[Tool, ...] = request.tool_use.tools if request.tool_use else ()
    schemas = [(f"tools[{index}].function.parameters", tool.parameters) for index, tool in enumerate(tools)]
    found = [(param, schema) for param, schema in schemas if schema is not None]
    return [*([(request.shape.param, request.shape.schema)] if request.shape else []), *found]


def _require_abilities(engine: Engine, request: TextRequest, generation: GenerationRequest) -> None:
    """Refuse what the engine cannot do, by the field that asks for it."""
    missing = generation.needs - engine.abilities
    if missing:
        ability = min(missing)
        field = _field_of(ability, request)
        raise InvalidRequestError(
            f"'{field}' needs what the engine of this server cannot do ({ability}); leave it out.",
            param=field,
            code="unsupported",
        )


def _field_of(ability: Ability, request: TextRequest) -> str:
    """Return the field of the API that asks for an ability."""
    sampling = request.sampling
    if ability == "penalties":
        penalties = {
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
        }
        return next((name for name, value in penalties.items() if value), "repetition_penalty")
    if ability == "grammar":
        return "response_format" if request.shape else "tools"
    return ability


def _require_known_tokens(codec: Codec, sampling: Sampling) -> None:
    unknown = [token_id for token_id, _ in sampling.logit_bias if token_id >= codec.vocabulary_size]
    if unknown:
        raise InvalidRequestError(
            f"'logit_bias' names the token {unknown[0]}, and token ids are from 0 to"
            f" {codec.vocabulary_size - 1}.",
            param="logit_bias",
        )


async def _encode(codec: Codec, request: TextRequest) -> tuple[int, ...]:
    prompt = request.prompt
    match prompt:
        case ChatPrompt(messages):
            tools = request.tool_use.tools if request.tool_use else ()
            _require_unicode(prompt, *(message.content for message in messages))
            if any(message.calls or message.role == "tool" for message in messages) and not codec.has_tools:
                raise InvalidRequestError(
                    "This model's chat template has no tools, so there is no place for calls and their"
                    " results.",
                    param=prompt.param,
                )
            # Tools are long: each brings a schema.
            size = LONG_PROMPT_CHARACTERS if tools else sum(len(message.content) for message in messages)
            return await _near_or_far(size, lambda: codec.encode_chat(messages, tools))
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

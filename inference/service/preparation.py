"""From text requests to generation requests: tokenization, grammars, lengths and engine abilities.

Everything here is checked before a request takes a slot. Prompts are never logged.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from inference.engines.protocol import Ability, Engine, GenerationRequest, ServedModel
from inference.errors import InvalidRequestError
from inference.service.requests import ChatPrompt, Prompt, TextPrompt, TextRequest, TokenPrompt
from inference.service.templates import template_options
from inference.text.grammar import find_grammar_error, grammar_of, json_rule
from inference.text.json_schema import UnsupportedSchemaError
from inference.text.shapes import GrammarShape, JsonShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from inference.text.codec import Codec, Message
    from inference.text.reasoning import PromptEnd
    from inference.text.tools import CallFormat, Tool, ToolUse

LONG_PROMPT_CHARACTERS: Final = 20_000
"""Longer prompts are tokenized in a thread: it takes milliseconds, during which other streams would pause."""

SEED_MODULUS: Final = 2**63
"""Seeds are reduced modulo this: not every library accepts negative or larger ones."""

END_TOKENS: Final = 16
"""How many of a prompt's last tokens are decoded to find out whether it ends within the reasoning."""


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """Requests whose prompts are token ids, before their lengths and the engine's abilities are checked.

    Attributes:
        requests: The requests; they differ only in their prompts.
        prompts: The token ids of each request's prompt.
        grammar: What the answers must match; None leaves them free.
        call_format: How the model writes tool calls; None if the request has no tools.
        prompt_end: Whether the answer may begin with reasoning, or does; None if the model does not reason.
    """

    requests: tuple[TextRequest, ...]
    model: ServedModel
    prompts: tuple[tuple[int, ...], ...]
    grammar: str | None
    call_format: CallFormat | None
    prompt_end: PromptEnd | None


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """Requests that have passed every check.

    Attributes:
        request: The first of them.
        generations: What the engine has to generate, one for each choice.
        call_format: How the model writes tool calls; None if the request has no tools.
        prompt_texts: The prompt of each of them, if it was sent as plain text.
        prompt_end: Whether the answer may begin with reasoning, or does; None if the model does not reason.
        prompt_tokens: The length of all prompts together; each counts once.
    """

    request: TextRequest
    model: ServedModel
    generations: tuple[GenerationRequest, ...]
    prompt_texts: tuple[str | None, ...]
    call_format: CallFormat | None
    prompt_end: PromptEnd | None
    prompt_tokens: int


def check_choices(requests: Sequence[TextRequest], max_choices: int) -> None:
    """Reject requests for more choices than can ever be generated at once.

    Raises:
        InvalidRequestError: If they have more.
    """
    request, count = requests[0], sum(each.generated_choices for each in requests)
    if count > max_choices:
        raise InvalidRequestError(
            f"The request asks for {count} answers, and this server gives {max_choices} at once."
            " Ask for fewer.",
            param=_choices_field(request)
            if request.generated_choices > max_choices
            else request.prompt.param,
        )


def _choices_field(request: TextRequest) -> str:
    return "n" if request.best_of is None else "best_of"


async def encode(requests: Sequence[TextRequest], model: ServedModel) -> EncodedRequest:
    """Tokenize the prompts, and compile the grammar that the answers must match.

    Raises:
        InvalidRequestError: If a prompt, the tools or a schema cannot be used with the model.
    """
    request = requests[0]
    call_format = _call_format(model.codec, request.tool_use)
    prompts = [await _encode_prompt(model.codec, each) for each in requests]
    prompt_end = _prompt_end(model.codec, request, prompts[0])
    grammar = await _make_grammar(request, model.codec, call_format, prompt_end)
    return EncodedRequest(tuple(requests), model, tuple(prompts), grammar, call_format, prompt_end)


def prepare(encoded: EncodedRequest, engine: Engine, default_max_new_tokens: int) -> PreparedRequest:
    """Build the generation requests.

    Raises:
        InvalidRequestError: If a prompt does not fit the context, or the engine does not support a field.
    """
    request, model = encoded.requests[0], encoded.model
    context = engine.context_tokens(model.name)
    generations = tuple(
        generation
        for each, token_ids in zip(encoded.requests, encoded.prompts, strict=True)
        for generation in _make_generations(
            each,
            model.name,
            token_ids,
            _max_new_tokens(each, len(token_ids), context, default_max_new_tokens),
            encoded.grammar,
        )
    )
    _check_abilities(engine, request, generations[0])
    _check_token_ids(model.codec, request)
    _check_stopping(request, generations[0])
    prompt_tokens = sum(len(token_ids) for token_ids in encoded.prompts)
    texts = tuple(
        each.prompt.text if isinstance(each.prompt, TextPrompt) else None
        for each in encoded.requests
        for _ in range(each.generated_choices)
    )
    return PreparedRequest(
        request, model, generations, texts, encoded.call_format, encoded.prompt_end, prompt_tokens
    )


def _call_format(codec: Codec, use: ToolUse | None) -> CallFormat | None:
    """Return how the model writes tool calls, if the request has tools."""
    if use is None:
        return None
    if not codec.has_tools:
        raise InvalidRequestError(
            "This model does not support tools: its chat template renders none. Leave 'tools' out.",
            param="tools",
            code="unsupported",
        )
    if codec.call_format is None:
        raise InvalidRequestError(
            "This model writes its calls in a format that this server does not support. Leave 'tools' out.",
            param="tools",
            code="unsupported",
        )
    return codec.call_format


def _prompt_end(codec: Codec, request: TextRequest, token_ids: Sequence[int]) -> PromptEnd | None:
    """Return whether the answer may begin with reasoning."""
    tags, shape = codec.reasoning_format, request.shape
    if tags is None or not isinstance(request.prompt, ChatPrompt) or isinstance(shape, GrammarShape):
        return None
    return tags.prompt_end(codec.decode(token_ids[-END_TOKENS:], dict(tags.special)))


async def _make_grammar(
    request: TextRequest, codec: Codec, call_format: CallFormat | None, prompt_end: PromptEnd | None
) -> str | None:
    """Return the grammar that the answer must match; None if it is free.

    Raises:
        InvalidRequestError: If a schema cannot be compiled. The error names its field.
    """
    if request.shape is None and request.tool_use is None:
        return None
    # Rewriting a schema takes a while, too, during which other streams would pause.
    return await asyncio.to_thread(_write_grammar, request, codec, call_format, prompt_end)


def _write_grammar(
    request: TextRequest, codec: Codec, call_format: CallFormat | None, prompt_end: PromptEnd | None
) -> str | None:
    try:
        grammar = _grammar(request, codec, call_format, prompt_end)
        error = None if grammar is None else find_grammar_error(grammar)
    except UnsupportedSchemaError as caught:
        error = str(caught)
    if error is None:
        return grammar
    for param, schema in _schemas(request):
        schema_error = _find_schema_error(schema)
        if schema_error is not None:
            raise _schema_error(param, schema_error)
    raise _schema_error(request.shape.param if request.shape else "tools", error)


def _find_schema_error(schema: Mapping[str, Any]) -> str | None:
    try:
        return find_grammar_error(grammar_of(json_rule(schema)))
    except UnsupportedSchemaError as error:
        return str(error)


def _grammar(
    request: TextRequest, codec: Codec, call_format: CallFormat | None, prompt_end: PromptEnd | None
) -> str | None:
    shape, use = request.shape, request.tool_use
    if isinstance(shape, GrammarShape):
        if use is not None:
            raise UnsupportedSchemaError(
                "a grammar cannot be combined with tools; leave one of them out", "#"
            )
        return shape.lark
    rule: str | None = None
    if call_format is None or use is None:
        rule = shape.rule if shape else None
    elif use.choice == "required":
        rule = call_format.calls_rule(use)
    elif shape is not None:
        rule = f"{shape.rule} | {call_format.calls_rule(use)}"
    elif use.allowed is not None or any(tool.is_strict for tool in use.tools):
        # Its free text may be reasoning.
        return call_format.free_grammar(use)
    if rule is None or prompt_end is None or codec.reasoning_format is None:
        return None if rule is None else grammar_of(rule)
    return codec.reasoning_format.grammar(rule, prompt_end)


def _schemas(request: TextRequest) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the request's schemas with the API fields that they come from."""
    tools: tuple[Tool, ...] = request.tool_use.tools if request.tool_use else ()
    param = request.tool_use.schema_param if request.tool_use else ""
    schemas = [(param.format(index), tool.parameters) for index, tool in enumerate(tools)]
    found = [(param, schema) for param, schema in schemas if schema is not None]
    shape = request.shape
    return [*([(shape.param, shape.schema)] if isinstance(shape, JsonShape) else []), *found]


def _schema_error(param: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"'{param}' cannot be enforced: {reason}.", param=param, code="invalid_schema")


async def _encode_prompt(codec: Codec, request: TextRequest) -> tuple[int, ...]:
    prompt = request.prompt
    match prompt:
        case ChatPrompt(messages):
            options = template_options(codec, prompt)
            tools = request.tool_use.tools if request.tool_use else ()
            _check_unicode(prompt, *(message.content for message in messages))
            if any(message.calls or message.role == "tool" for message in messages) and not codec.has_tools:
                raise InvalidRequestError(
                    "This model's chat template does not support tools, so it cannot render calls and their"
                    " results.",
                    param=prompt.param,
                )
            # Tools are long: each has a schema. Variables of the template may be anything.
            is_long = bool(tools or options.variables)
            size = LONG_PROMPT_CHARACTERS if is_long else sum(map(_size_of, messages))
            try:
                return await _run_encoder(size, lambda: codec.encode_chat(messages, tools, options))
            except InvalidRequestError as error:
                raise InvalidRequestError(error.message, param=prompt.param, code=error.code) from error
        case TextPrompt(text):
            _check_unicode(prompt, text)
            return await _run_encoder(len(text), lambda: codec.encode(text, has_special=prompt.has_special))
        case TokenPrompt(token_ids):
            if any(not 0 <= token < codec.vocabulary_size for token in token_ids):
                raise InvalidRequestError(
                    f"Token ids are from 0 to {codec.vocabulary_size - 1}.", param=prompt.param
                )
            return token_ids


def _size_of(message: Message) -> int:
    """Return about how many characters a message takes in a prompt."""
    calls = sum(len(call.name) + len(call.arguments) for call in message.calls)
    return len(message.role) + len(message.content) + len(message.reasoning or "") + calls


def _check_unicode(prompt: Prompt, *texts: str) -> None:
    """Reject lone surrogates, which JSON can contain and no tokenizer accepts."""
    try:
        for text in texts:
            text.encode()
    except UnicodeEncodeError as error:
        surrogate, position = ord(error.object[error.start]), error.start
        raise InvalidRequestError(
            f"The text contains a lone surrogate, U+{surrogate:04X}, at position {position}.",
            param=prompt.param,
        ) from error


async def _run_encoder(size: int, encode: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """Encode on the event loop, or in a thread if the text is long."""
    return encode() if size < LONG_PROMPT_CHARACTERS else await asyncio.to_thread(encode)


def _max_new_tokens(request: TextRequest, prompt: int, context: int, default: int) -> int:
    """Return how many tokens may be generated after a prompt of `prompt` tokens."""
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
    # An engine generates at least one token; the answer leaves it out if none is wanted.
    return min(default if wanted is None else max(wanted, 1), context - prompt)


def _make_generations(
    request: TextRequest, model: str, token_ids: tuple[int, ...], max_new_tokens: int, grammar: str | None
) -> list[GenerationRequest]:
    """Return a generation request for each choice; they differ in their seeds only."""
    first = GenerationRequest(
        request_id=request.request_id,
        model=model,
        prompt_token_ids=token_ids,
        max_new_tokens=max_new_tokens,
        sampling=request.sampling,
        # The best of several answers are chosen by their log-probabilities.
        top_logprobs=0 if request.top_logprobs is None and request.best_of else request.top_logprobs,
        grammar=grammar,
        stopping=request.stopping,
        prompt_logprobs=_prompt_logprobs(request),
    )
    seed = request.sampling.seed
    if seed is None:
        return [first] * request.generated_choices
    return [
        replace(first, sampling=replace(request.sampling, seed=(seed + index) % SEED_MODULUS))
        for index in range(request.generated_choices)
    ]


def _prompt_logprobs(request: TextRequest) -> int | None:
    """Return how many of the likeliest tokens the engine lists in the place of each of the prompt's."""
    counts = (request.prompt_logprobs, request.top_logprobs if request.echo else None)
    return max((count for count in counts if count is not None), default=None)


def _check_abilities(engine: Engine, request: TextRequest, generation: GenerationRequest) -> None:
    """Reject what the engine does not support. The error names the API field."""
    missing = generation.needs - engine.abilities
    if missing:
        ability = min(missing)
        field = _field_of(ability, request)
        raise InvalidRequestError(
            f"'{field}' is not supported by this server's engine (it lacks: {ability}); leave it out.",
            param=field,
            code="unsupported",
        )


def _field_of(ability: Ability, request: TextRequest) -> str:
    """Return the API field that needs an ability."""
    sampling = request.sampling
    if ability == "penalties":
        penalties = {
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
        }
        return next((name for name, value in penalties.items() if value), "repetition_penalty")
    match ability:
        case "grammar":
            return request.shape.param.partition(".")[0] if request.shape else "tools"
        case "stopping":
            stopping = request.stopping
            return (
                "min_tokens" if stopping.min_tokens
                else "ignore_eos" if stopping.ignore_eos
                else "stop_token_ids"
            )  # fmt: skip
        case "prompt_logprobs":
            return "echo" if request.prompt_logprobs is None else "prompt_logprobs"
        case "logprobs" if request.top_logprobs is None:
            return "best_of"
        case _:
            return ability


def _check_token_ids(codec: Codec, request: TextRequest) -> None:
    named = {
        "logit_bias": [token_id for token_id, _ in request.sampling.logit_bias],
        "stop_token_ids": request.stopping.stop_token_ids,
    }
    for param, token_ids in named.items():
        unknown = [token_id for token_id in token_ids if token_id >= codec.vocabulary_size]
        if unknown:
            raise InvalidRequestError(
                f"'{param}' names the token {unknown[0]}, and token ids are from 0 to"
                f" {codec.vocabulary_size - 1}.",
                param=param,
            )


def _check_stopping(request: TextRequest, generation: GenerationRequest) -> None:
    """Reject a minimum that is above the maximum, and one against a grammar, which ends by itself."""
    stopping = request.stopping
    if stopping.min_tokens > generation.max_new_tokens:
        raise InvalidRequestError(
            f"'min_tokens' is {stopping.min_tokens}, and the answer may have {generation.max_new_tokens}"
            " tokens.",
            param="min_tokens",
        )
    if generation.grammar is not None and (stopping.min_tokens or stopping.ignore_eos):
        param = "min_tokens" if stopping.min_tokens else "ignore_eos"
        raise InvalidRequestError(
            f"'{param}' cannot be combined with {_field_of('grammar', request)!r}, which decides where the"
            " answer ends.",
            param=param,
            code="unsupported",
        )

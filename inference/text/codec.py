"""Codecs: messages and text to token ids, and token ids to text, as a model was trained on them.

`Codec` is the interface; `TokenizerCodec` implements it with a transformers tokenizer and its chat template.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from inference.errors import InvalidRequestError
from inference.text.grammar import SURROGATES
from inference.text.reasoning import THINK_TAGS, ReasoningFormat
from inference.text.tools import CallFormat, Tool, ToolCall, detect_call_format

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RESERVED_VARIABLES: Final = frozenset({
    "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "max_length",
    "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors",
    "sanitize_control_tokens", "tokenize", "tokenizer_kwargs", "tools", "truncation",
})  # fmt: skip
"""The names that are not free for variables of a chat template. Source: `apply_chat_template` of transformers
5.23."""

NO_SPECIAL_TOKENS: Final[Mapping[int, str]] = MappingProxyType({})
SENTENCE_PIECE_SPACE: Final = "\u2581"
"""The character that stands for a space in SentencePiece vocabularies."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        calls: The calls in an assistant's message.
        call_id: The id of the call whose result a tool's message is.
        name: The name of who wrote it, or of the function whose result it is; not every template uses it.
        reasoning: What an assistant reasoned before its message; not every template uses it.
    """

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """How a chat template is rendered.

    Attributes:
        is_answer_next: The prompt ends with the beginning of an answer.
        continues_last: The answer continues the last message; then `is_answer_next` is false.
        has_special: The tokenizer's special tokens are added, which most templates write themselves.
        variables: Further variables of the template.
    """

    is_answer_next: bool = True
    continues_last: bool = False
    has_special: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Token:
    """One token by itself.

    Attributes:
        text: Its text, or its bytes in OpenAI's notation if they are not whole characters.
        data: The bytes that it adds to a text, in UTF-8; None for a special token, which adds none.
    """

    text: str
    data: bytes | None

    @classmethod
    def from_bytes(cls, data: bytes) -> Token:
        """Return the token that stands for some bytes."""
        try:
            return cls(data.decode(), data)
        except UnicodeDecodeError:
            return cls("bytes:" + "".join(f"\\x{byte:02x}" for byte in data), data)


class Codec(Protocol):
    """The translation between text and one model's tokens."""

    @property
    def vocabulary_size(self) -> int:
        """Return the number of token ids; each id is below it."""
        ...

    def encode(self, text: str, *, has_special: bool = True) -> tuple[int, ...]:
        """Return the tokens of plain text.

        Args:
            text: The text.
            has_special: Add the model's special tokens around it, such as one for the beginning.
        """
        ...

    @property
    def template_variables(self) -> frozenset[str] | None:
        """Return the variables that the model's chat template reads; None if the model has no template."""
        ...

    @property
    def reasoning_format(self) -> ReasoningFormat | None:
        """Return how the model writes its reasoning; None if it does not reason."""
        ...

    @property
    def has_tools(self) -> bool:
        """Return whether the model's chat template supports tools."""
        ...

    @property
    def call_format(self) -> CallFormat | None:
        """Return the format of the model's calls; None without tools, or if it is not supported."""
        ...

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        options: TemplateOptions = TemplateOptions(),
    ) -> tuple[int, ...]:
        """Return the tokens of a conversation, up to where the answer begins.

        Raises:
            InvalidRequestError: If the model's chat template rejects the conversation.
        """
        ...

    def decode(self, token_ids: Sequence[int], kept: Mapping[int, str] = NO_SPECIAL_TOKENS) -> str:
        """Return the text of tokens. Incomplete characters become U+FFFD.

        Args:
            token_ids: The tokens.
            kept: The special tokens that are not left out, with their texts.
        """
        ...

    def token(self, token_id: int) -> Token:
        """Return one token by itself."""
        ...


class TokenizerCodec:
    """A codec that uses a transformers tokenizer.

    Args:
        tokenizer: A fast tokenizer.
        prompt_template: Text with one `{}`, in which the last user message is inserted to make the prompt.
            Models with such a template were trained on single turns, so the rest of the conversation is
            left out.
    """

    def __init__(self, tokenizer: Any, prompt_template: str | None = None) -> None:  # noqa: ANN401 - has no useful type
        self._tokenizer = tokenizer
        self._prompt_template = prompt_template

    @property
    def vocabulary_size(self) -> int:
        """Return the tokenizer's size, added tokens included."""
        return len(self._tokenizer)

    def encode(self, text: str, *, has_special: bool = True) -> tuple[int, ...]:
        """Encode with the tokenizer's special tokens around the text, or without."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=has_special))

    @cached_property
    def template_variables(self) -> frozenset[str] | None:
        """Return the variables that the template reads and does not set itself."""
        from jinja2 import TemplateSyntaxError, meta  # noqa: PLC0415 - slow to import; transformers imports it when it renders
        from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415 - see above

        if self._template is None:
            return None
        environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
        try:
            return frozenset(meta.find_undeclared_variables(environment.parse(self._template)))
        except TemplateSyntaxError:  # such as a tag of transformers' own
            return frozenset()

    @cached_property
    def reasoning_format(self) -> ReasoningFormat | None:
        """Return the tags of the reasoning, if the template has them."""
        start_tag, end_tag = THINK_TAGS
        if self._template is None or start_tag not in self._template or end_tag not in self._template:
            return None
        return ReasoningFormat(start_tag, end_tag, self._special(THINK_TAGS))

    @property
    def _template(self) -> str | None:
        """Return the chat template; None if it is not used."""
        template = None if self._prompt_template is not None else self._tokenizer.chat_template
        return template if isinstance(template, str) else None

    @property
    def has_tools(self) -> bool:
        """Return whether the template renders differently with tools."""
        return self._tools[0]

    @property
    def call_format(self) -> CallFormat | None:
        """Return the format in which the template itself writes calls."""
        return self._tools[1]

    def encode_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        options: TemplateOptions = TemplateOptions(),
    ) -> tuple[int, ...]:
        """Encode with the prompt template, else with the chat template, else the message alone."""
        if self._prompt_template is not None:
            return self.encode(self._prompt_template.replace("{}", _last_user_content(messages)))
        if self._tokenizer.chat_template is None:
            return self.encode(_only_content(messages))
        text = self._render(messages, tools, options)
        return tuple(self._tokenizer.encode(text, add_special_tokens=options.has_special))

    def decode(self, token_ids: Sequence[int], kept: Mapping[int, str] = NO_SPECIAL_TOKENS) -> str:
        """Decode without cleaning up spaces."""
        if kept and not kept.keys().isdisjoint(token_ids):
            return self._decode_around(token_ids, kept)
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def token(self, token_id: int) -> Token:
        """Return one token by itself, as it would be within a text."""
        return self._token_of(token_id)

    @cached_property
    def _tools(self) -> tuple[bool, CallFormat | None]:
        """Return whether there are tools, and the format of calls, both found by rendering the template."""
        if self._prompt_template is not None or self._tokenizer.chat_template is None:
            return False, None
        asked, tools = [Message("user", "probe")], [PROBE]
        try:
            if self._render(asked) == self._render(asked, tools):
                return False, None
            whole = TemplateOptions(is_answer_next=False)
            before = self._render(asked, tools, whole)
            after = self._render([*asked, Message("assistant", "", (PROBE_CALL,))], tools, whole)
        except InvalidRequestError:
            return False, None
        # Both begin with the functions' descriptions, which may look like calls.
        same = sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))
        )
        call_format = detect_call_format(after[same:], PROBE.name)
        return True, None if call_format is None else replace(
            call_format, special=self._special((call_format.start_tag, call_format.end_tag))
        )

    @cached_property
    def _token_of(self) -> Callable[[int], Token]:
        return cache(_make_token_reader(self._tokenizer))

    def _special(self, texts: Sequence[str]) -> tuple[tuple[int, str], ...]:
        added = self._tokenizer.added_tokens_decoder.items()
        return tuple(
            (number, token.content) for number, token in added if token.special and token.content in texts
        )

    def _decode_around(self, token_ids: Sequence[int], kept: Mapping[int, str]) -> str:
        text, run = "", list[int]()
        for token_id in token_ids:
            if token_id in kept:
                text += (self.decode(run) if run else "") + kept[token_id]
                run = []
            else:
                run.append(token_id)
        return text + (self.decode(run) if run else "")

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        options: TemplateOptions = TemplateOptions(),
    ) -> str:
        names = {call.id: call.name for message in messages for call in message.calls if call.id}
        try:
            text: str = self._tokenizer.apply_chat_template(
                [_to_template_message(message, names) for message in messages],
                tools=[tool.to_json() for tool in tools] or None,
                tokenize=False,
                add_generation_prompt=options.is_answer_next,
                continue_final_message=options.continues_last,
                **options.variables,
            )
        except Exception as error:
            # A template is a program that came with the model, and may fail in any way.
            raise InvalidRequestError(
                f"The model's chat template rejects this conversation: {error}", param="messages"
            ) from error
        if SURROGATES.search(text):
            # The messages' contents have been checked before, so it is in the names, the calls or the tools.
            raise InvalidRequestError(
                "A name, a call or a tool contains a lone surrogate, which no tokenizer accepts.",
                param="messages",
            )
        return text


PROBE: Final = Tool(
    "probe_function", "A probe.", {"type": "object", "properties": {"key": {"type": "string"}}}
)
PROBE_CALL: Final = ToolCall("probe1234", PROBE.name, '{"key": "value"}')
"""Mistral's templates require ids of nine letters or digits."""


def _to_template_message(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    """Return a message as chat templates expect it. `names` maps the calls' ids to function names."""
    document: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        document["tool_calls"] = [call.to_json() for call in message.calls]
    if message.call_id is not None:
        document["tool_call_id"] = message.call_id
    if message.reasoning is not None:
        document["reasoning_content"] = message.reasoning
    name = message.name or names.get(message.call_id or "")
    return document if name is None else {**document, "name": name}


def _make_token_reader(tokenizer: Any) -> Callable[[int], Token]:  # noqa: ANN401 - has no useful type
    """Return a function from token ids to tokens, for the kind of decoder that the tokenizer has."""
    added = tokenizer.added_tokens_decoder
    kinds = _decoder_kinds(tokenizer.backend_tokenizer.decoder)
    byte_of = _byte_alphabet()

    def read(token_id: int) -> Token:
        if token_id in added:
            content = added[token_id].content
            return Token(content, None) if added[token_id].special else Token.from_bytes(content.encode())
        piece = tokenizer.convert_ids_to_tokens(token_id)
        if piece is None:  # the model's vocabulary is larger than the tokenizer's
            return Token("", None)
        if "ByteLevel" in kinds and all(character in byte_of for character in piece):
            return Token.from_bytes(bytes(byte_of[character] for character in piece))
        if "ByteFallback" in kinds and len(piece) == len("<0x00>") and piece.startswith("<0x"):
            return Token.from_bytes(bytes.fromhex(piece[3:5]))
        return Token.from_bytes(
            (piece.replace(SENTENCE_PIECE_SPACE, " ") if kinds & SENTENCE_PIECE_DECODERS else piece).encode()
        )

    return read


SENTENCE_PIECE_DECODERS: Final = frozenset({"Metaspace", "Replace"})


def _decoder_kinds(decoder: Any) -> frozenset[str]:  # noqa: ANN401 - has no useful type
    """Return the kinds of a decoder and of its parts."""
    if decoder is None:
        return frozenset()
    document = json.loads(decoder.__getstate__())
    return frozenset(part["type"] for part in (document, *document.get("decoders", ())))


def _byte_alphabet() -> dict[str, int]:
    """Return the bytes by the characters that stand for them in byte-level vocabularies.

    Printable bytes stand for themselves; the others, in order, are the characters from 256 on.

    Source: GPT-2, `encoder.py`; every byte-level BPE uses the same mapping.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {
        chr(256 + index): byte for index, byte in enumerate(others)
    }


def _last_user_content(messages: Sequence[Message]) -> str:
    for message in reversed(messages):
        if message.role == "user":
            return message.content
    raise InvalidRequestError("This model answers a user's message, and there is none.", param="messages")


def _only_content(messages: Sequence[Message]) -> str:
    if len(messages) != 1 or messages[0].role != "user":
        raise InvalidRequestError(
            "This model has no chat template, so it takes a single user message; for more, write the prompt"
            " yourself and use /v1/completions.",
            param="messages",
        )
    return messages[0].content

"""Tool calls: the formats in which models write them, a parser for each, and grammars that enforce one.

Each model is trained on one of a few formats. Which one is detected from its chat template, by rendering a
call. A format is a `CallFormat`; `CallParser` parses all of them. Text that looks like a call but is not
valid JSON, or names a function that is not among the tools, is emitted as text.

Source: the chat templates of Hermes 2 Pro and Qwen 2.5 and 3 (`<tool_call>`), of Llama 3.1 and 3.2 (bare JSON
with `parameters`), and of Mistral 7B v0.3 and Nemo (`[TOOL_CALLS]`).
"""

from __future__ import annotations

import json
import re
import secrets
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from inference.text.detokenizer import longest_partial_match
from inference.text.grammar import ANY_OBJECT, json_rule, text_rule

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_FORCED_CALLS: Final = 8
"""The most calls in an answer that is forced to call: small models may never stop by themselves."""

WHITESPACE: Final = string.whitespace
ID_CHARACTERS: Final = string.ascii_letters + string.digits
NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes:
        parameters: The JSON Schema of its arguments; None if it has none.
        is_strict: Whether the arguments of every call are forced to follow the schema.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    is_strict: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the function in the form that chat templates expect."""
        about = {} if self.description is None else {"description": self.description}
        function = {"name": self.name, **about, "parameters": dict(self.parameters or NO_PARAMETERS)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function.

    Attributes:
        id: Empty if a call of the history has none.
        arguments: A JSON object, as text; in a history possibly any text.
    """

    id: str
    name: str
    arguments: str

    def to_json(self) -> dict[str, Any]:
        """Return the call in the form that chat templates expect: with its arguments as an object."""
        arguments = _load_object(self.arguments)
        function = {"name": self.name, "arguments": self.arguments if arguments is None else arguments}
        return {**({"id": self.id} if self.id else {}), "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A request's tools, and whether the model has to call one.

    Attributes:
        choice: With `auto` the model may call; with `required` it must.
        only: The one function to call, once; with `required`.
        allowed: The functions that may be called; None for all of them.
        is_parallel: Whether an answer may have more than one call.
        schema_param: The API field of a tool's schema, for error messages, with `{}` for its index.
    """

    tools: tuple[Tool, ...]
    choice: Literal["auto", "required"] = "auto"
    only: str | None = None
    allowed: frozenset[str] | None = None
    is_parallel: bool = True
    schema_param: str = "tools[{}].function.parameters"

    @property
    def names(self) -> frozenset[str]:
        """Return the names of the functions that may be called."""
        return frozenset(tool.name for tool in self.callable_tools)

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """Return the functions that may be called."""
        return tuple(
            tool
            for tool in self.tools
            if self.only in {None, tool.name} and (self.allowed is None or tool.name in self.allowed)
        )


@dataclass(frozen=True, slots=True)
class CallFormat:
    """The format of a model's tool calls: groups of a start tag, an opening, JSON objects and an end tag.

    Attributes:
        start_tag: What begins a group of calls; empty if an answer that begins with `{` is one.
        opening: What follows the start tag, before the first object.
        separators: The characters that may separate objects.
        end_tag: What ends the group; empty if nothing does.
        arguments_key: The key of the arguments in each object; the function's key is `name`.
        line_break: What grammars put around a group's content and between groups.
        id_length: The length of the calls' ids, which a template may check.
        special: The tags that are special tokens: pairs of token id and text.
    """

    start_tag: str
    opening: str
    separators: str
    end_tag: str
    arguments_key: str = "arguments"
    line_break: str = ""
    id_length: int = 24
    special: tuple[tuple[int, str], ...] = ()

    def is_in(self, rendered: str, name: str) -> bool:
        """Return whether a rendered call of a function has this format."""
        parts = [self.start_tag, self.opening, "{", '"name":', f'"{name}",', f'"{self.arguments_key}":', "{"]
        pattern = r"\s*".join(re.escape(part) for part in parts if part)
        return re.search(pattern, rendered) is not None

    def make_id(self) -> str:
        """Return a new id for a call."""
        return "".join(secrets.choice(ID_CHARACTERS) for _ in range(self.id_length))

    def calls_rule(self, use: ToolUse) -> str:
        """Return the grammar rule of an answer that consists of calls only."""
        more = MAX_FORCED_CALLS - 1 if use.is_parallel and use.only is None else 0
        objects = " | ".join(self._object_rule(tool) for tool in use.callable_tools)
        group = f"{self._tag_rule(self.start_tag)} {self._body_rule(objects, more)}"
        if not more or not self.end_tag or self.separators:
            return group
        between = text_rule(self.line_break) if self.line_break else ""
        return f"{group} ({between} {group}){{0,{more}}}"

    def free_grammar(self, use: ToolUse) -> str:
        """Return the grammar of an answer that may call, with valid arguments for strict functions."""
        objects = " | ".join(
            self._object_rule(tool if tool.is_strict else Tool(tool.name, parameters=ANY_OBJECT))
            for tool in use.callable_tools
        )
        body = self._body_rule(objects, MAX_FORCED_CALLS - 1)
        if not self.start_tag:
            return f"start: {body} | TEXT\nTEXT: /\\s*([^{{\\s](.|\\n)*)?/"
        if self.start_tag in dict(self.special).values():
            return f"start: TEXT ({self._tag_rule(self.start_tag)} {body} TEXT)*\nTEXT: /(.|\\n)*/"
        tag = re.escape(self.start_tag).replace("/", "\\/")
        return f"start: (head {body})* TEXT\nhead[lazy]: /(.|\\n)*{tag}/\nTEXT: /(.|\\n)*/"

    def _body_rule(self, objects: str, more: int) -> str:
        """Return the rule of what follows a start tag, up to the end of the group."""
        begin, end = self.line_break + self.opening, self._tag_rule(self.end_tag)
        parts = [text_rule(begin) if begin else "", f"({objects})"]
        if self.separators and self.end_tag and more:
            parts.append(f"({text_rule(self.separators[0] + ' ')} ({objects})){{0,{more}}}")
        parts += [text_rule(self.line_break) if self.line_break else "", end]
        return " ".join(part for part in parts if part)

    def _tag_rule(self, tag: str) -> str:
        """Return a tag's rule. A special token cannot be matched as text; it is referred to by its id."""
        ids = [token_id for token_id, text in self.special if text == tag]
        return f"<[{ids[0]}]>" if ids else text_rule(tag) if tag else ""

    def _object_rule(self, tool: Tool) -> str:
        head = text_rule(f'{{"name": {json.dumps(tool.name)}, "{self.arguments_key}": ')
        # A schema without a type would allow arguments that are a number.
        schema = {**ANY_OBJECT, **(tool.parameters or NO_PARAMETERS)}
        return f"{head} {json_rule(schema)} {text_rule('}')}"


HERMES: Final = CallFormat("<tool_call>", "", "", "</tool_call>", line_break="\n")
MISTRAL: Final = CallFormat("[TOOL_CALLS]", "[", ",", "]", id_length=9)
LLAMA: Final = CallFormat("", "", ";,", "", arguments_key="parameters")
FORMATS: Final = (HERMES, MISTRAL, LLAMA)


def detect_call_format(rendered: str, name: str) -> CallFormat | None:
    """Return the format of a call that a template rendered; None if it is not supported."""
    return next((each for each in FORMATS if each.is_in(rendered, name)), None)


@dataclass(frozen=True, slots=True)
class ParserOutput:
    """What the parser made of a piece of text: text to emit, and calls."""

    text: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(slots=True)
class _ObjectScanner:
    """An incremental search for the end of a JSON object. It reads each character once."""

    position: int = 0
    depth: int = 0
    is_in_string: bool = False
    is_escaped: bool = False

    def find_end(self, text: str) -> int | None:
        """Return the index after the object that the text begins with; None if it is incomplete."""
        while self.position < len(text):
            character = text[self.position]
            self.position += 1
            if self.is_in_string:
                self._read_in_string(character)
            elif character == '"':
                self.is_in_string = True
            elif character in "{[":
                self.depth += 1
            elif character in "}]":
                self.depth -= 1
                if self.depth <= 0:
                    return self.position
        return None

    def _read_in_string(self, character: str) -> None:
        if self.is_escaped:
            self.is_escaped = False
        elif character == "\\":
            self.is_escaped = True
        elif character == '"':
            self.is_in_string = False


def _load_object(text: str) -> dict[str, Any] | None:
    """Return a JSON object; None if the text is anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _dump(arguments: dict[str, Any]) -> str:
    """Return arguments as JSON, without escapes unless they contain a lone surrogate."""
    text = json.dumps(arguments, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(arguments)
    return text


@dataclass(slots=True)
class CallParser:
    """A streaming parser that separates calls from text.

    Text is emitted as it arrives. Only what may begin a start tag, and the inside of a call, is held back.

    Args:
        call_format: The format of the calls.
        names: The names of the tools.
        is_forced: Whether a grammar makes the answer consist of calls only.

    Attributes:
        emitted: The number of characters emitted before the first call.
    """

    call_format: CallFormat
    names: Collection[str]
    is_forced: bool = False
    emitted: int = 0
    _state: Literal["text", "before", "object", "after"] = "text"
    _held: str = ""
    _raw: str = ""
    _is_at_start: bool = True
    _has_called: bool = False
    _scanner: _ObjectScanner = field(default_factory=_ObjectScanner)
    _calls: list[ToolCall] = field(default_factory=list)

    def push(self, text: str) -> ParserOutput:
        """Add text and return what is complete now."""
        self._held += text
        emitted, piece = "", self._step()
        while piece is not None:
            self._count(piece)
            emitted, piece = emitted + piece, self._step()
        return self._output(emitted)

    def finish(self, *, is_cut: bool = False) -> ParserOutput:
        """Return what was held back; no text follows.

        Args:
            is_cut: Whether the length limit ended the answer, so that a call may be incomplete. A call of
                which the name and some of the arguments are known is returned with those, as OpenAI's API
                does, and its tags and the rest are never text.
        """
        rest = self._raw + self._held
        has_cut_call = is_cut and self._state == "object" and self._read_cut_call(self._held)
        if has_cut_call or self._is_in_tagged_call(is_cut=is_cut):
            rest = ""
        self._raw = self._held = ""
        if self._state == "after" and self.call_format.end_tag.startswith(
            rest.strip(WHITESPACE + self.call_format.separators)
        ):
            rest = ""
        self._count(rest)
        return self._output(rest if rest.strip() or not self._has_called else "")

    def _count(self, text: str) -> None:
        self.emitted += 0 if self._has_called else len(text)

    def _output(self, text: str) -> ParserOutput:
        calls, self._calls = tuple(self._calls), []
        return ParserOutput(text, calls)

    def _step(self) -> str | None:
        """Advance by one step and return text to emit; None if more text is needed."""
        match self._state:
            case "text":
                return self._find_start_tag() if self.call_format.start_tag else self._check_start()
            case "before":
                return self._find_object()
            case "object":
                return self._read_object()
            case "after":
                return self._read_after_call()

    def _find_start_tag(self) -> str | None:
        """Return the text up to a start tag. Whitespace between calls is dropped."""
        tag = self.call_format.start_tag
        index = self._held.find(tag)
        if index >= 0:
            text = self._take(index)
            self._begin_group(self._take(len(tag)))
            return text if text.strip() or not self._has_called else ""
        end = len(self._held) - longest_partial_match(self._held, (tag,))
        if end == 0 or (self._has_called and not self._held[:end].strip()):
            return None
        return self._take(end)

    def _check_start(self) -> str | None:
        """Treat an answer that begins with a brace as a call, and any other as text."""
        if not self._held.strip() and self._is_at_start:
            return None
        if self._is_at_start and self._held.lstrip().startswith("{"):
            self._begin_group("")
            return ""
        self._is_at_start = False
        return self._take(len(self._held)) or None

    def _begin_group(self, raw: str) -> None:
        self._raw = raw
        self._is_at_start = False
        self._state = "before"

    def _find_object(self) -> str | None:
        """Find the brace that opens a group's first object; anything else is text."""
        opening = self.call_format.opening
        rest = self._held.lstrip()
        if opening and rest.startswith(opening):
            rest = rest[len(opening) :].lstrip()
        elif opening and rest:
            return self._emit_as_text()
        if not rest:
            return None
        if not rest.startswith("{"):
            return self._emit_as_text()
        self._raw += self._take(len(self._held) - len(rest))
        self._state, self._scanner = "object", _ObjectScanner()
        return ""

    def _read_object(self) -> str | None:
        end = self._scanner.find_end(self._held)
        if end is None:
            return None
        call = self._read_call(self._held[:end])
        if call is None:
            return self._emit_as_text()
        self._take(end)
        self._calls.append(call)
        self._raw, self._has_called, self._state = "", True, "after"
        return ""

    def _read_call(self, text: str) -> ToolCall | None:
        found = _load_object(text)
        if found is None:
            return None
        name, arguments = found.get("name"), found.get(self.call_format.arguments_key, {})
        if not isinstance(name, str) or name not in self.names or not isinstance(arguments, dict):
            return None
        return ToolCall(self.call_format.make_id(), name, _dump(arguments))

    def _read_cut_call(self, text: str) -> bool:
        """Add the call whose beginning is known, and return whether it is enough to be one."""
        key = re.escape(self.call_format.arguments_key)
        head = re.match(rf'\{{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"{key}"\s*:\s*(?=\{{)', text)
        if head is None or head[1] not in self.names:
            return False
        arguments = text[head.end() :]
        end = _ObjectScanner().find_end(arguments)
        found = _load_object(arguments[:end])
        self._calls.append(
            ToolCall(self.call_format.make_id(), head[1], arguments if found is None else _dump(found))
        )
        self._has_called = True
        return True

    def _is_in_tagged_call(self, *, is_cut: bool) -> bool:
        """Return whether what is held back is the beginning of a call and nothing else."""
        if self.is_forced:
            return True
        return is_cut and self._state in {"before", "object"} and bool(self.call_format.start_tag)

    def _read_after_call(self) -> str | None:
        """Find the group's next object, or its end."""
        rest = self._held.lstrip()
        end_tag = self.call_format.end_tag
        if end_tag and rest.startswith(end_tag):
            self._take(len(self._held) - len(rest) + len(end_tag))
            self._state = "text"
            return ""
        if not rest or end_tag.startswith(rest):
            return None
        is_separated = rest[0] in self.call_format.separators
        after = rest[1:].lstrip() if is_separated else rest
        if not after:
            return None
        self._take(len(self._held) - len(after))
        if after.startswith("{") and (is_separated or not end_tag):
            self._state, self._scanner = "object", _ObjectScanner()
        else:
            self._state = "text"
        return ""

    def _emit_as_text(self) -> str:
        """Return what looked like a call as text: what was read of it, or else its first character."""
        text, self._raw, self._state = self._raw, "", "text"
        return text or self._take(1)

    def _take(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text

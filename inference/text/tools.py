"""Let a model call functions: say how it writes its calls, read them out of its text, make it write one.

Models are trained on one of a few forms, and the chat template shows which: it is asked to render a call, and
what comes out is recognised. A form is a `CallFormat`; `CallParser` reads all of them. What looks like a call
and is none, being no JSON or naming no function that was offered, stays in the text: nothing is lost.

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
"""How many calls an answer that must call may have: small models do not know when to stop."""

WHITESPACE: Final = string.whitespace
ID_CHARACTERS: Final = string.ascii_letters + string.digits
NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """Describe a function that the model may call.

    Attributes:
        parameters: A JSON Schema of its arguments; None if it has none.
        is_strict: Whether arguments must follow the schema wherever the model calls.
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    is_strict: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the function in the form that chat templates take."""
        about = {} if self.description is None else {"description": self.description}
        function = {"name": self.name, **about, "parameters": dict(self.parameters or NO_PARAMETERS)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Be one call.

    Attributes:
        arguments: A JSON object, as text.
    """

    id: str
    name: str
    arguments: str

    def to_json(self) -> dict[str, Any]:
        """Return the call in the form that chat templates take: the arguments are an object."""
        function = {"name": self.name, "arguments": json.loads(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Say which functions there are, and whether the model is free to call.

    Attributes:
        choice: `auto` leaves it free; `required` makes it call.
        only: The one function that it must call, once; with `required`.
        is_parallel: Whether an answer may have more than one call.
    """

    tools: tuple[Tool, ...]
    choice: Literal["auto", "required"] = "auto"
    only: str | None = None
    is_parallel: bool = True

    @property
    def names(self) -> frozenset[str]:
        """Return the functions' names."""
        return frozenset(tool.name for tool in self.tools)


@dataclass(frozen=True, slots=True)
class CallFormat:
    """Say how a model writes its calls: a mark, an opening, objects with separators between, a closing.

    Attributes:
        mark: What a group of calls begins with; empty if the answer's first character tells.
        opening: What stands between the mark and the first object.
        separators: The characters, any of which may stand between objects.
        closing: What ends the group; empty if nothing does.
        arguments_key: The object's key, beside `name`.
        line: What stands before and after the group's content, and between groups, when it is written down.
        id_length: How long the ids of calls are; the template may insist.
        special: Marks that are special tokens: pairs of token id and text.
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
        """Make a call's id."""
        return "".join(secrets.choice(ID_CHARACTERS) for _ in range(self.id_length))

    def calls_rule(self, use: ToolUse) -> str:
        """Return the grammar's rule of an answer that calls, and says nothing else."""
        tools = [tool for tool in use.tools if use.only in {None, tool.name}]
        more = MAX_FORCED_CALLS - 1 if use.is_parallel and use.only is None else 0
        objects = " | ".join(self._object_rule(tool) for tool in tools)
        group = f"{self._tag_rule(self.start_tag)} {self._body_rule(objects, more)}"
        if not more or not self.end_tag or self.separators:
            return group
        between = text_rule(self.line_break) if self.line_break else ""
        return f"{group} ({between} {group}){{0,{more}}}"

    def free_grammar(self, use: ToolUse) -> str:
        """Return the grammar of an answer that may call, and whose calls of strict functions are right."""
        objects = " | ".join(
            self._object_rule(tool if tool.is_strict else Tool(tool.name, parameters=ANY_OBJECT))
            for tool in use.tools
        )
        body = self._body_rule(objects, MAX_FORCED_CALLS - 1)
        if not self.start_tag:
            return f"start: {body} | TEXT\nTEXT: /\\s*([^{{\\s](.|\\n)*)?/"
        if self.start_tag in dict(self.special).values():
            return f"start: TEXT ({self._tag_rule(self.start_tag)} {body} TEXT)*\nTEXT: /(.|\\n)*/"
        tag = re.escape(self.start_tag).replace("/", "\\/")
        return f"start: (head {body})* TEXT\nhead[lazy]: /(.|\\n)*{tag}/\nTEXT: /(.|\\n)*/"

    def _body_rule(self, objects: str, more: int) -> str:
        """Return the rule of what follows a mark, up to the end of its group."""
        begin, end = self.line_break + self.opening, self._tag_rule(self.end_tag)
        parts = [text_rule(begin) if begin else "", f"({objects})"]
        if self.separators and self.end_tag and more:
            parts.append(f"({text_rule(self.separators[0] + ' ')} ({objects})){{0,{more}}}")
        parts += [text_rule(self.line_break) if self.line_break else "", end]
        return " ".join(part for part in parts if part)

    def _tag_rule(self, tag: str) -> str:
        """Return a mark's rule: a special token is no text, and has to be named by its number."""
        ids = [token_id for token_id, text in self.special if text == tag]
        return f"<[{ids[0]}]>" if ids else text_rule(tag) if tag else ""

    def _object_rule(self, tool: Tool) -> str:
        head = text_rule(f'{{"name": {json.dumps(tool.name)}, "{self.arguments_key}": ')
        # A schema that says nothing of the type would let arguments be a number.
        schema = {**ANY_OBJECT, **(tool.parameters or NO_PARAMETERS)}
        return f"{head} {json_rule(schema)} {text_rule('}')}"


HERMES: Final = CallFormat("<tool_call>", "", "", "</tool_call>", line_break="\n")
MISTRAL: Final = CallFormat("[TOOL_CALLS]", "[", ",", "]", id_length=9)
LLAMA: Final = CallFormat("", "", ";,", "", arguments_key="parameters")
FORMATS: Final = (HERMES, MISTRAL, LLAMA)


def detect_call_format(rendered: str, name: str) -> CallFormat | None:
    """Return the format of a call that a template rendered; None if it is none of those known here."""
    return next((each for each in FORMATS if each.is_in(rendered, name)), None)


@dataclass(frozen=True, slots=True)
class ParserOutput:
    """Hold what a piece of an answer comes to: text to show, and calls."""

    text: str
    calls: tuple[ToolCall, ...] = ()


@dataclass(slots=True)
class _ObjectScanner:
    """Find where a JSON object ends, without reading any character twice."""

    position: int = 0
    depth: int = 0
    is_in_string: bool = False
    is_escaped: bool = False

    def find_end(self, text: str) -> int | None:
        """Return the index behind the object that the text begins with; None if it is not complete."""
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


def _write(arguments: dict[str, Any]) -> str:
    """Write arguments down as a model does, without escapes, unless there is half a character among them."""
    text = json.dumps(arguments, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(arguments)
    return text


@dataclass(slots=True)
class CallParser:
    """Read calls out of a text that comes piece by piece.

    Text passes as it comes; held back is only what may be the beginning of a mark, and what is in a call.

    Args:
        call_format: How the model writes its calls.
        names: The functions that there are.

    Attributes:
        shown: How many characters were shown before the first call.
    """

    call_format: CallFormat
    names: Collection[str]
    shown: int = 0
    _state: Literal["text", "before", "object", "after"] = "text"
    _held: str = ""
    _raw: str = ""
    _is_at_start: bool = True
    _has_called: bool = False
    _scanner: _ObjectScanner = field(default_factory=_ObjectScanner)
    _calls: list[ToolCall] = field(default_factory=list)

    def push(self, text: str) -> ParserOutput:
        """Add text and return what is certain now."""
        self._held += text
        shown, piece = "", self._step()
        while piece is not None:
            self._count(piece)
            shown, piece = shown + piece, self._step()
        return self._output(shown)

    def finish(self) -> ParserOutput:
        """Return what was held back, since nothing follows."""
        rest = self._raw + self._held
        self._raw = self._held = ""
        if self._state == "after" and self.call_format.end_tag.startswith(
            rest.strip(WHITESPACE + self.call_format.separators)
        ):
            rest = ""
        self._count(rest)
        return self._output(rest if rest.strip() or not self._has_called else "")

    def _count(self, text: str) -> None:
        self.shown += 0 if self._has_called else len(text)

    def _output(self, text: str) -> ParserOutput:
        calls, self._calls = tuple(self._calls), []
        return ParserOutput(text, calls)

    def _step(self) -> str | None:
        """Go on by one step; return text to show, or None if there is nothing to do without more text."""
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
        """Pass text up to the mark. Between calls, whitespace is nobody's text."""
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
        """Take an answer whose first character is a brace for a call, and any other for text."""
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
        """Find the brace that opens a group's first object, or show the text, if there is something else."""
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
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        name, arguments = found.get("name"), found.get(self.call_format.arguments_key, {})
        if not isinstance(name, str) or name not in self.names or not isinstance(arguments, dict):
            return None
        return ToolCall(self.call_format.make_id(), name, _write(arguments))

    def _read_after_call(self) -> str | None:
        """Go to the group's next object, or out of it."""
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
        """Show what looked like a call: at least its first character is none's."""
        text, self._raw, self._state = self._raw, "", "text"
        return text or self._take(1)

    def _take(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text

"""A reader of JSON with the extensions that templates use: comments, multi-line strings, unquoted keys.

``az`` sends a template's file unchanged, under an unquoted key ``template``, so comments and multi-line
strings reach Azure. This reader accepts the same extensions, and no others.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from localcloud.errors import AzureError
from localcloud.template.values import Located

_SPACE: Final = re.compile(r"(?:\s+|//[^\r\n]*|/\*.*?\*/)*", re.DOTALL)
_TEXT: Final = re.compile(r""""((?:[^"\\]|\\.)*)"|\'((?:[^\'\\]|\\.)*)\'""", re.DOTALL)
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_NAME: Final = re.compile(r"[A-Za-z_$][\w$]*")
_CONSTANTS: Final = {"true": True, "false": False, "null": None}


def load_template(text: str) -> dict[str, Any]:
    """Read a template. Its objects have their line and column.

    Raises:
        AzureError: 400 `InvalidRequestContent`, if it is not a JSON object.
    """
    return _Reader(text).document()


def load_deployment_body(text: str) -> dict[str, Any]:
    """Read a request body that contains a template, under a key that may be unquoted.

    Raises:
        AzureError: 400 `InvalidRequestContent`, if it is not a JSON object.
    """
    return _Reader(text).document()


def load_json(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """Read any JSON value, for the function `json`.

    Raises:
        AzureError: 400 `InvalidRequestContent`, if it is not JSON.
    """
    reader = _Reader(text)
    value = reader.value()
    reader.expect_end()
    return value


class _Reader:
    """A single pass over a text."""

    def __init__(self, text: str) -> None:
        self.text = text.removeprefix("\ufeff")
        self.at = 0

    def document(self) -> dict[str, Any]:
        value = self.value()
        self.expect_end()
        if not isinstance(value, dict):
            raise self.invalid("A JSON object was expected.")
        return value

    def expect_end(self) -> None:
        self.skip()
        if self.at < len(self.text):
            raise self.invalid("Additional text found after the end of the document.")

    def value(self) -> Any:  # noqa: ANN401 - any JSON value
        self.skip()
        match self.text[self.at : self.at + 1]:
            case "{":
                return self.object()
            case "[":
                return self.array()
            case '"' | "'":
                return self.string()
            case _:
                return self.scalar()

    def object(self) -> Located:
        found = Located(*self.position())
        self.at += 1
        while not self.accept("}"):
            key = self.key()
            if not self.accept(":"):
                raise self.invalid("':' was expected after a property name.")
            found[key] = self.value()
            line, column = self.position()
            found.ends[key] = line, column - 1
            if not self.accept(",") and self.peek() != "}":
                raise self.invalid("',' or '}' was expected after a property.")
        return found

    def array(self) -> list[Any]:
        self.at += 1
        found = []
        while not self.accept("]"):
            found.append(self.value())
            if not self.accept(",") and self.peek() != "]":
                raise self.invalid("',' or ']' was expected after an element.")
        return found

    def key(self) -> str:
        if self.peek() in ('"', "'"):
            return self.string()
        match = _NAME.match(self.text, self.at)
        if match is None:
            raise self.invalid("A property name was expected.")
        self.at = match.end()
        return match.group()

    def string(self) -> str:
        match = _TEXT.match(self.text, self.at)
        if match is None:
            raise self.invalid("Unterminated string.")
        try:
            # Not strict: a string may contain line breaks and other control characters unescaped.
            value: str = json.loads(_double_quoted(match), strict=False)
        except json.JSONDecodeError as exc:
            raise self.invalid("Bad JSON escape sequence.") from exc
        self.at = match.end()
        return value

    def scalar(self) -> float | bool | None:
        if match := _NUMBER.match(self.text, self.at):
            self.at = match.end()
            is_whole = match.group(1) is None and match.group(2) is None
            return int(match.group()) if is_whole else float(match.group())
        match = _NAME.match(self.text, self.at)
        if match is None or match.group() not in _CONSTANTS:
            raise self.invalid("A value was expected.")
        self.at = match.end()
        return _CONSTANTS[match.group()]

    def accept(self, sign: str) -> bool:
        is_here = self.peek() == sign
        self.at += is_here
        return is_here

    def peek(self) -> str:
        self.skip()
        return self.text[self.at : self.at + 1]

    def skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def position(self) -> tuple[int, int]:
        start = self.text.rfind("\n", 0, self.at) + 1
        return self.text.count("\n", 0, self.at) + 1, self.at - start + 1

    def invalid(self, what: str) -> AzureError:
        line, column = self.position()
        return AzureError(
            400,
            "InvalidRequestContent",
            "The request content was invalid and could not be deserialized: "
            f"'{what} Path '', line {line}, position {column}.'.",
        )


def _double_quoted(match: re.Match[str]) -> str:
    """Return a string literal in double quotes, whichever quotes it had."""
    if match.group(1) is not None:
        return match.group()
    inside = match.group(2).replace("\\'", "'")
    return '"' + re.sub(r'(?<!\\)((?:\\\\)*)"', r'\1\\"', inside) + '"'

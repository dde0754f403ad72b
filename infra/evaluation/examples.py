"""Read examples from a file: what to ask, and which answers are expected.

Source: OpenAI, "Supervised fine-tuning", the chat format; openai/evals, "Building an eval" (`input` and
`ideal`); OpenAI API reference, "Evals", the data source whose rows have an `item`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from infra.document import load_json
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

INPUT_FIELDS: Final = ("messages", "input", "prompt", "question", "instruction", "query")
"""The names under which an example may have what is asked, the first that it has."""

EXPECTED_FIELDS: Final = (
    "expected", "ideal", "completion", "answer", "target", "output", "response", "reference", "label",
)  # fmt: skip
"""The names under which an example may have the expected answer, the first that it has."""

MAX_SHOWN_ERRORS: Final = 5
MAX_FIELD_CHARACTERS: Final = 1 << 24

Message = dict[str, Any]
"""A message as the API takes it."""


@dataclass(frozen=True, slots=True)
class Example:
    """Something to ask, and the answers that are right.

    Attributes:
        name: Its line in the file.
        messages: The conversation that the model continues.
        expected: The accepted answers; empty if none is known.
    """

    name: str
    messages: tuple[Message, ...]
    expected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the fields to read.

    Attributes:
        question: The field with what is asked; None takes the first of `INPUT_FIELDS` that an example has.
        expected: The field with the expected answer; None takes the first of `EXPECTED_FIELDS`.
        system: A system message to put before every question.
    """

    question: str | None = None
    expected: str | None = None
    system: str | None = None


class _RowError(Exception):
    """What is wrong with one row."""


def read_examples(
    path: Path, columns: Columns | None = None, limit: int | None = None
) -> tuple[Example, ...]:
    """Read a `.csv` file, or one with a JSON object in each line, or with a JSON array of objects.

    Args:
        path: The file.
        columns: The names of its fields.
        limit: Read the first examples only.

    Raises:
        UsageError: The file is missing or empty, or an example in it cannot be used.
    """
    try:
        text = _decode(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", hint="give a file with examples, .jsonl or .csv") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="save it in UTF-8") from error
    rows = _csv_rows(text) if path.suffix.lower() in {".csv", ".tsv"} else _json_rows(text)
    examples: list[Example] = []
    errors: list[str] = []
    for line, row in rows:
        if len(examples) == limit:
            break
        try:
            examples.append(_read_row(str(line), row, columns or Columns()))
        except _RowError as error:
            errors.append(f"line {line}: {error}")
    if errors:
        shown = (*errors[:MAX_SHOWN_ERRORS], *(["..."] if len(errors) > MAX_SHOWN_ERRORS else []))
        raise UsageError(
            f"{path} has {len(errors)} examples that cannot be used",
            details=shown,
            hint="each line has 'messages' that end with the expected answer, or a question and the expected"
            " answer; --question and --expected name other fields",
        )
    if not examples:
        raise UsageError(f"{path} has no examples")
    return tuple(examples)


def _decode(data: bytes) -> str:
    """Return a file's text, whose lines end with a line feed. `>` of Windows PowerShell writes UTF-16."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig").replace("\r\n", "\n")


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    """Return the objects with the numbers of their lines; a line that is not JSON becomes an error's text.

    If the whole file is an array, the numbers are the places in it.
    """
    if text.lstrip().startswith("["):
        try:
            whole = load_json(text)
        except ValueError:
            whole = None
        if isinstance(whole, list) and any(isinstance(each, dict) for each in whole):
            yield from enumerate((each if isinstance(each, dict) else [each] for each in whole), start=1)
            return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, load_json(line)
            except ValueError as error:
                yield number, f"not valid JSON: {error}"


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    """Return the rows under their header. A separator other than a comma is found in the header.

    An empty cell is no value, and a row of empty cells, as spreadsheets write them, is none.
    """
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    header = text.split("\n", 1)[0]
    separator = max((",", ";", "\t"), key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            if any(row.pop(None, [])):
                yield reader.line_num, "it has more cells than the header"
            elif any(row.values()):
                yield reader.line_num, {name.strip(): cell or None for name, cell in row.items()}
    except csv.Error as error:
        yield reader.line_num, f"not valid CSV: {error}"


def _read_row(name: str, row: Any, columns: Columns) -> Example:  # noqa: ANN401 - JSON is of any type
    if isinstance(row, str):
        raise _RowError(row)
    if isinstance(row, dict) and isinstance(row.get("item"), dict):
        row = row["item"]  # a row of OpenAI's Evals API
    if not isinstance(row, dict):
        raise _RowError("not an object")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _RowError("it has half of a character (a lone surrogate), which no server takes") from error
    key, question = _find(row, columns.question, INPUT_FIELDS)
    if key is None:
        raise _RowError(_missing("question", columns.question, row))
    expected_key, expected = _find(row, columns.expected, EXPECTED_FIELDS)
    if columns.expected is not None and expected_key is None:
        raise _RowError(_missing("expected answer", columns.expected, row))
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    messages = _check_messages(messages, key)
    if expected_key is None and messages[-1]["role"] == "assistant":
        expected = _text_of(messages.pop())
        if not messages:
            raise _RowError(f"{key!r} has an answer and no question")
    if columns.system is not None:
        messages = [{"role": "system", "content": columns.system}, *messages]
    return Example(name, tuple(messages), _accepted(expected))


def _find(row: Mapping[str, Any], name: str | None, usual: Sequence[str]) -> tuple[str | None, Any]:
    """Return the first of the fields that has a value, and the value."""
    for key in (name,) if name is not None else usual:
        if row.get(key) is not None:
            return key, row[key]
    return None, None


def _missing(what: str, name: str | None, row: Mapping[str, Any]) -> str:
    if name is not None and name in row:
        return f"the field {name!r} has no value"
    wanted = f"no field {name!r}" if name is not None else f"no {what}"
    return f"{wanted}; it has {', '.join(map(repr, row)) or 'no fields'}"


def _check_messages(messages: Any, key: str) -> list[Message]:  # noqa: ANN401 - JSON is of any type
    if not isinstance(messages, list) or not messages:
        raise _RowError(f"{key!r} is neither a text nor a list of messages")
    checked = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _RowError(f"{key!r} has a message without a role")
        # `weight` says what the fine-tuning learns from, and is no part of a message of the API.
        checked.append({name: value for name, value in message.items() if name != "weight"})
    return checked


def _text_of(message: Message) -> str:
    """Return the text of an expected answer."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise _RowError("the expected answer has no text; answers with tool calls are not compared")
    return content


def _accepted(expected: Any) -> tuple[str, ...]:  # noqa: ANN401 - JSON is of any type
    """Return the accepted answers. A list of texts is several; any other JSON is one, in JSON."""
    if expected is None:
        return ()
    if isinstance(expected, str):
        return (expected,)
    if isinstance(expected, dict) and expected.get("role") == "assistant":
        return (_text_of(expected),)
    if isinstance(expected, list) and expected and all(isinstance(each, str) for each in expected):
        return tuple(expected)
    return (json.dumps(expected, ensure_ascii=False),)

"""Reading examples: the forms of files that people have, and the mistakes in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from infra.errors import UsageError
from infra.evaluation.examples import Columns, Example, read_examples

if TYPE_CHECKING:
    from pathlib import Path

USER: Any = {"role": "user", "content": "2 + 2"}
SYSTEM: Any = {"role": "system", "content": "Be short."}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("row", "messages", "expected"),
    [
        ({"messages": [SYSTEM, USER, {"role": "assistant", "content": "4"}]}, (SYSTEM, USER), ("4",)),
        ({"messages": [USER, {"role": "assistant", "content": "4", "weight": 1}]}, (USER,), ("4",)),
        ({"messages": [USER]}, (USER,), ()),
        ({"messages": [USER], "ideal": "4"}, (USER,), ("4",)),
        ({"input": [SYSTEM, USER], "ideal": ["4", "four"]}, (SYSTEM, USER), ("4", "four")),
        ({"input": "2 + 2", "ideal": "4"}, (USER,), ("4",)),
        ({"item": {"input": "2 + 2", "ideal": "4"}, "sample": {}}, (USER,), ("4",)),
        ({"prompt": "2 + 2", "completion": "4"}, (USER,), ("4",)),
        ({"prompt": "2 + 2", "expected": 4}, (USER,), ("4",)),
        ({"prompt": "2 + 2", "expected": {"sum": 4}}, (USER,), ('{"sum": 4}',)),
        ({"question": "2 + 2", "answer": "4"}, (USER,), ("4",)),
    ],
)
def test_every_form_of_a_line(tmp_path: Path, row: Any, messages: Any, expected: Any) -> None:
    path = write(tmp_path / "data.jsonl", row)
    assert read_examples(path) == (Example("1", messages, expected),)


def test_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "prompt,expected", '"2 + 2",4', '"two', 'lines",x')
    first, second = read_examples(path)
    assert first == Example("2", (USER,), ("4",))
    assert second.messages[0]["content"] == "two\nlines"


def test_a_table_with_semicolons_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("\ufeffprompt;expected\n2 + 2;4\n")
    assert read_examples(path) == (Example("2", (USER,), ("4",)),)


def test_named_fields_a_system_message_and_a_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"ticket": "2 + 2", "sum": "4"}, "", {"ticket": "x", "sum": "y"})
    columns = Columns("ticket", "sum", "Be short.")
    assert read_examples(path, columns, limit=1) == (Example("1", (SYSTEM, USER), ("4",)),)
    assert [example.name for example in read_examples(path, columns)] == ["1", "3"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not valid JSON: Expecting property name"),
        ([1], "not an object"),
        ({"text": "x"}, "no question; it has 'text'"),
        ({}, "no question; it has no fields"),
        ({"messages": []}, "'messages' is neither a text nor a list of messages"),
        ({"messages": [{"content": "x"}]}, "'messages' has a message without a role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "'messages' has an answer and no question"),
        (
            {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": []}]},
            "the expected answer has no text; answers with tool calls are not compared",
        ),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "data.jsonl", {"prompt": "x"}, row)
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    assert caught.value.details[0].startswith(f"line 2: {message}")


def test_a_field_that_is_named_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"prompt": "x", "sum": 1})
    with pytest.raises(UsageError) as caught:
        read_examples(path, Columns(expected="total"))
    assert caught.value.details == ("line 1: no field 'total'; it has 'prompt', 'sum'",)


def test_only_the_first_mistakes_are_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 9 examples that cannot be used") as caught:
        read_examples(write(tmp_path / "data.jsonl", *["{"] * 9))
    assert len(caught.value.details) == 6


@pytest.mark.parametrize(
    ("text", "message"), [(None, "does not exist"), ("\n", "has no examples"), ("\xff", "cannot be read")]
)
def test_a_file_without_examples(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "data.jsonl"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=message):
        read_examples(path)


def test_a_row_of_a_table_with_too_many_cells(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_examples(write(tmp_path / "data.csv", "prompt,expected", "a,b,c"))
    assert caught.value.details == ("line 2: it has more cells than the header",)

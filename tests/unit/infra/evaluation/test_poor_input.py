"""Files with examples as they come from other systems, editors and people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from infra.errors import UsageError
from infra.evaluation.examples import Columns, read_examples
from infra.evaluation.metrics import choose_metrics

if TYPE_CHECKING:
    from pathlib import Path

LINE = json.dumps({"prompt": "2 + 2", "expected": "vier, 🙂"}, ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n"])
def test_what_editors_and_shells_write(tmp_path: Path, encoding: str, ending: str, last: str) -> None:
    path = tmp_path / "data.jsonl"
    text = f"{LINE}\n{LINE}{last}".replace("\n", ending)
    # Windows PowerShell's > begins with a byte order mark.
    path.write_bytes(b"\xff\xfe" * (encoding == "utf-16-le") + text.encode(encoding))
    first, second = read_examples(path)
    assert (first.name, second.name) == ("1", "2")
    assert first.expected == second.expected == ("vier, 🙂",)


def test_a_table_of_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    table = 'prompt;expected;\r\n"two\r\nlines";4;\r\n\r\nthree;;;\r\n;;\r\n'
    path.write_bytes(table.encode("utf-8-sig"))
    first, second = read_examples(path)
    assert (first.messages[0]["content"], first.expected) == ("two\nlines", ("4",))
    # An empty cell is no expected answer.
    assert (second.messages[0]["content"], second.expected) == ("three", ())
    path.write_text("prompt , expected\n,4\n")
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    assert caught.value.details == ("line 2: no question; it has 'prompt', 'expected'",)


def test_an_array_of_examples(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([json.loads(LINE)] * 2, indent=2))
    assert [example.name for example in read_examples(path)] == ["1", "2"]
    path.write_text(json.dumps([json.loads(LINE), "text"], indent=2))
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    assert caught.value.details == ("line 2: not an object",)


def test_forms_may_be_mixed_and_lines_repeated(tmp_path: Path) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    rows = [{"messages": messages}, {"input": "Hi", "ideal": ["a", "b"]}, {"question": "Hi", "answer": 4}]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    examples = read_examples(path)
    assert [example.expected for example in examples] == [("Hello",), ("a", "b"), ("4",)] * 2
    assert len({example.name for example in examples}) == 6


@pytest.mark.parametrize(
    ("expected", "accepted", "right", "wrong"),
    [
        (4, ("4",), "4", "5"),
        (0, ("0",), "0", ""),
        (False, ("false",), "false", "0"),
        (1.5, ("1.5",), "1.5", "2"),
        ({"a": [1, None, True]}, ('{"a": [1, null, true]}',), '{"a":[1.0,null,true]}', "{}"),
        ({"a": 1}, ('{"a": 1}',), '{ "a" : 1 }', '{"a": true}'),
        ([1, 2], ("[1, 2]",), "[1,2]", "[2,1]"),
        ([], ("[]",), "[ ]", "{}"),
    ],
)  # fmt: skip
def test_expected_answers_of_any_type(
    tmp_path: Path, expected: Any, accepted: Any, right: str, wrong: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": "x", "expected": expected}) + "\n")
    examples = read_examples(path)
    assert examples[0].expected == accepted
    exact_match = choose_metrics(examples)[0]
    assert exact_match.score(accepted, right) == 1
    assert exact_match.score(accepted, wrong) == 0


def test_an_expected_answer_that_is_null_is_none(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"prompt": "x", "expected": None}) + "\n" + LINE + "\n")
    assert [len(example.expected) for example in read_examples(path)] == [0, 1]
    with pytest.raises(UsageError) as caught:
        read_examples(path, Columns(expected="expected"))
    assert caught.value.details == ("line 1: the field 'expected' has no value",)


def test_half_of_a_character_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "\\ud83d", "expected": "x"}\n{"prompt": "\\ud83d\\ude42", "expected": "x"}\n')
    with pytest.raises(UsageError) as caught:
        read_examples(path)
    assert caught.value.details == (
        "line 1: it has half of a character (a lone surrogate), which no server takes",
    )


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UsageError, match="cannot be read") as caught:
        read_examples(path)
    assert caught.value.hint == "save it in UTF-8"


def test_ten_thousand_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text((LINE + "\n") * 10_000)
    assert len(read_examples(path)) == 10_000
    assert len(read_examples(path, limit=10)) == 10

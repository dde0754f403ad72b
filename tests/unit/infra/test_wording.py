"""The words of messages."""

from __future__ import annotations

import pytest

from infra.wording import count, did_you_mean, first_line, last_lines, name_stage, readable_size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_950, "1.0 MB"),
        (5_240_000, "5.2 MB"),
        (3e12, "3.0 TB"),
    ],
)
def test_a_size_in_decimal_units(size: int, text: str) -> None:
    assert readable_size(size) == text


def test_a_number_with_its_noun() -> None:
    assert (count(0, "file"), count(1, "file"), count(2, "file")) == ("0 files", "1 file", "2 files")


def test_a_similar_name_is_suggested_whatever_its_case() -> None:
    assert did_you_mean("LOCATIN", ("location", "image")) == "; did you mean location?"
    assert did_you_mean("zzz", ("location", "image")) == ""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("invoke logs", "invoke logs --stage mine"),
        ("look at invoke status, and deploy again", "look at invoke status --stage mine, and deploy again"),
        ("invoke deploy --force restarts", "invoke deploy --stage mine --force restarts"),
        ("invoke up --stage local", "invoke up --stage local"),
        ("run invoke from the folder of the project", "run invoke from the folder of the project"),
        ("$(invoke key)", "$(invoke key --stage mine)"),
    ],
)
def test_a_verb_in_a_message_is_for_the_stage(text: str, named: str) -> None:
    assert name_stage(text, "mine", ("logs", "status", "deploy", "up", "key")) == named


def test_the_first_and_the_last_lines_of_an_output() -> None:
    assert first_line(" one \ntwo\n") == "one"
    assert first_line(" \n") == ""
    assert last_lines("one\n\n two\nthree\n", 2) == (" two", "three")

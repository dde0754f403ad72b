"""The words of messages."""

from __future__ import annotations

import pytest

from infra.wording import count, did_you_mean, first_line, last_lines, readable_size


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


def test_the_first_and_the_last_lines_of_an_output() -> None:
    assert first_line(" one \ntwo\n") == "one"
    assert first_line(" \n") == ""
    assert last_lines("one\n\n two\nthree\n", 2) == (" two", "three")

"""Files and values that users write: what cannot be JSON, paths with a tilde, and a disk that is full."""

from __future__ import annotations

import errno
import math
import os
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from infra.document import MAX_DEPTH, json_problem, user_path, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

VALUES: dict[str, tuple[Any, str]] = {
    "date": (tomllib.loads("x = 2026-01-31")["x"], "2026-01-31 is a date; write it in quotes"),
    "time": (tomllib.loads("x = [07:30:00]"), "07:30:00 is a time; write it in quotes"),
    "not a number": ({"a": [math.nan]}, "nan is not a number that JSON has"),
    "infinite": (-math.inf, "-inf is not a number that JSON has"),
    "surrogate": (["\ud800"], "'\\ud800' has a character that is not text"),
    "null character": ({"a\0": 1}, "'a\\x00' has a character that is not text"),
}


@pytest.mark.parametrize("case", VALUES)
def test_what_json_cannot_hold(case: str) -> None:
    value, problem = VALUES[case]
    assert json_problem(value) == problem


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "", "Ä 🙂\n", [], {}, {"a": [1, {"b": None}]}])
def test_what_json_holds(value: Any) -> None:
    assert json_problem(value) == ""


def test_a_value_may_be_nested_as_deeply_as_all_that_walk_through_it_can() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert json_problem(value) == ""
    assert json_problem([value]) == "it is nested too deeply"
    for _ in range(100_000):
        value = [value]
    assert json_problem(value) == "it is nested too deeply"


def test_a_home_folder_that_cannot_be_found_is_part_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/weights") == tmp_path / "weights"
    assert str(user_path("~nobody-of-this-name/weights")) == "~nobody-of-this-name/weights"


def test_what_was_there_stays_if_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.json"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomic(path, "new")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("kept.json", "old")]


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    target, link = tmp_path / "shared" / "stages.toml", tmp_path / "stages.toml"
    target.write_text("old")
    link.symlink_to("shared/stages.toml")
    write_atomic(link, "new")
    assert (link.is_symlink(), target.read_text()) == (True, "new")

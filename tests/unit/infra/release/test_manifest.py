"""What a release consists of, and the form in which it lies on the share."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import RemoteError
from infra.release.manifest import (
    FileEntry,
    Manifest,
    Origin,
    Release,
    hash_bytes,
    parse_manifest,
    parse_release,
    render_manifest,
    render_release,
)

if TYPE_CHECKING:
    from collections.abc import Callable

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ORIGIN = Origin(WHEN, "ida@laptop", "0.1.0", git_commit="a" * 40, is_dirty=True)
TREE = Manifest((hash_bytes(b"one", "inference/a.py"), hash_bytes(b"two!", "inference/b/c.py")))


def test_equal_trees_have_equal_digests_and_different_ones_do_not() -> None:
    shuffled = Manifest(tuple(reversed(TREE.files)))
    assert shuffled.digest == TREE.digest
    renamed = Manifest((replace(TREE.files[0], path="inference/z.py"), TREE.files[1]))
    assert renamed.digest != TREE.digest


def test_a_release_is_named_by_its_time_and_its_content() -> None:
    assert Release(TREE, ORIGIN).id == f"20260304T050607Z-{TREE.digest[:8]}"


@pytest.mark.parametrize(
    ("commit", "changes", "source"),
    [
        ("abcdef0123", {"is_dirty": True}, "abcdef0 with changes"),
        ("abcdef0123", {"is_dirty": False}, "abcdef0"),
        (None, {"is_dirty": None}, "no commit"),
    ],
)
def test_a_release_says_which_commit_it_was_made_of(
    commit: str | None, changes: dict[str, Any], source: str
) -> None:
    assert Release(TREE, replace(ORIGIN, git_commit=commit, **changes)).source == source


def test_a_release_reads_back_as_it_was_written() -> None:
    release = Release(TREE, ORIGIN)
    assert parse_release(render_release(release), "release.json") == release
    bare = Release(TREE, replace(ORIGIN, git_commit=None, is_dirty=None))
    assert parse_release(render_release(bare).encode(), "release.json") == bare


NAMES = st.text(st.characters(blacklist_characters="/", blacklist_categories=["Cs"]), min_size=1)


@given(st.lists(st.tuples(NAMES.filter(lambda name: name != ".."), st.integers(min_value=0)), max_size=5))
def test_any_manifest_reads_back_as_it_was_written(files: list[tuple[str, int]]) -> None:
    manifest = Manifest(tuple(FileEntry(name, size, "0" * 64) for name, size in files))
    assert parse_manifest(render_manifest(manifest), "x") == manifest


def changed(change: Callable[[dict[str, object]], object]) -> str:
    document = json.loads(render_release(Release(TREE, ORIGIN)))
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("[]", "it is not a JSON object"),
        (changed(lambda d: d.pop("format")), "'format' is missing or not a int"),
        (changed(lambda d: d.update(format=2)), "its format is 2, and this version of the tool knows 1"),
        (changed(lambda d: d.update(author=3)), "'author' is missing or not a str"),
        (changed(lambda d: d.update(created="today")), "'today' is not a time"),
        (changed(lambda d: d.update(files=[1])), "an entry of 'files' is not an object"),
        (changed(lambda d: d.update(files=[])), "its digest does not match its files"),
        (
            changed(lambda d: d.update(files=[{"path": "../x", "size": 1, "sha256": "0"}])),
            "the path '../x' leads out of the folder",
        ),
    ],
)
def test_a_damaged_release_says_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(RemoteError) as caught:
        parse_release(text, "releases/x/release.json")
    assert caught.value.message == f"releases/x/release.json on the share cannot be read: {reason}"

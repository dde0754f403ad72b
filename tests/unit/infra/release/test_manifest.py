"""What a release consists of, and the form in which it lies on the share."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import RemoteError, UsageError
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
    scan_tree,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ORIGIN = Origin(WHEN, "ida@laptop", "0.1.0", git_commit="a" * 40, is_dirty=True)
TREE = Manifest((hash_bytes(b"one", "inference/a.py"), hash_bytes(b"two!", "inference/b/c.py")))


def put(root: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def test_a_tree_is_its_files_without_what_python_and_editors_leave(tmp_path: Path) -> None:
    put(
        tmp_path / "inference",
        {
            "b/c.py": b"two!",
            "a.py": b"one",
            "b/empty.txt": b"",
            "__pycache__/a.cpython-311.pyc": b"x",
            "b/stale.pyc": b"x",
            ".env": b"SECRET=1",
            ".git/config": b"x",
            "b/.DS_Store": b"x",
        },
    )
    manifest = scan_tree(tmp_path / "inference")
    assert [entry.path for entry in manifest.files] == [
        "inference/a.py",
        "inference/b/c.py",
        "inference/b/empty.txt",
    ]
    assert manifest.files[0] == hash_bytes(b"one", "inference/a.py")
    assert manifest.size_bytes == 7


def test_an_ignore_file_is_not_asked(tmp_path: Path) -> None:
    put(tmp_path / "inference", {".gitignore": b"*.json\n", "settings.json": b"{}"})
    assert [entry.path for entry in scan_tree(tmp_path / "inference").files] == ["inference/settings.json"]


def test_a_linked_file_travels_as_what_it_leads_to(tmp_path: Path) -> None:
    put(tmp_path, {"elsewhere.py": b"one", "inference/x.py": b""})
    (tmp_path / "inference" / "a.py").symlink_to(tmp_path / "elsewhere.py")
    assert scan_tree(tmp_path / "inference").files[0] == hash_bytes(b"one", "inference/a.py")


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, {"elsewhere/x.py": b"", "inference/x.py": b""})
    (tmp_path / "inference" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="more is a link to a folder"):
        scan_tree(tmp_path / "inference")


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    put(tmp_path, {"inference/x.py": b""})
    (tmp_path / "inference" / "gone.py").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"gone\.py is neither a file nor a folder"):
        scan_tree(tmp_path / "inference")


def test_a_missing_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        scan_tree(tmp_path / "inference")
    put(tmp_path, {"inference/__pycache__/a.pyc": b"x"})
    with pytest.raises(UsageError, match="holds no file"):
        scan_tree(tmp_path / "inference")


def test_all_names_that_azure_files_cannot_hold_are_reported_at_once(tmp_path: Path) -> None:
    put(tmp_path / "inference", {'a"b.py': b"", "con": b"", "dot.": b"", "Same.py": b"", "same.py": b""})
    with pytest.raises(UsageError) as caught:
        scan_tree(tmp_path / "inference")
    assert caught.value.message == f"Azure Files cannot hold 4 of the names in {tmp_path / 'inference'}"
    assert caught.value.details == (
        "inference/a\"b.py: the name 'a\"b.py' has the character '\"'",
        "inference/con: the name 'con' is reserved",
        "inference/dot.: the name 'dot.' ends with a dot or a space",
        "inference/same.py: differs from inference/Same.py in case only",
    )


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

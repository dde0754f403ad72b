"""The digests that a push has recorded, and when they say nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from typing import TYPE_CHECKING

from inference.storage.manifest import MANIFEST, compute_key, describe_files
from infra.models.upload import MANIFEST as PUSHED_MANIFEST
from infra.release.manifest import Manifest, hash_bytes, render_manifest

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SECOND_NS = 10**9


def push(folder: Path, files: dict[str, bytes]) -> list[Path]:
    """Put files and their manifest into a folder, as `push` does."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, ns=(SECOND_NS, SECOND_NS))
    manifest = Manifest(tuple(hash_bytes(content, name) for name, content in files.items()))
    (folder / PUSHED_MANIFEST).write_text(render_manifest(manifest))
    return [folder / name for name in files]


def test_the_digests_are_those_that_push_has_written(tmp_path: Path) -> None:
    assert MANIFEST == PUSHED_MANIFEST
    paths = push(tmp_path, {"config.json": b"{}", "model.safetensors": b"weights"})
    files = describe_files(tmp_path, paths)
    assert [file.name for file in files] == ["config.json", "model.safetensors"]
    assert files[1].sha256 == hashlib.sha256(b"weights").hexdigest()
    assert (files[1].size_bytes, files[1].modified_ns) == (7, SECOND_NS)


def test_a_file_that_was_replaced_by_hand_has_no_digest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    paths = push(tmp_path, {"newer": b"weights", "longer": b"weights", "same": b"weights"})
    (tmp_path / "newer").write_bytes(b"another")
    os.utime(tmp_path / "newer", ns=(2**61, 2**61))
    (tmp_path / "longer").write_bytes(b"weights and more")
    os.utime(tmp_path / "longer", ns=(SECOND_NS, SECOND_NS))
    assert [file.sha256 is None for file in describe_files(tmp_path, paths)] == [True, True, False]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / name} was replaced after it was pushed: its digest is not checked"
        for name in ("newer", "longer")
    ]


def test_without_a_list_or_with_a_damaged_one_no_digest_is_known(tmp_path: Path) -> None:
    (path,) = push(tmp_path, {"model.safetensors": b"weights"})
    for content in ("[]", "{", json.dumps({"files": [{"path": "model.safetensors"}]})):
        (tmp_path / MANIFEST).write_text(content)
        assert describe_files(tmp_path, [path])[0].sha256 is None
    (tmp_path / MANIFEST).unlink()
    assert describe_files(tmp_path, [path])[0].sha256 is None


def test_the_key_is_of_the_contents_where_they_are_known_and_else_of_the_times(tmp_path: Path) -> None:
    paths = push(tmp_path, {"a": b"one", "b": b"two"})
    key = compute_key(describe_files(tmp_path, paths))
    assert compute_key(describe_files(tmp_path, list(reversed(paths)))) == key
    os.utime(tmp_path / "a", ns=(0, 0))
    assert compute_key(describe_files(tmp_path, paths)) == key
    (tmp_path / MANIFEST).unlink()
    unknown = compute_key(describe_files(tmp_path, paths))
    os.utime(tmp_path / "a", ns=(5, 5))
    assert len({key, unknown, compute_key(describe_files(tmp_path, paths))}) == 3

from __future__ import annotations

import hashlib
import json
import socket
from typing import TYPE_CHECKING

import pytest

from inference.errors import TakeoverError
from inference.settings import Settings
from inference.start import find_folder
from inference.supervisor import releases
from inference.supervisor.releases import READS, fetch_release, read_current, remove_others, scan_release

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = "20260101T000000Z-0123abcd"


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "mount" / "releases" / RELEASE
    (folder / "inference").mkdir(parents=True)
    (folder / "inference" / "server.py").write_text("one")
    entry = {"path": "inference/server.py", "size": 3, "sha256": hashlib.sha256(b"one").hexdigest()}
    (folder / "release.json").write_text(json.dumps({"files": [entry]}))
    return tmp_path / "mount"


@pytest.mark.parametrize(
    ("content", "current"),
    [
        (f"{RELEASE}\n".encode(), RELEASE),
        (RELEASE.encode(), RELEASE),
        (b"", None),  # a file that is being written, or one that a failing share shows as empty
        (b"../elsewhere\n", None),
        (b"\xff\xfe\x00", None),
        (b"two\nlines", None),
    ],
)
def test_the_pointer_is_read_strictly(mount: Path, content: bytes, current: str | None) -> None:
    (mount / "CURRENT").write_bytes(content)
    assert read_current(mount) == current


def test_a_missing_pointer_differs_from_a_missing_share(mount: Path) -> None:
    assert read_current(mount) == ""
    assert read_current(mount / "gone") is None
    (mount / "CURRENT").mkdir()
    assert read_current(mount) is None


def test_of_a_folder_that_is_no_release_the_package_alone_is_copied(
    mount: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a clone"
    for path in ("inference/server.py", ".venv/lib/torch.py"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text("one")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(releases, "PAUSE_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        copied = find_folder(Settings(mount=mount / "gone", release=RELEASE), listener)
    assert [path.name for path in copied.iterdir()] == ["inference"]
    assert (copied / "inference/server.py").read_text() == "one"
    assert not copied.is_relative_to(folder)


def test_a_release_is_copied_once(mount: Path) -> None:
    folder = fetch_release(mount, RELEASE)
    assert (folder / "inference" / "server.py").read_text() == "one"
    assert not folder.is_relative_to(mount)
    (mount / "releases" / RELEASE / "inference" / "server.py").unlink()
    assert fetch_release(mount, RELEASE) == folder


def test_a_share_that_shows_a_file_late_is_read_again(mount: Path) -> None:
    server = mount / "releases" / RELEASE / "inference" / "server.py"
    server.write_text("")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        server.write_text("one" if len(pauses) == 2 else "")

    assert (fetch_release(mount, RELEASE, pause=pause) / "inference" / "server.py").read_text() == "one"
    assert len(pauses) == 2


def test_a_damaged_release_is_an_error_that_names_the_file(mount: Path) -> None:
    (mount / "releases" / RELEASE / "inference" / "server.py").write_text("two")
    pauses: list[float] = []
    with pytest.raises(TakeoverError, match=r"it cannot be copied from the share: .*server\.py"):
        fetch_release(mount, RELEASE, pause=pauses.append)
    assert len(pauses) == READS - 1


def test_the_digests_are_those_of_the_files_without_what_python_has_compiled(mount: Path) -> None:
    folder = fetch_release(mount, RELEASE)
    (folder / "inference" / "__pycache__").mkdir()
    (folder / "inference" / "__pycache__" / "server.pyc").write_bytes(b"")
    assert scan_release(folder) == {"inference/server.py": hashlib.sha256(b"one").hexdigest()}


def test_other_copies_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a", "b", "c", ".packages"):
        (tmp_path / name / "inference").mkdir(parents=True)
    remove_others(tmp_path, [tmp_path / "b"])
    assert {path.name for path in tmp_path.iterdir()} == {"b", ".packages"}

"""Releases on the share, packed and not, on their way to a replica's local disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from inference import unpack
from inference.unpack import (
    ARCHIVE,
    MANIFEST,
    STARTER,
    ReleaseError,
    local_folder,
    remove_old,
    unpack_release,
)

ID = "20260102T030405Z-abcdef01"
SMALL = {"inference/start.py": b"print('started')\n", "inference/web/page.py": b"PAGE = 1\n"}
LARGE = {"inference/data.bin": bytes(range(256)) * 40}


def manifest(files: dict[str, bytes]) -> bytes:
    entries = [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files.items()
    ]
    return json.dumps({"format": 1, "files": entries}).encode()


def pack(
    folder: Path, packed: dict[str, bytes], loose: dict[str, bytes], listed: bytes | None = None
) -> Path:
    members = {MANIFEST: manifest(packed | loose) if listed is None else listed} | packed
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    write(folder, {ARCHIVE: stream.getvalue()} | loose)
    return folder


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def with_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    return files | {MANIFEST: manifest(files)}


def test_packed_and_loose_files_are_put_together(tmp_path: Path) -> None:
    folder = pack(tmp_path / ID, SMALL, LARGE)
    assert contents(unpack_release(folder, tmp_path / "disk" / ID)) == with_manifest(SMALL | LARGE)


def test_a_release_of_separate_files_is_copied(tmp_path: Path) -> None:
    folder = write(tmp_path / ID, SMALL | LARGE | {MANIFEST: manifest(SMALL | LARGE)})
    assert contents(unpack_release(folder, tmp_path / "disk" / ID)) == with_manifest(SMALL | LARGE)


def test_what_is_unpacked_is_kept(tmp_path: Path) -> None:
    folder = pack(tmp_path / ID, SMALL, {})
    target = unpack_release(folder, tmp_path / "disk" / ID)
    shutil.rmtree(folder)
    assert unpack_release(folder, target) == target


def test_a_process_that_unpacks_the_same_release_at_the_same_time_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, target = pack(tmp_path / ID, SMALL, {}), tmp_path / "disk" / ID
    whole = unpack._unpack

    def unpack_while_another_ends(source: Path, draft: Path) -> None:
        whole(source, draft)
        write(target, SMALL)

    monkeypatch.setattr(unpack, "_unpack", unpack_while_another_ends)
    assert contents(unpack_release(folder, target)) == SMALL
    assert [path.name for path in target.parent.iterdir()] == [ID]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "release.json"),
        ({MANIFEST: b"[]"}, "cannot be read"),
        ({MANIFEST: manifest({"../x": b""})}, "leads out of the folder"),
        ({MANIFEST: manifest({"/x": b""})}, "leads out of the folder"),
        ({MANIFEST: manifest(SMALL)}, "is missing"),
        ({MANIFEST: manifest(SMALL)} | dict.fromkeys(SMALL, b"x"), "differs from the manifest"),
    ],
)
def test_a_damaged_release_leaves_nothing(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    folder = write(tmp_path / ID, {"other": b""} | files)
    with pytest.raises((ReleaseError, FileNotFoundError), match=message):
        unpack_release(folder, tmp_path / "disk" / ID)
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize(
    ("packed", "listed", "message"),
    [
        ({"inference/x.py": b"1"}, manifest({"inference/x.py": b"2"}), "differs from the manifest"),
        ({"inference/x.py": b"1"}, manifest({}), "which the manifest does not list"),
        ({}, b"{}", "cannot be read"),
    ],
)
def test_a_damaged_archive_is_refused(
    tmp_path: Path, packed: dict[str, bytes], listed: bytes, message: str
) -> None:
    with pytest.raises(ReleaseError, match=message):
        unpack_release(pack(tmp_path / ID, packed, {}, listed), tmp_path / "disk" / ID)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("first"))
    folder = write(tmp_path / ID, {ARCHIVE: stream.getvalue()})
    with pytest.raises(ReleaseError, match=r"does not begin with release\.json"):
        unpack_release(folder, tmp_path / "disk" / ID)


def test_only_the_newest_releases_stay_on_the_disk(tmp_path: Path) -> None:
    for day in range(1, 6):
        (tmp_path / f"2026010{day}T000000Z-abcdef01").mkdir()
    remove_old(tmp_path, kept=2)
    assert sorted(path.name[:8] for path in tmp_path.iterdir()) == ["20260104", "20260105"]


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = local_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "elsewhere").mkdir()
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match="belongs to another user"):
        local_folder()


def start(folder: Path, tmp: Path) -> subprocess.CompletedProcess[str]:
    """Start a release as the container's command does."""
    return subprocess.run(
        [sys.executable, "-m", "inference.start", "argument"],
        cwd=folder,
        env={"TMPDIR": str(tmp), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_of_the_container_starts_a_packed_release(tmp_path: Path) -> None:
    started = b"import os, sys\nprint(os.getcwd(), sys.argv[1:])\n"
    files = SMALL | {"inference/__init__.py": b"", "inference/start.py": started}
    starter = {STARTER: Path(unpack.__file__).read_bytes()}
    folder = write(pack(tmp_path / ID, files, {}), starter)
    done = start(folder, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/fjarr-releases-{os.getuid()}/{ID} ['argument']\n"


def test_a_command_of_the_users_own_finds_the_unpacked_release(tmp_path: Path) -> None:
    unpacks = Path(unpack.__file__).read_bytes()
    files = {"inference/__init__.py": b"", "inference/unpack.py": unpacks, "run.sh": b"echo $(pwd) runs\n"}
    folder = write(pack(tmp_path / ID, files, {}), {STARTER: unpacks})
    command = f'cd "$({shlex.quote(sys.executable)} -m inference.unpack)" && sh run.sh'
    environment = {"TMPDIR": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path}/fjarr-releases-{os.getuid()}/{ID} runs\n"


def test_large_files_beside_the_archive_do_not_hide_the_starter(tmp_path: Path) -> None:
    files = {"inference/__init__.py": b"", "inference/start.py": b"print('up')\n"}
    starter = {STARTER: Path(unpack.__file__).read_bytes()}
    folder = write(pack(tmp_path / ID, files, LARGE), starter)
    assert start(folder, tmp_path).stdout == "up\n"


def test_a_release_that_cannot_be_unpacked_ends_with_the_reason(tmp_path: Path) -> None:
    folder = write(tmp_path / ID, {ARCHIVE: gzip.compress(b"x" * 2000)[:40]})
    write(folder, {STARTER: Path(unpack.__file__).read_bytes()})
    done = start(folder, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"the release {ID} cannot be unpacked: ")

"""A release's packages: installed from the lock once, and unpacked from the share from then on."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inference.errors import TakeoverError
from inference.packages import installers, provision
from inference.packages.installers import find_uv, has_pip, installer_environment, uv_command
from inference.packages.provision import path_entries, remove_packages

if TYPE_CHECKING:
    from tests.unit.inference.packages.conftest import Index

pytestmark = pytest.mark.skipif(not (has_pip() or shutil.which("uv")), reason="there is neither pip nor uv")


def imported(folder: Path, module: str = "fjarr_probe") -> str:
    """Return the version of a module that a process with the packages imports."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path_entries(folder))}
    command = [sys.executable, "-c", f"import {module}; print({module}.VERSION)"]
    return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout.strip()


def test_nothing_is_installed_where_nothing_is_missing(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.require("pydantic>=2")
    monkeypatch.setattr(provision, "read_lock", lambda _path: pytest.fail("the lock was read"))
    assert index.provide() is None
    assert not index.packages.exists()


def test_what_is_missing_is_installed_with_what_it_needs_and_nothing_else(whole_index: Index) -> None:
    index = whole_index
    index.add("fjarr-probe", requires="fjarr-part,pydantic>=2")
    index.add("fjarr-part", via="fjarr-probe")
    index.add("pydantic", "99.0", via="fjarr-probe")
    index.add("fjarr-other")
    index.require("fjarr-probe==1.*", "pydantic>=2")
    folder = index.provide()
    assert folder is not None
    assert sorted(path.name for path in folder.glob("*.py")) == ["fjarr_part.py", "fjarr_probe.py"]
    assert imported(folder) == "1.0"


def test_a_replica_unpacks_what_another_has_installed_and_reaches_no_index(
    whole_index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = whole_index
    index.add("fjarr-probe")
    index.require("fjarr-probe>=1")
    first = index.provide()
    assert first is not None
    (archive,) = index.archives
    index.refuse(monkeypatch)
    shutil.rmtree(index.packages)  # another container has another disk
    with caplog.at_level(logging.INFO, "inference.packages"):
        assert index.provide() == first
    assert "unpacked from the share" in caplog.text
    assert imported(first) == "1.0"
    assert index.archives == [archive]
    # The modules are compiled, and not compared with their sources, whose times an archive does not keep.
    (compiled,) = first.glob("__pycache__/fjarr_probe.*.pyc")
    assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"


def test_the_same_container_does_not_read_the_share_again(index: Index) -> None:
    index.add("fjarr-probe")
    index.require("fjarr-probe>=1")
    first = index.provide()
    index.archives[0].unlink()
    assert index.provide() == first
    assert index.archives == []


@pytest.mark.parametrize("damage", ["truncated", "changed", "replaced"])
def test_a_damaged_archive_is_recognised_removed_and_installed_anew(
    index: Index, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    index.add("fjarr-probe", fjarr_data__txt="".join(map(str, range(5000))))
    index.require("fjarr-probe>=1")
    first = index.provide()
    (archive,) = index.archives
    content = bytearray(archive.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "changed":
        content[len(content) // 2] ^= 0xFF
    else:  # a valid archive, but not the one that its name says
        content[8] ^= 0xFF  # gzip's flags of the compression, which no reader looks at
    archive.write_bytes(content)
    shutil.rmtree(index.packages)
    assert index.provide() == first
    assert "cannot be read" in caplog.text
    assert first is not None
    assert imported(first) == "1.0"
    (again,) = index.archives
    assert again.name == archive.name
    assert bytes(content) != again.read_bytes()


def test_replicas_that_install_at_once_leave_one_archive(index: Index) -> None:
    index.add("fjarr-probe")
    index.require("fjarr-probe>=1")
    found: list[Path | None] = []
    disks = [index.root / f"disk{number}" for number in range(3)]
    threads = [
        threading.Thread(
            target=lambda disk=disk: found.append(provision.provide_packages(index.settings, disk))
        )
        for disk in disks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.parent for path in found if path is not None) == disks
    assert len(index.archives) == 1
    assert list(index.archives[0].parent.iterdir()) == index.archives


def test_another_lock_and_another_image_have_archives_of_their_own(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("fjarr-probe")
    index.require("fjarr-probe>=1")
    folders = [index.provide()]
    index.add("fjarr-probe", "2.0")
    index.require("fjarr-probe>=1")
    folders.append(index.provide())
    monkeypatch.setattr(provision, "find_installed", lambda: iter([("torch", "9.9")]))
    folders.append(index.provide())
    assert len(set(folders)) == 3
    assert [imported(folder) for folder in folders if folder] == ["1.0", "2.0", "2.0"]
    assert len(index.archives) == 3
    assert len({archive.parent for archive in index.archives}) == 2


def test_a_rollback_finds_the_packages_of_the_release_before(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("fjarr-probe")
    one = (index.require("fjarr-probe>=1"), (index.root / "requirements.lock.txt").read_text())
    index.provide()
    index.add("fjarr-probe", "2.0")
    index.require("fjarr-probe>=2")
    index.provide()
    index.refuse(monkeypatch)
    shutil.rmtree(index.packages)
    (index.root / "requirements.txt").write_text("fjarr-probe>=1\n")
    (index.root / "requirements.lock.txt").write_text(one[1])
    folder = index.provide()
    assert folder is not None
    assert imported(folder) == "1.0"


def test_a_version_of_the_image_that_does_not_fit_is_replaced_by_the_lock_s(whole_index: Index) -> None:
    index = whole_index
    index.add("fjarr-probe", requires="pydantic>=99")
    index.add("pydantic", "99.0", requires="fjarr-part", via="fjarr-probe")
    index.add("fjarr-part", via="pydantic")
    index.require("fjarr-probe>=1")
    folder = index.provide()
    assert folder is not None
    names = {path.name for path in folder.glob("*.dist-info")}
    assert names == {"fjarr_probe-1.0.dist-info", "pydantic-99.0.dist-info", "fjarr_part-1.0.dist-info"}


def test_a_package_with_another_digest_is_not_installed(index: Index) -> None:
    index.add("fjarr-probe")
    index.require("fjarr-probe>=1")
    lock = index.root / "requirements.lock.txt"
    digest = lock.read_text().partition("sha256:")[2][:64]
    lock.write_text(lock.read_text().replace(digest, "0" * 64))
    with pytest.raises(TakeoverError, match=r"its packages cannot be installed: .*0{64}"):
        index.provide()
    assert index.archives == []
    assert [path for path in index.packages.iterdir() if path.name != ".tools"] == []


def test_a_package_that_the_lock_lacks_is_named(index: Index) -> None:
    index.add("fjarr-probe")
    index.require("fjarr-probe>=1", "fjarr-other>=1")
    with pytest.raises(TakeoverError, match=r"requirements\.lock\.txt lacks fjarr-other: run invoke relock"):
        index.provide()
    (index.root / "requirements.lock.txt").unlink()
    with pytest.raises(TakeoverError, match=r"requirements\.lock\.txt is missing: run invoke relock"):
        index.provide()


def test_a_share_that_cannot_be_written_keeps_nobody_from_starting(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    index.add("fjarr-probe")
    index.require("fjarr-probe>=1")
    (index.root / "mount" / "packages").write_text("in the way")
    folder = index.provide()
    assert folder is not None
    assert imported(folder) == "1.0"
    assert "cannot be kept on the share" in caplog.text


@pytest.mark.skipif(not has_pip(), reason="there is no pip")
def test_pip_installs_where_there_is_no_uv(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index.add("fjarr-probe")
    index.require("fjarr-probe>=1")
    monkeypatch.setattr(installers, "find_uv", lambda _tools: None)
    folder = index.provide()
    assert folder is not None
    assert imported(folder) == "1.0"
    assert "installed with pip, which takes longer: there is no uv" in caplog.text


@pytest.mark.skipif(not has_pip(), reason="there is no pip")
def test_uv_is_installed_from_the_lock_where_the_image_lacks_it(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(installers, "_is_installed", lambda name: name == "pip")
    index.add("uv", fjarr_uv__txt="")
    index.add("fjarr-probe")
    index.require("fjarr-probe>=1")
    tools = index.packages / ".tools"
    index.provide()
    assert (tools / "uv" / "uv.py").is_file()
    assert find_uv(tools) is None  # this one is no program
    (tools / "uv" / "bin").mkdir()
    (tools / "uv" / "bin" / "uv").touch(0o755)
    assert find_uv(tools) == [str(tools / "uv" / "bin" / "uv")]


def test_folders_that_pth_files_name_are_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.pth").write_text("# a comment\nimport os\ninner\n\nmissing\n")
    assert path_entries(tmp_path) == (str(tmp_path), str(tmp_path / "inner"))


def test_packages_that_no_process_uses_are_removed(tmp_path: Path) -> None:
    for name in ("old", "used"):
        (tmp_path / "packages" / name).mkdir(parents=True)
    remove_packages(tmp_path / "packages", [tmp_path / "packages" / "used"])
    remove_packages(tmp_path / "nowhere", [])
    assert [path.name for path in (tmp_path / "packages").iterdir()] == ["used"]


def test_pip_s_indexes_are_used_for_uv_too() -> None:
    environ = {
        "PYTHONPATH": "/packages",
        "PIP_INDEX_URL": "https://mine/simple",
        "PIP_FIND_LINKS": "/a /b",
        "PIP_EXTRA_INDEX_URL": "https://other/simple",
        "UV_INDEX": "https://kept/simple",
    }
    own = installer_environment(environ)
    assert "PYTHONPATH" not in own
    assert (own["UV_DEFAULT_INDEX"], own["UV_FIND_LINKS"]) == ("https://mine/simple", "/a,/b")
    assert own["UV_INDEX"] == "https://kept/simple"
    command = uv_command(["uv"], Path("r.txt"), Path("target"), Path("cache"), has_no_index=True)
    assert command[:3] == ["uv", "pip", "install"]
    assert {"--no-index", "--require-hashes", "--no-deps"} <= set(command)

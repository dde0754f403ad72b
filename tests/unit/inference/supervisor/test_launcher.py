"""The environment of a release's processes, and the packages that a release provides for itself."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest

from inference.errors import TakeoverError
from inference.settings import Settings
from inference.supervisor import launcher as module
from inference.supervisor.launcher import PACKAGES, ReleaseLauncher

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "20260101T000000Z-00000001"
    (folder / "inference" / "supervisor").mkdir(parents=True)
    for name in ("__init__.py", "supervisor/__init__.py"):
        (folder / "inference" / name).touch()
    return folder


def launch(environ: dict[str, str] | None = None) -> ReleaseLauncher:
    return ReleaseLauncher(Settings(), {"PATH": os.environ["PATH"]} | (environ or {}))


def provides(release: Path, body: str) -> None:
    (release / "inference" / "supervisor" / "packages.py").write_text(f"import sys\n{body}\n")


def test_a_release_s_packages_come_first_and_its_programs_last(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "x.pth").write_text("inner\n")
    environ = launch({"PATH": "/bin", "PYTHONPATH": "/mine"}).environment("r1", tmp_path)
    assert environ["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), str(tmp_path / "inner"), "/mine"]
    assert environ["PATH"].split(os.pathsep) == ["/bin", str(tmp_path / "bin")]
    plain = launch({"PATH": "/bin"}).environment("r1", None)
    assert (plain["PATH"], plain.get("PYTHONPATH")) == ("/bin", None)


def test_a_release_s_own_code_provides_its_packages_and_is_logged(
    release: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provides(release, "sys.stderr.write('unpacked\\n'); sys.stdout.write(sys.argv[1] + '/set')")
    with caplog.at_level(logging.INFO, "inference.supervisor"):
        found = launch().install_beside(release)
    assert found == release.parent / PACKAGES / "set"
    assert f"{release.name}: unpacked" in caplog.text


def test_a_release_that_needs_no_packages_has_no_folder(release: Path) -> None:
    provides(release, "")
    assert launch().install_beside(release) is None


def test_the_last_line_is_the_reason_of_a_failure(release: Path) -> None:
    provides(release, "sys.stderr.write('installing\\n'); sys.exit('there is no such package')")
    with pytest.raises(TakeoverError, match=r"^there is no such package$"):
        launch().install_beside(release)


def test_the_first_release_s_packages_are_beside_the_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "local_folder", lambda: tmp_path)
    monkeypatch.setattr(module, "provide_packages", lambda _settings, packages: packages / "set")
    assert launch().install_first() == tmp_path / PACKAGES / "set"

    def fail(_settings: Settings, _packages: Path) -> Path:
        raise OSError("the disk is full")

    monkeypatch.setattr(module, "provide_packages", fail)
    with pytest.raises(TakeoverError, match="its packages cannot be installed: the disk is full"):
        launch().install_first()

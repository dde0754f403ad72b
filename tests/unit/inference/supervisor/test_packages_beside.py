"""The packages of a later release, beside those that run; and the page that answers meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from inference.errors import TakeoverError
from inference.supervisor.packages import (
    has_pip,
    install_beside,
    read_plan,
    read_report,
    resolve_command,
    target_command,
)
from inference.supervisor.page import StartingPage

if TYPE_CHECKING:
    from pathlib import Path

HAS_INSTALLER = has_pip() or shutil.which("uv") is not None
NEEDS_INSTALLER = pytest.mark.skipif(not HAS_INSTALLER, reason="there is neither pip nor uv")


def make_wheel(folder: Path, version: str) -> None:
    """Write a wheel of one module, as a package index would have it."""
    info = f"fjarr_probe-{version}.dist-info"
    contents = {
        "fjarr_probe.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: fjarr-probe\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*contents, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"fjarr_probe-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in (contents | {f"{info}/RECORD": record}).items():
            wheel.writestr(path, text)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    return folder


def requirements(tmp_path: Path, text: str) -> tuple[Path, ...]:
    (tmp_path / "requirements.txt").write_text(text)
    return (tmp_path / "requirements.txt",)


@NEEDS_INSTALLER
def test_only_the_difference_is_installed_and_only_for_the_new_processes(
    tmp_path: Path, wheels: Path
) -> None:
    make_wheel(wheels, "2.0")
    files = requirements(tmp_path, "fjarr-probe==2.0\npydantic>=2\n")
    folder = install_beside(files, tmp_path / "packages")
    assert sorted(path.name for path in folder.glob("*.py")) == ["fjarr_probe.py"]
    assert not (folder / "pydantic").exists()
    command = [sys.executable, "-c", "import fjarr_probe; print(fjarr_probe.VERSION)"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder)}
    assert subprocess.run(command, env=environ, check=True, capture_output=True).stdout == b"2.0\n"
    assert subprocess.run(command, env={"PATH": ""}, check=False, capture_output=True).returncode == 1
    # The same requirements need no second installation.
    (wheels / "fjarr_probe-2.0-py3-none-any.whl").unlink()
    assert install_beside(files, tmp_path / "packages") == folder


@NEEDS_INSTALLER
@pytest.mark.usefixtures("wheels")
def test_a_package_that_does_not_exist_is_named(tmp_path: Path) -> None:
    files = requirements(tmp_path, "fjarr-probe==3.0\n")
    with pytest.raises(TakeoverError, match=r"its packages cannot be installed: (.|\n)*fjarr-probe"):
        install_beside(files, tmp_path / "packages")
    assert not any((tmp_path / "packages").glob("[!.]*"))


def test_pip_s_report_and_uv_s_plan_say_what_would_be_installed() -> None:
    entries = [{"metadata": {"name": "a", "version": "1.0"}}, {"metadata": {"name": "b", "version": "2"}}]
    assert read_report(json.dumps({"version": "1", "install": entries})) == ("a==1.0", "b==2")
    plan = "Resolved 3 packages in 5ms\nWould install 2 packages\n - a==0.9\n + a==1.0\n + b==2\n"
    assert read_plan(plan) == ("a==1.0", "b==2")


def test_both_installers_resolve_first_and_then_install_without_dependencies(tmp_path: Path) -> None:
    file = tmp_path / "r.txt"
    for uses_pip, uv in ((True, "/bin/uv"), (True, None), (False, "/bin/uv")):
        resolve = resolve_command((file,), has_pip=uses_pip, uv=uv)
        assert "--dry-run" in resolve
        assert resolve[-2:] == ["-r", str(file)]
        install = target_command(("a==1",), tmp_path, has_pip=uses_pip, uv=uv)
        assert install[-4:] == ["--no-deps", "--target", str(tmp_path), "a==1"]
        assert (install[0] == "/bin/uv") is (resolve[0] == "/bin/uv") is not uses_pip


def test_the_page_answers_while_nobody_else_does() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def ask(path: str, body: bytes | None = None) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(address + path, body, timeout=10) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    document = {"release": "r1", "phase": "installing packages", "percent": 10, "ready": False}
    with listener:
        with StartingPage(listener, lambda: document):
            assert ask("/healthz") == (200, {"status": "ok"})
            assert ask("/version") == (200, document)
            progress = {"status": "starting", "phase": "installing packages", "percent": 10}
            assert ask("/readyz") == (503, progress)
            assert ask("/v1/chat/completions", b"{}")[0] == 503
        # The socket is still open, for the server that follows.
        with StartingPage(listener, lambda: document):
            assert ask("/healthz")[0] == 200

"""A replica's own Python environment: what its command installs or removes stays in it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from localcloud import virtual_environment

PURELIB = Path(sysconfig.get_path("purelib"))


def wheel(folder: Path, name: str, version: str) -> Path:
    """Write a wheel with one module, whose version it prints."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-run = {name}:VERSION\n",
    }
    record = "".join(f"{file},,\n" for file in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, content)
    return path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder" / "venv"  # with a space, which a script's first line cannot hold
    virtual_environment.create(folder)
    return folder


def run(made: Path, line: str) -> str:
    """Run a line of a template's command, as a replica does."""
    environment = {"PATH": f"{made / 'bin'}:{os.defpath}", "HOME": str(made.parent), "LANG": "C.UTF-8"}
    command = ["/bin/bash", "-c", f"set -e; {line}"]
    done = subprocess.run(
        command, env=environment, cwd=made.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_has_every_package_of_this_one(made: Path) -> None:
    assert run(made, "python3 -c 'import sys, aiohttp; print(sys.prefix, aiohttp.__version__)'") == (
        f"{made} {metadata.version('aiohttp')}"
    )
    assert run(made, "python -c 'import importlib.metadata as m; print(m.version(\"psutil\"))'")


def test_scripts_of_packages_run_in_it(made: Path) -> None:
    version = metadata.version("pytest")
    assert run(made, "pytest --version 2>&1") == f"pytest {version}"


def test_what_pip_does_stays_in_it(made: Path, tmp_path: Path) -> None:
    before = {path.name for path in PURELIB.iterdir()}
    old = metadata.version("invoke")
    first, newer = wheel(tmp_path, "fjarr_probe", "1.0"), wheel(tmp_path, "invoke", "99.0")
    quiet = "pip install --quiet --no-index --disable-pip-version-check"
    run(made, f"{quiet} '{first}' '{newer}'")
    assert run(
        made, "python3 -c 'import fjarr_probe, invoke; print(fjarr_probe.VERSION, invoke.VERSION)'"
    ) == ("1.0 99.0")
    assert (made / "bin/fjarr_probe-run").exists()
    # A package of the environment below cannot be removed through it.
    run(made, "pip uninstall --quiet --yes invoke psutil")
    assert run(made, "python3 -c 'import invoke, psutil; print(invoke.__version__)'") == old

    assert {path.name for path in PURELIB.iterdir()} == before
    assert metadata.version("invoke") == old
    assert not (Path(sys.prefix) / "bin/fjarr_probe-run").exists()


@pytest.mark.parametrize(
    ("content", "body"),
    [
        (b"#!/x/bin/python3\nprint()\n", b"print()\n"),
        (b"#!/usr/bin/env python\nprint()\n", b"print()\n"),
        (b"#!/bin/sh\n'''exec' /x y/python \"$0\" \"$@\"\n' '''\nprint()\n", b"print()\n"),
        (b"#!/bin/sh\necho\necho\n", b""),
        (b"\x7fELF", b""),
        (b"", b""),
    ],
)
def test_what_is_a_python_script(content: bytes, body: bytes) -> None:
    assert virtual_environment._script_body(content) == body

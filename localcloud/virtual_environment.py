"""Make a virtual environment over this one: it sees every package of this one, and changes none of them.

A replica gets one, as a container has a file system of its own: what `pip install` in a template's command
installs or removes stays in it.

Not emulated: the packages of a container's image. Those of the local cloud's environment take their place.
"""

from __future__ import annotations

import ensurepip
import os
import sys
import venv
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

SITE_FILE: Final = "fjarr-lower-layer.pth"
"""The file that adds this environment's packages to those of a new one, which come first."""

_FOLDER_NAMES: Final = ("site-packages", "dist-packages")
_LAUNCHER: Final = b"#!/bin/sh\n'''exec' \"$(dirname \"$0\")/python3\" \"$0\" \"$@\"\n' '''\n"
"""Starts the Python beside a script, whatever the path: a shell and Python read these lines differently."""

_OWN_PROGRAMS: Final = ("python", "pip", "activate", "Activate")


def create(folder: Path) -> None:
    """Create a virtual environment over this one in a folder that does not exist. Blocks on the disk."""
    venv.EnvBuilder(symlinks=os.name != "nt", with_pip=False).create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({path!r})" for path in _package_folders()]
    if not _has_pip():
        lines += map(str, Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    (packages / SITE_FILE).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    programs = folder / "bin"
    for name in ("pip", "pip3"):
        _write_program(
            programs / name, _LAUNCHER + b"import runpy\nrunpy.run_module('pip', run_name='__main__')\n"
        )
    for name, body in _scripts().items():
        _write_program(programs / name, _LAUNCHER + body)
    for name, target in _binaries().items():
        (programs / name).symlink_to(target)


def _has_pip() -> bool:
    # Not `find_spec`: setuptools' hook for pip replaces distutils, and warns if that is imported already.
    try:
        return bool(metadata.version("pip"))
    except metadata.PackageNotFoundError:
        return False


def _package_folders() -> list[str]:
    return [path for path in sys.path if Path(path).name in _FOLDER_NAMES and Path(path).is_dir()]


@cache
def _scripts() -> dict[str, bytes]:
    """Return the Python scripts of this environment's packages, without the lines that start Python."""
    return {path.name: body for path in _programs() if (body := _script_body(path.read_bytes()))}


def _script_body(content: bytes) -> bytes:
    """Return a Python script without the lines that start Python; empty if it is not one."""
    first, _, rest = content.partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        return rest
    exec_line, _, rest = rest.partition(b"\n")
    _, _, body = rest.partition(b"\n")  # the line that ends the shell's part
    return body if exec_line.startswith(b"'''exec'") else b""


@cache
def _binaries() -> dict[str, Path]:
    """Return this environment's other programs, such as uv."""
    return {path.name: path for path in _programs() if not path.read_bytes().startswith(b"#!")}


def _programs() -> list[Path]:
    if sys.prefix == sys.base_prefix:
        return []  # no virtual environment: its programs are on the system's path
    folder = Path(sys.prefix) / "bin"
    files = folder.iterdir() if folder.is_dir() else ()
    return [
        path
        for path in files
        if path.is_file() and not path.name.startswith(_OWN_PROGRAMS) and os.access(path, os.X_OK)
    ]


def _write_program(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o755)

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from inference.imports import MODULES_PER_MESSAGE, Imports, find_imports

if TYPE_CHECKING:
    from pathlib import Path


def module(name: str, origin: str | None = None) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = importlib.util.spec_from_loader(name, None, origin=origin)
    return made


def test_libraries_are_reported_and_not_what_the_release_or_python_brings(tmp_path: Path) -> None:
    modules: dict[str, ModuleType | None] = {
        "json": module("json"),
        "__main__": ModuleType("__main__"),
        "library": module("library", "/site-packages/library/__init__.py"),
        "library.part": module("library.part", "/site-packages/library/part.py"),
        "other_name": module("library.part"),
        "inference.server": module("inference.server"),
        "beside": module("beside", str(tmp_path / "beside.py")),
        "torch": None,
    }
    found = find_imports(modules, tmp_path, {"QUIET": "1"})
    assert found == Imports(("library", "library.part"), ("torch",), {"QUIET": "1"})


def test_a_report_crosses_the_control_channel_in_lines_of_limited_length() -> None:
    names = tuple(f"library.module_{number}" for number in range(MODULES_PER_MESSAGE + 1))
    imports = Imports(names, ("torch",), {"QUIET": "1"})
    received = Imports()
    messages = list(imports.messages())
    assert [message.get("complete", False) for message in messages] == [False, False, True]
    for message in messages:
        received = received.extended(message)
    assert received == imports


def test_what_is_imported_already_need_not_be_imported_anew() -> None:
    one = Imports(("a", "b"), ("torch",), {"QUIET": "1"})
    assert one.includes(Imports(("b",)))
    assert not one.includes(Imports(("b", "c")))
    assert not one.includes(Imports(blocked=("jax",)))
    assert not one.includes(Imports(environ={"QUIET": "2"}))
    assert one.united(Imports(("b", "c"))) == Imports(("a", "b", "c"), ("torch",), {"QUIET": "1"})


def test_what_this_process_has_imported_can_be_found(tmp_path: Path) -> None:
    found = find_imports(sys.modules, tmp_path, {})
    assert "pytest" in found.modules
    assert not {"json", "__main__", "inference.imports"} & set(found.modules)

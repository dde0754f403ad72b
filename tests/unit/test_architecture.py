"""The rules of the code's structure that no linter checks: sizes, cycles, constants, test code in packages.

import-linter checks the layers; see pyproject.toml.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("infra", "inference", "localcloud")
MAX_LINES: Final = 450
MAX_MODULES: Final = 16

LARGE_FOLDERS: Final = {
    "localcloud/files": "one module per group of Azure Files' operations, as their documentation has pages",
    "infra/verbs": "one module per verb, or per group of verbs",
}

CONSTANT: Final = re.compile(r"_?[A-Z][A-Z0-9_]+")
UNUSUAL_LIMIT: Final = re.compile(r"(^|_)(MOST|LARGEST|LONGEST|GREATEST|LEAST|SMALLEST|SHORTEST)(_|$)")
TEST_DOUBLE: Final = re.compile(r"_?(Fake|Mock|Stub|Dummy|Scripted)[A-Z]")
TEST_MODULES: Final = {"tests", "pytest", "unittest", "doctest", "hypothesis"}


@cache
def trees() -> dict[str, ast.Module]:
    """Return every module's syntax tree, by its path from the root."""
    paths = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_names(tree: ast.AST, modules: Collection[str] = ()) -> Iterator[str]:
    """Return what a module imports, in functions too: modules, and packages that re-export names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules else node.module for name in names)


def constants(tree: ast.Module) -> Iterator[tuple[ast.stmt, str]]:
    """Return the statements that define a module's constants, with their names."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = (
            each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name)
        )
        yield from ((node, name) for name in names if CONSTANT.fullmatch(name))


def test_no_folder_has_many_modules() -> None:
    paths = [Path(path) for path in trees()]
    counts = Counter(str(path.parent) for path in paths if path.name != "__init__.py")
    assert {folder for folder, count in counts.items() if count > MAX_MODULES} == set(LARGE_FOLDERS)


def test_no_module_is_long() -> None:
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in trees()}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_no_modules_import_each_other() -> None:
    """Imports for types alone count too: a reader follows them as well."""
    named = {module_name(path): tree for path, tree in trees().items()}
    graph = {name: {*imported_names(tree, named)} & named.keys() for name, tree in named.items()}
    graphlib.TopologicalSorter(graph).prepare()


def test_no_package_imports_test_code_or_defines_a_test_double() -> None:
    for path, tree in trees().items():
        imported = {name.partition(".")[0] for name in imported_names(tree)}
        assert not imported & TEST_MODULES, path
        classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        assert not [name for name in classes if TEST_DOUBLE.match(name)], path


def test_constants_are_final_and_limits_are_called_max_and_min() -> None:
    wrong = []
    for path, tree in trees().items():
        for node, name in constants(tree):
            is_final = isinstance(node, ast.AnnAssign) and "Final" in ast.unparse(node.annotation)
            if not is_final or UNUSUAL_LIMIT.search(name):
                wrong.append(f"{path}:{node.lineno} {name}")
    assert wrong == []


def test_loggers_are_called_logger() -> None:
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and "getLogger" in ast.unparse(node):
                assert ast.unparse(node).startswith("LOGGER: Final = logging.getLogger("), path


def test_the_start_needs_no_installed_package() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import inference.start"
    # -S leaves out the installed packages, -I the environment's paths.
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)

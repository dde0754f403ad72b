"""The installer: what it passes on of pip's configuration, and which build of torch it chooses."""

from __future__ import annotations

import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import install
from install import PipConfiguration, choose_torch_backend, parse_pip_configuration, uv_arguments

ROOT = Path(install.__file__).parent
PYTHON = Path("env/bin/python")


def test_pip_without_a_configuration_has_no_sources_of_its_own() -> None:
    assert parse_pip_configuration("") == PipConfiguration()
    assert not parse_pip_configuration("global.timeout='60'\n").has_own_sources


def test_pip_configuration_is_passed_on() -> None:
    text = """:env:.find-links='/wheels /more wheels'
global.cert='/etc/ca.crt'
global.constraint='/etc/limits.txt'
global.extra-index-url='file:///disk/simple https://extra.example/simple'
global.index-url='https://mirror.example/simple'
"""
    found = parse_pip_configuration(text)
    assert found == PipConfiguration(
        find_links=("/wheels", "/more", "wheels"),
        indexes=("https://mirror.example/simple", "https://extra.example/simple"),
        is_default_replaced=True,
        constraints=("/etc/limits.txt",),
        certificates="/etc/ca.crt",
    )
    assert uv_arguments(PYTHON, ("local",), found, None) == (
        "pip", "install", "--python", "env/bin/python", "--constraint", str(ROOT / "constraints.txt"),
        "--constraint", "/etc/limits.txt", "--find-links", "/wheels", "--find-links", "/more", "--find-links",
        "wheels", "--default-index", "https://mirror.example/simple", "--index",
        "https://extra.example/simple", "--editable", ".[local]",
    )  # fmt: skip


def test_an_extra_index_does_not_replace_the_default_one() -> None:
    found = parse_pip_configuration("user.extra-index-url='https://extra.example/simple'")
    assert "--default-index" not in uv_arguments(PYTHON, (), found, None)
    assert uv_arguments(PYTHON, (), found, None)[-1] == "."


@pytest.mark.parametrize(
    ("wanted", "extras", "pip", "is_reachable", "expected"),
    [
        (None, ("local",), PipConfiguration(), True, "auto"),
        (None, ("local",), PipConfiguration(), False, None),
        (None, (), PipConfiguration(), True, None),
        (None, ("local",), PipConfiguration(find_links=("/wheels",)), True, None),
        ("cu126", ("local",), PipConfiguration(), False, "cu126"),
        ("default", ("local",), PipConfiguration(), True, None),
    ],
)
def test_the_build_of_torch(
    wanted: str | None,
    extras: tuple[str, ...],
    pip: PipConfiguration,
    is_reachable: bool,  # noqa: FBT001 - a parameter of the table
    expected: str | None,
) -> None:
    assert choose_torch_backend(wanted, extras, pip, is_index_reachable=is_reachable) == expected


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(install.EXTRAS) == set(project["optional-dependencies"])


def test_the_pipeline_needs_none_of_the_server_s_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {requirement.partition(">")[0].partition("=")[0] for requirement in project["dependencies"]}
    assert names.isdisjoint(install.SERVER_PACKAGES)


def test_an_old_python_is_told_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.version_info", (3, 10, 2))
    monkeypatch.setattr("sys.argv", ["install.py"])
    assert install.main() == 3
    assert capsys.readouterr().err.startswith("error: Python 3.10.2 is too old; Fjarr needs 3.11 or newer\n")


def test_requirements_are_installed_in_the_projects_place_with_their_own_versions() -> None:
    requirements = Path("clients.txt")
    arguments = uv_arguments(PYTHON, (), PipConfiguration(find_links=("/wheels",)), None, requirements)
    assert arguments == (
        "pip", "install", "--python", str(PYTHON), "--find-links", "/wheels", "--requirement", "clients.txt",
    )  # fmt: skip


def test_a_program_s_output_is_shown_only_if_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    program = [sys.executable, "-c", "import sys; print('why'); sys.exit(int(sys.argv[1]))"]
    assert install._run("do it", [*program, "0"]) == 0
    assert capsys.readouterr().err == "do it\n"
    assert install._run("do it", [*program, "7"]) == 7
    assert capsys.readouterr().err == "do it\nwhy\n"


def test_a_terminal_sees_that_a_program_still_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "TICK_S", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    program = [sys.executable, "-c", "import sys; sys.exit(0)"]
    assert install._run("do it", program) == 0
    assert capsys.readouterr().err.startswith("do it.")


def test_modules_that_are_compiled_exist() -> None:
    for name in (*install.PIPELINE_MODULES, *install.AZ_MODULES, *install.CLOUD_MODULES):
        assert find_spec(name) is not None, name


def test_compiling_writes_bytecode_where_python_otherwise_writes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "module.py").write_text("", encoding="utf-8")
    program = [sys.executable, "-c", install._imports(("no_such_module", "module"))]
    assert install._run("compile", program, env=install._compiling_environment()) == 0
    assert list(tmp_path.glob("__pycache__/module.*.pyc"))

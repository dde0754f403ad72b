"""The reference evaluator for templates, and deployments for these tests."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from localcloud.template import Deployment, Scope, load_template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

_JUDGE = Path(__file__).parents[2] / "snapshots" / "judge.py"


def _load_judging() -> ModuleType:
    spec = importlib.util.spec_from_file_location("snapshot_judge", _JUDGE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


JUDGING = _load_judging()


@pytest.fixture(scope="session")
def judging() -> ModuleType:
    """The module with the reference evaluator and the paths of the committed snapshots."""
    return JUDGING


@pytest.fixture(scope="session")
def judge() -> Iterator[Any]:
    if shutil.which("bicep") is None:
        pytest.skip("the Bicep CLI is not on PATH: the committed snapshots are not compared with it")
    with JUDGING.Judge() as started:
        yield started


@pytest.fixture
def scope() -> Scope:
    place = JUDGING.PLACE
    return Scope(
        place["subscriptionId"],
        place["tenantId"],
        place["resourceGroup"],
        place["location"],
        place["deploymentName"],
    )


@pytest.fixture
def deploy(scope: Scope) -> Callable[..., Deployment]:
    """Return a function that makes a deployment of a template's text."""

    def make(text: str, **values: Any) -> Deployment:
        return Deployment(
            load_template(text), {name: {"value": value} for name, value in values.items()}, scope
        )

    return make


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests with the committed cases."""
    if "snapshot_case" in metafunc.fixturenames:
        folders = (JUDGING.INFERENCE, JUDGING.LANGUAGE / "templates")
        found = [
            pytest.param((folder / f"{name}.snapshot.json", *case), id=f"{folder.name}-{name}")
            for folder in folders
            for name, case in JUDGING.cases(folder).items()
        ]
        metafunc.parametrize("snapshot_case", found)
    if "error" in metafunc.fixturenames:
        table = JUDGING.read(JUDGING.LANGUAGE / "errors.json")
        metafunc.parametrize("error", table.values(), ids=table)
    if "refused" in metafunc.fixturenames:
        table = JUDGING.read(JUDGING.LANGUAGE / "expressions.json")["errors"]
        metafunc.parametrize("refused", table.items(), ids=table)

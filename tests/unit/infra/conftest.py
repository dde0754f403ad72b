"""A stage that the verbs run on, and a scripted az."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING

import pytest

from infra.config.endpoint import write_config
from infra.config.stage import load_stage
from infra.console import Console
from infra.process import Runner
from infra.session import Session
from tests.doubles.azure_stage import CONFIG, REPOSITORY
from tests.doubles.scripted_az import ScriptedAz

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def az(tmp_path: Path) -> ScriptedAz:
    return ScriptedAz({}, tmp_path)


@pytest.fixture
def session(tmp_path: Path, az: ScriptedAz) -> Session:
    (tmp_path / "infra/provision").mkdir(parents=True)
    shutil.copy(REPOSITORY / "infra/stages.toml", tmp_path / "infra/stages.toml")
    shutil.copy(REPOSITORY / "infra/provision/inference.json", tmp_path / "infra/provision/inference.json")
    write_config(tmp_path / "infra/inference.config.json", CONFIG)
    stage = load_stage(tmp_path, "azure")
    return Session(tmp_path, stage, Console(io.StringIO()), Runner({}, tmp_path), az, None, None)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait after Ctrl-C for as long as a busy machine takes, where a user waits for a second."""
    monkeypatch.setattr("infra.release.lock._RELEASE_S", 60.0)
    monkeypatch.setattr("infra.resources.deployments._ASK_S", 60.0)

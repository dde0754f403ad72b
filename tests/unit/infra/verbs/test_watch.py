"""Deployments of what is saved, one after the other."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from infra.release.tree import FolderWatch
from infra.verbs import deploy
from tests.doubles.deployed_stage import DeployedStage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.deploy_context import DeployContext
    from infra.release.tree import Stamps
    from infra.session import Session


def test_each_save_is_deployed_and_a_bad_one_does_not_end_it(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = DeployedStage(tmp_path, bad={"bad"})
    server = tmp_path / "inference" / "server.py"
    server.parent.mkdir()
    server.write_text("one")
    texts = iter(("bad", "two"))
    served: list[str] = []

    @contextmanager
    def opened(*_: object) -> Iterator[DeployContext]:
        yield replace(stage.context, console=session.console)

    def save(_watch: FolderWatch, _before: Stamps) -> None:
        served.append(stage.served())
        stage.clock.sleep(60)
        text = next(texts, None)
        if text is None:
            raise KeyboardInterrupt
        server.write_text(text)

    monkeypatch.setattr(deploy, "open_deploy_context", opened)
    monkeypatch.setattr(FolderWatch, "wait", save)
    with pytest.raises(KeyboardInterrupt):
        deploy.watch_deploy(session)
    assert served == ["one", "one", "two"]


def test_a_save_while_it_deploys_is_not_missed(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the files were is looked up before they are read, so that a later save differs from it."""
    stage = DeployedStage(tmp_path)
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "server.py").write_text("one")
    before: list[Stamps] = []

    @contextmanager
    def opened(*_: object) -> Iterator[DeployContext]:
        yield stage.context

    def save_at_once(change: str) -> None:
        if change.startswith("write CURRENT"):
            (tmp_path / "inference" / "server.py").write_text("one, and more")

    def end(watch: FolderWatch, stamps: Stamps) -> None:
        before.append(stamps)
        assert watch.read_stamps() != stamps
        raise KeyboardInterrupt

    stage.share.before_change = save_at_once
    monkeypatch.setattr(deploy, "open_deploy_context", opened)
    monkeypatch.setattr(FolderWatch, "wait", end)
    with pytest.raises(KeyboardInterrupt):
        deploy.watch_deploy(session)
    assert len(before) == 1

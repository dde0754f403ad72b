"""The user's programs around a change."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest

from infra.console import Console
from infra.errors import RemoteError, ToolError, UsageError
from infra.process import Runner
from infra.release.hooks import NO_HOOKS, HookPrograms, Hooks
from infra.verbs.rollback import roll_back_to
from tests.doubles.deployed_stage import DeployedStage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def hooks(tmp_path: Path, output: io.StringIO) -> Hooks:
    (tmp_path / "hooks").mkdir()
    runner = Runner({"PATH": os.environ["PATH"]}, tmp_path)
    facts = (("FJARR_STAGE", "local"),)
    return Hooks(HookPrograms(tmp_path / "hooks", runner, Console(output), facts))


def write(project: Path, name: str, script: str) -> None:
    path = project / "hooks" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_hooks_are_told_what_the_change_is_about(hooks: Hooks, tmp_path: Path, output: io.StringIO) -> None:
    write(tmp_path, "pre-deploy", 'echo "$FJARR_STAGE $FJARR_VERB $FJARR_DIGEST"')
    write(tmp_path, "post-deploy", 'echo "$FJARR_RELEASE $FJARR_OUTCOME" >> told')
    with hooks.around("deploy", digest="abc") as facts:
        facts.set(release="20260101T000000Z-01234567")
    assert "local deploy abc" in output.getvalue()
    assert (tmp_path / "told").read_text() == "20260101T000000Z-01234567 done\n"


def test_a_hook_that_fails_stops_the_change(hooks: Hooks, tmp_path: Path) -> None:
    write(tmp_path, "pre-deploy", "echo tests are red; exit 3")
    with pytest.raises(ToolError, match="the hook pre-deploy failed with exit code 3") as caught:
        hooks.around("deploy").__enter__()
    assert caught.value.details == ("tests are red",)


def test_the_hook_after_a_failure_is_told_why(hooks: Hooks, tmp_path: Path) -> None:
    write(tmp_path, "post-push", 'echo "$FJARR_OUTCOME: $FJARR_REASON" > told')
    with pytest.raises(RemoteError), hooks.around("push"):
        raise RemoteError("it is too heavy")
    assert (tmp_path / "told").read_text() == "failed: it is too heavy\n"


def test_a_hook_that_fails_afterwards_is_a_warning(hooks: Hooks, tmp_path: Path, output: io.StringIO) -> None:
    write(tmp_path, "post-push", "echo nobody listens; exit 1")
    with hooks.around("push"):
        pass
    assert "warning: the hook post-push failed with exit code 1\nnobody listens" in output.getvalue()


def test_a_hook_that_cannot_be_run_says_what_to_do(hooks: Hooks, tmp_path: Path) -> None:
    write(tmp_path, "post-push", "true")
    (tmp_path / "hooks" / "post-push").chmod(0o644)
    with pytest.raises(UsageError, match="post-push is not executable") as caught:
        hooks.around("push").__enter__()
    assert str(caught.value.hint).startswith("chmod +x ")


def test_without_hooks_nothing_runs() -> None:
    with NO_HOOKS.around("deploy") as facts:
        facts.set(release="x")


def test_a_deployment_and_a_rollback_run_theirs(hooks: Hooks, tmp_path: Path) -> None:
    for name in ("pre-deploy", "post-deploy", "pre-rollback", "post-rollback"):
        write(tmp_path, name, f'echo "{name} $FJARR_PREVIOUS $FJARR_RELEASE" >> told')
    stage = DeployedStage(tmp_path, hooks=hooks)
    one = stage.deploy("one").release
    stage.deploy("one")
    two = stage.deploy("two").release
    roll_back_to(stage.context)
    assert [" ".join(line.split()) for line in (tmp_path / "told").read_text().splitlines()] == [
        "pre-deploy",
        f"post-deploy {one}",
        "pre-deploy",
        f"post-deploy {one} {two}",
        f"pre-rollback {two} {one}",
        f"post-rollback {two} {one}",
    ]


def test_a_deployment_that_a_hook_stops_changes_nothing(hooks: Hooks, tmp_path: Path) -> None:
    stage = DeployedStage(tmp_path, hooks=hooks)
    stage.deploy("one")
    write(tmp_path, "pre-deploy", "exit 1")
    before = dict(stage.share.files)
    with pytest.raises(ToolError):
        stage.deploy("two")
    assert stage.share.files == before

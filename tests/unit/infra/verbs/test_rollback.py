"""Earlier releases made live again, and restarts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from infra.errors import RemoteError, UsageError
from infra.release.audit import read_audit
from infra.release.known import KnownReleases, KnownState
from infra.release.releases import read_live, set_current
from infra.verbs.rollback import restart_live, roll_back_to
from tests.doubles.deployed_stage import DeployedStage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def stage(tmp_path: Path) -> DeployedStage:
    return DeployedStage(tmp_path)


def test_without_an_id_the_release_that_served_before_comes_back(stage: DeployedStage) -> None:
    one = stage.deploy("one").release
    stage.bad.add("bad")
    with pytest.raises(RemoteError):
        stage.deploy("bad")
    two = stage.deploy("two").release
    result = roll_back_to(stage.context)
    assert (result.release, result.previous) == (one, two)
    assert stage.served() == "one"
    live = read_live(stage.share)
    assert live.current == live.proven == one
    entry = read_audit(stage.share, 1)[0]
    assert (entry.verb, entry.outcome, entry.release) == ("rollback", "proven", one)
    assert result.to_text().splitlines()[:2] == [f"release   {one}", f"before    {two}"]


def test_a_second_rollback_goes_forward_again(stage: DeployedStage) -> None:
    stage.deploy("one")
    stage.deploy("two")
    roll_back_to(stage.context)
    roll_back_to(stage.context)
    assert stage.served() == "two"


@pytest.mark.parametrize("part", [slice(0, 14), slice(-8, None), slice(None)], ids=["begin", "end", "whole"])
def test_a_release_is_named_by_a_part_of_its_id(stage: DeployedStage, part: slice) -> None:
    one = stage.deploy("one").release
    stage.deploy("two")
    stage.deploy("three")
    assert roll_back_to(stage.context, one[part]).release == one


def test_a_release_that_does_not_serve_leaves_the_live_one(stage: DeployedStage) -> None:
    one = stage.deploy("one").release
    two = stage.deploy("two").release
    stage.bad.add("one")
    with pytest.raises(RemoteError, match=f"release {one} does not serve") as caught:
        roll_back_to(stage.context)
    assert caught.value.details[0] == f"rolled back: {two} serves again"
    assert stage.served() == "two"
    entry = read_audit(stage.share, 1)[0]
    assert (entry.outcome, entry.release) == ("failed", one)
    assert entry.reason.startswith(f"release {one} does not serve")


def test_a_rollback_that_was_interrupted_is_completed(stage: DeployedStage, tmp_path: Path) -> None:
    stage.deploy("one")
    two = stage.deploy("two").release
    roll_back_to(stage.context)
    # This machine has seen it serve, and was killed on the way back to it once the pointer was written.
    known = KnownReleases(tmp_path / "memory")
    known.set_state(KnownState(two))
    set_current(stage.share, two)
    roll_back_to(replace(stage.context, known=known), two)
    live = read_live(stage.share)
    assert live.current == live.proven == two
    assert "is live already" not in stage.output.getvalue()


def test_what_cannot_be_rolled_back_to_is_refused(stage: DeployedStage) -> None:
    with pytest.raises(UsageError, match="there is no earlier release"):
        roll_back_to(stage.context)
    one = stage.deploy("one").release
    with pytest.raises(UsageError, match="there is no earlier release"):
        roll_back_to(stage.context)
    with pytest.raises(UsageError, match=f"{one} is live already"):
        roll_back_to(stage.context, one)
    with pytest.raises(UsageError, match="no release on the share match 'x'"):
        roll_back_to(stage.context, "x")
    stage.deploy("two")
    with pytest.raises(UsageError, match="2 releases on the share match '2026'"):
        roll_back_to(stage.context, "2026")
    del stage.share.files[f"releases/{one}/release.json"]
    with pytest.raises(UsageError, match="was never finished"):
        roll_back_to(stage.context, one)
    assert ".lock" not in stage.share.files


def test_a_share_without_an_audit_is_rolled_back_to_the_release_before(stage: DeployedStage) -> None:
    stage.deploy("one")
    two = stage.deploy("two").release
    stage.deploy("three")
    stage.share.files = {path: each for path, each in stage.share.files.items() if "audit/" not in path}
    assert roll_back_to(stage.context).release == two


def test_a_restart_keeps_the_release_and_starts_new_replicas(stage: DeployedStage) -> None:
    one = stage.deploy("one").release
    result = restart_live(stage.context)
    assert (result.release, result.previous) == (one, one)
    assert stage.app.log == ["restart app--1", "restart app--1"]
    assert "before" not in result.to_text()
    assert read_audit(stage.share, 1)[0].verb == "restart"


def test_a_restart_of_a_release_that_crashes_changes_nothing(stage: DeployedStage) -> None:
    stage.deploy("one")
    stage.bad.add("one")
    with pytest.raises(RemoteError) as caught:
        restart_live(stage.context)
    assert caught.value.details[0] == "nothing was changed; invoke rollback makes another one live"
    assert stage.served() == "one"


def test_a_restart_of_an_interrupted_deployment_proves_it(stage: DeployedStage) -> None:
    one = stage.deploy("one").release
    del stage.share.files["PROVEN"]
    restart_live(stage.context)
    assert read_live(stage.share).proven == one


def test_nothing_deployed_cannot_be_restarted(stage: DeployedStage) -> None:
    with pytest.raises(UsageError, match="nothing is deployed on this stage"):
        restart_live(stage.context)


def test_a_locked_stage_is_not_rolled_back(stage: DeployedStage) -> None:
    stage.deploy("one")
    stage.deploy("two")
    replace(stage.context.lock).take_for_a_person("wait")
    with pytest.raises(RemoteError, match="is locked: ida on laptop: wait"):
        roll_back_to(stage.context)
    assert stage.served() == "two"

"""Deployments to replicas that watch the share: nothing is restarted, and every replica has to prove it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from infra.clock import ManualClock
from infra.console import Console
from infra.deploy_context import DeployContext
from infra.errors import RemoteError, WaitTimeoutError
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.release.manifest import Origin
from infra.release.releases import read_live
from infra.release.takeovers.approach import SUPERVISOR
from infra.release.tree import scan_tree
from infra.verbs.deploy import DeployPlan, DeployResult, LocalTree, deploy_tree, plan_tree
from tests.doubles.background import at_once
from tests.doubles.memory_share import MemoryShare
from tests.doubles.watching_app import WatchingApp

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class World:
    """One share, an app of two replicas, one clock."""

    root: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC)))
    share: MemoryShare = field(default_factory=MemoryShare)
    output: io.StringIO = field(default_factory=io.StringIO)
    has_supervisor: bool = True
    words: str = "server"
    app: WatchingApp = field(init=False)

    def __post_init__(self) -> None:
        self.app = WatchingApp(self.share, self.clock, replicas=2)

    def deploy(self, text: str, *, restart: bool = False) -> DeployResult:
        return deploy_tree(*self.prepare(text), restart=restart)

    def plan(self, text: str) -> DeployPlan:
        """Return what a deployment would change."""
        return plan_tree(*self.prepare(text), read_live(self.share))

    def prepare(self, text: str) -> tuple[DeployContext, LocalTree]:
        """Return the context of a new command, and the tree whose server is `text`."""
        (self.root / SUPERVISOR).parent.mkdir(parents=True, exist_ok=True)
        (self.root / SUPERVISOR).unlink(missing_ok=True)
        if self.has_supervisor:
            (self.root / SUPERVISOR).write_text("")
        (self.root / "inference" / "server.py").write_text(text)
        self.clock.sleep(1)
        console = Console(self.output)
        lock = DeployLock(self.share, self.clock, Holder("ida", "laptop", 1, 0.0, "laptop"), console.warn)
        context = DeployContext(self.share, self.app, lock, self.clock, console, at_once, timeout_s=60.0)
        origin = Origin(self.clock.now(), "ida@laptop", "0.1.0")
        tree = LocalTree(
            self.root, scan_tree(self.root / "inference"), lambda: origin, lambda _paths: self.words
        )
        return context, tree


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_first_release_is_started_by_the_containers_that_wait(world: World) -> None:
    result = world.deploy("one")
    assert world.app.log == []
    assert world.app.served() == {result.release}
    assert result.outage_s is None
    assert "the container that waits starts it" in world.output.getvalue()


def test_a_second_one_is_proven_by_every_replica_without_a_restart(world: World) -> None:
    first = world.deploy("one")
    result = world.deploy("two")
    assert world.app.log == []
    assert world.app.served() == {result.release}
    assert (result.previous, result.replicas) == (first.release, ("app--1-1", "app--1-2"))
    assert (result.is_restarted, result.outage_s) == (False, 0.0)
    assert result.seconds <= 3.0
    # One listing of the replicas for each deployment.
    assert world.app.listings == 2


def test_the_bytes_that_a_replica_reads_are_shown_within_one_phase(world: World) -> None:
    world.deploy("one")
    texts = [f"reading the weights: {done}.0 of 7.6 GB, {13 * done} %" for done in range(1, 4)]
    shown = iter(texts)
    world.app.starting_phase = lambda: next(shown, texts[-1])
    world.deploy("two")
    output = world.output.getvalue()
    # The first is drawn by the look before the wait.
    for text in texts[1:]:
        assert f"1: {text} (" in output or f"2: {text} (" in output


def test_the_replica_that_does_not_answer_is_named(world: World) -> None:
    world.deploy("one")
    world.app.silent.add("app--1-2")
    with pytest.raises(WaitTimeoutError, match="not within 60 s: replica app--1-2 has not answered"):
        world.deploy("two")


def test_the_replica_that_hangs_is_named_with_its_phase_and_all_are_taken_back(world: World) -> None:
    first = world.deploy("one")
    world.app.outcome = lambda release, replica: (
        "" if replica == "app--1-2" and release != first.release else None
    )
    with pytest.raises(WaitTimeoutError) as raised:
        world.deploy("two")
    assert "replica app--1-2 still serves" in raised.value.message
    assert "starting the server, 0 %" in raised.value.message
    assert world.app.served() == {first.release}
    assert read_live(world.share).current == read_live(world.share).proven == first.release
    assert world.app.log == []


def test_a_failed_takeover_is_taken_back_with_the_reason_from_inside(world: World) -> None:
    first = world.deploy("one")
    world.app.outcome = lambda release, replica: (
        "No module named 'nowhere'" if replica == "app--1-1" and release != first.release else None
    )
    with pytest.raises(RemoteError) as raised:
        world.deploy("two")
    assert raised.value.exit_code == 4
    assert "replica app--1-1: " in raised.value.message
    assert raised.value.message.endswith("No module named 'nowhere'")
    assert raised.value.details[0] == f"rolled back: {first.release} serves again"
    assert "  the log of app--1-1" in raised.value.details
    assert world.app.served() == {first.release}
    assert world.app.log == []


def test_a_replica_that_does_not_watch_the_share_is_restarted(world: World) -> None:
    world.deploy("one")
    world.app.deaf = {"app--1-1", "app--1-2"}
    result = world.deploy("two")
    assert world.app.log == ["restart app--1"]
    assert result.is_restarted
    assert "does not watch the share" in world.output.getvalue()


def test_one_of_several_replicas_that_does_not_watch_the_share_is_enough_for_a_restart(world: World) -> None:
    world.deploy("one")
    world.app.deaf = {"app--1-1"}
    result = world.deploy("two")
    assert world.app.log == ["restart app--1"]
    assert world.app.served() == {result.release}


def test_restart_is_there_for_whoever_wants_it(world: World) -> None:
    world.deploy("one")
    result = world.deploy("two", restart=True)
    assert world.app.log == ["restart app--1"]
    # The same tree again is restarted, too, and nothing is uploaded.
    again = world.deploy("two", restart=True)
    assert (again.release, again.uploaded_files, again.is_restarted) == (result.release, 0, True)
    assert world.app.log == ["restart app--1"] * 2


def test_a_release_without_a_supervisor_is_started_by_a_restart(world: World) -> None:
    world.deploy("one")
    world.has_supervisor = False
    assert world.deploy("two").is_restarted
    assert "because the release has no supervisor" in world.output.getvalue()


def test_a_first_release_that_fails_is_taken_back_without_a_restart(world: World) -> None:
    world.app.outcome = lambda _release, _replica: "there is no model"
    with pytest.raises(RemoteError, match="there is no model"):
        world.deploy("one")
    assert read_live(world.share).current is None
    assert world.app.log == []


def test_a_plan_tells_how_the_replicas_would_get_the_release(world: World) -> None:
    first = world.plan("one")
    assert (
        first.to_json().items() >= {"changed": True, "restarts": False, "is_restart_pending": False}.items()
    )
    assert first.to_text().splitlines()[-1] == "the container that waits starts it"
    world.deploy("one")
    assert world.plan("one").to_json()["approach"] == ""
    changed = world.plan("two")
    assert changed.to_text().splitlines()[-1].startswith("only server code has changed")
    world.words = "server supervisor"
    late = world.plan("two")
    assert late.to_json()["is_restart_pending"]
    assert "invoke restart afterwards, or --restart at once" in late.to_text()
    world.app.deaf = {"app--1-1", "app--1-2"}
    assert world.plan("two").to_json().items() >= {"restarts": True, "is_restart_pending": False}.items()


def test_a_supervisor_that_waits_for_a_restart_is_part_of_the_result(world: World) -> None:
    world.deploy("one")
    world.words = "server supervisor"
    result = world.deploy("two")
    assert result.is_restart_pending
    assert result.to_text().splitlines()[-1] == "restart   invoke restart, for the supervisor's new code"
    assert not world.deploy("three", restart=True).is_restart_pending

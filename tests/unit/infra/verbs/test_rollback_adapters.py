"""Rollbacks of a release with its adapters, on replicas that watch the share."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import pytest

from infra.az.revision import FailedAdapter, NoResponse, VersionResponse
from infra.errors import RemoteError, UsageError, WaitTimeoutError
from infra.models.adapter_index import read_index
from infra.models.hash_cache import HashCache
from infra.models.selection import Selection, load_upload_sets
from infra.models.weights import read_adapter
from infra.network import Unreachable
from infra.release.lock import FRESH, LOCK_PATH
from infra.release.takeovers.approach import SUPERVISOR
from infra.verbs.push import push_upload_sets, remove_adapter
from infra.verbs.rollback import restart_live, roll_back_to
from tests.doubles.deployed_stage import DeployedStage
from tests.doubles.indexing_app import IndexingApp
from tests.doubles.memory_share import KilledError, is_killed_at
from tests.doubles.model_folders import make_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from infra.verbs.deploy import DeployResult


class BlockableApp(IndexingApp):
    """An app whose address can be cut off from this machine."""

    is_blocked = False

    def version(self) -> VersionResponse | NoResponse:
        answer = super().version()
        return (
            NoResponse("timed out", unreachable=Unreachable("timeout", "it timed out"))
            if self.is_blocked
            else answer
        )


@dataclass
class Stage(DeployedStage):
    """A stage whose two replicas take over what the share names, and serve what its index lists."""

    replicas: BlockableApp = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.replicas = BlockableApp(self.share, self.clock)
        self.app = self.replicas  # type: ignore[assignment]  # an app, as well
        self.replicas.outcome = lambda release, _replica: (
            "it crashes" if self._text(release) in self.bad else None
        )

    def deploy(self, text: str, **origin: str | bool) -> DeployResult:
        """Deploy a tree that has a supervisor."""
        path = self.root / SUPERVISOR
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        return super().deploy(text, **origin)

    def push(self, text: str, name: str = "mine") -> str:
        """Push an adapter, and return the version."""
        self.clock.sleep(1)
        adapter = read_adapter(make_adapter(self.root / name, text=text))
        hashes = HashCache(self.root / "hashes.json", self.clock)
        selection = Selection(adapter, name, "org/base", None)
        return push_upload_sets(self.context, selection, load_upload_sets(selection, hashes)).model

    def live(self) -> dict[str, int]:
        """Return the number of the version that each name means."""
        return {name: each.number for name, each in read_index(self.share).adapters.items()}


@dataclass(frozen=True)
class Two:
    """A stage with two releases: the first was last proven with `mine@1`, the live one with `mine@2`."""

    stage: Stage
    one: str
    two: str

    def is_at(self, release: str) -> bool:
        """Return whether a release is live with its adapter, and everything is as after a rollback to it."""
        number = 1 if release == self.one else 2
        live = self.stage.share.files["CURRENT"].decode().strip()
        return live == release and self.stage.live() == {"mine": number}


@pytest.fixture
def two(tmp_path: Path) -> Two:
    stage = Stage(tmp_path)
    stage.push("first")
    one = stage.deploy("one").release
    second = stage.deploy("two").release
    stage.push("second")
    stage.replicas.log.clear()
    return Two(stage, one, second)


def test_a_release_and_its_adapters_come_back_and_forward_without_a_restart(two: Two) -> None:
    back = roll_back_to(two.stage.context, two.one)
    assert (back.adapters, back.previous, two.is_at(two.one)) == (("mine@1",), two.two, True)
    forward = roll_back_to(two.stage.context)
    assert (forward.release, forward.adapters, two.is_at(two.two)) == (two.two, ("mine@2",), True)
    assert two.stage.replicas.log == []


def test_a_restart_is_chosen_by_a_flag(two: Two) -> None:
    roll_back_to(two.stage.context, two.one, wants_restart=True)
    assert two.is_at(two.one)
    assert two.stage.replicas.log == ["restart app--1"]


def test_a_release_that_does_not_serve_is_turned_back_with_its_adapters_on_every_replica(two: Two) -> None:
    two.stage.bad.add("one")
    with pytest.raises(RemoteError, match="it crashes"):
        roll_back_to(two.stage.context, two.one)
    assert two.is_at(two.two)
    answers = [two.stage.replicas.version() for _ in range(2)]
    generation = read_index(two.stage.share).generation
    assert [getattr(answer, "adapter_generation", "") for answer in answers] == [generation, generation]


def test_an_adapter_that_needs_a_restart_gets_one(two: Two) -> None:
    failed = FailedAdapter("mine@1", "the adapter mine@1 carries embeddings", needs_restart=True)
    two.stage.replicas.failures = {"app--1-1": (failed,)}
    result = roll_back_to(two.stage.context, two.one)
    assert two.is_at(two.one)
    assert two.stage.replicas.log == ["restart app--1"]
    assert result.adapters == ("mine@1",)
    assert "a restart is needed: the adapter mine@1 carries embeddings" in two.stage.output.getvalue()


def test_a_release_that_could_not_be_seen_stays_live_with_its_adapters(two: Two) -> None:
    app = two.stage.replicas

    def cut(change: str) -> None:
        app.is_blocked = app.is_blocked or change == "write CURRENT"

    two.stage.share.before_change = cut
    with pytest.raises(WaitTimeoutError, match="could not be seen") as caught:
        roll_back_to(two.stage.context, two.one)
    assert caught.value.details[0].startswith("nothing was turned back")
    assert two.is_at(two.one)


def test_nothing_is_written_once_another_command_has_taken_the_lock(two: Two) -> None:
    share, clock = two.stage.share, two.stage.clock
    theirs: dict[str, bytes] = {}

    def take(change: str) -> None:
        if change == "write CURRENT" and not theirs:
            clock.sleep(FRESH.total_seconds())
            share.files[LOCK_PATH] = share.files[LOCK_PATH].replace(b'"token": "', b'"token": "theirs')
            theirs.update(share.files)

    share.before_change = take
    two.stage.bad.add("one")
    with pytest.raises(RemoteError, match="the deploy lock was taken from this process"):
        roll_back_to(two.stage.context, two.one)
    assert share.files["models/index.json"] == theirs["models/index.json"]
    assert share.files[LOCK_PATH] == theirs[LOCK_PATH]
    assert "the adapters of" in two.stage.output.getvalue()


def test_a_release_that_went_live_meanwhile_is_not_replaced_by_what_was_before_it(two: Two) -> None:
    stage = two.stage
    waits = [True]

    def deploy_first(change: str) -> None:
        if change == f"create {LOCK_PATH}" and waits:
            waits.clear()
            stage.deploy("three")

    stage.share.before_change = deploy_first
    with pytest.raises(RemoteError, match="went live while this command waited for the lock"):
        roll_back_to(stage.context)
    assert stage.served() == "three"
    # One that is named is what is wanted, and what is turned back to is what was live then.
    stage.bad.add("one")
    stage.share.before_change = lambda _change: None
    with pytest.raises(RemoteError, match="it crashes"):
        roll_back_to(stage.context, two.one)
    assert stage.served() == "three"


def test_killed_at_any_step_a_rollback_can_be_run_again_or_taken_back(two: Two) -> None:
    stage = two.stage
    for step in count():
        was_killed = is_killed_at(stage.share, step, lambda: roll_back_to(stage.context, two.one))
        target = two.one if step % 2 else two.two
        try:
            roll_back_to(stage.context, target)
        except UsageError as error:
            assert "is live already" in error.message  # noqa: PT017 - it may be raised or not
        assert two.is_at(target), step
        if target == two.one:
            roll_back_to(stage.context, two.two)
        if not was_killed:
            assert step > 5
            return


def test_the_adapters_of_the_live_release_come_back_after_an_interrupted_rollback(two: Two) -> None:
    stage = two.stage

    def die(change: str) -> None:
        if change == "write CURRENT":
            raise KilledError

    stage.share.before_change = die
    with pytest.raises(KilledError):
        roll_back_to(stage.context, two.one)
    stage.share.before_change = lambda _change: None
    assert (stage.served(), stage.live()) == ("two", {"mine": 1})
    result = roll_back_to(stage.context, two.two)
    assert (result.release, result.previous, result.adapters) == (two.two, two.two, ("mine@2",))
    assert two.is_at(two.two)
    with pytest.raises(UsageError, match="is live already"):
        roll_back_to(stage.context, two.two)


def test_a_removed_adapter_is_not_looked_for_by_the_release_that_it_was_removed_from(two: Two) -> None:
    stage = two.stage
    stage.push("another", "other")
    remove_adapter(stage.context, "other")
    roll_back_to(stage.context, two.one)
    roll_back_to(stage.context, two.two)
    assert "not on the share any more" not in stage.output.getvalue()
    assert two.is_at(two.two)


def test_other_files_under_a_number_are_not_what_a_release_had(two: Two) -> None:
    share = two.stage.share
    version = "models/mine/1/version.json"
    share.files[version] = share.files[version].replace(b'"digest": "', b'"digest": "f')
    del share.files["models/index.json"]
    roll_back_to(two.stage.context, two.one)
    assert two.stage.live() == {"mine": 2}
    assert "not on the share any more: mine@1" in two.stage.output.getvalue()


def test_a_damaged_pointer_is_named(two: Two) -> None:
    two.stage.share.files["CURRENT"] = b"rubbish\n"
    with pytest.raises(UsageError, match="CURRENT on the share names no release: 'rubbish'"):
        restart_live(two.stage.context)
    assert roll_back_to(two.stage.context).release == two.two


def test_a_release_whose_files_somebody_removed_is_no_target(two: Two) -> None:
    for path in [path for path in two.stage.share.files if path.startswith(f"releases/{two.one}/inference/")]:
        del two.stage.share.files[path]
    with pytest.raises(UsageError, match="or was damaged since"):
        roll_back_to(two.stage.context, two.one)


def test_the_supervisor_s_new_code_is_announced_and_waits_for_a_restart(two: Two) -> None:
    result = roll_back_to(two.stage.context, two.one, find_change=lambda _paths: "server supervisor")
    assert result.is_restart_pending
    assert "restart   invoke restart, for the supervisor's new code" in result.to_text()
    assert "the supervisor's own code has changed too" in two.stage.output.getvalue()
    restarted = roll_back_to(
        two.stage.context, two.two, wants_restart=True, find_change=lambda _paths: "server supervisor"
    )
    assert not restarted.is_restart_pending

"""The whole deployment, on a share and an app in memory: success, failure, and an end at every step."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

import pytest

from infra.az.revision import FailedAdapter, NoResponse, VersionResponse
from infra.clock import ManualClock
from infra.console import Console
from infra.deploy_context import DeployContext
from infra.errors import RemoteError, WaitTimeoutError
from infra.release.cleaning import KEPT
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.release.manifest import Origin
from infra.release.releases import CURRENT, PROVEN, read_live
from infra.release.tree import scan_tree
from infra.verbs.deploy import DeployResult, LocalTree, deploy_tree
from tests.doubles.background import at_once
from tests.doubles.memory_app import Behaviour, MemoryApp
from tests.doubles.memory_share import KilledError, MemoryShare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEADLINE_EXCEEDED = "Deployment Progress Deadline Exceeded. 0/1 replicas ready."


@dataclass
class World:
    """One share, one app, one clock; deployers come and go."""

    root: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC)))
    share: MemoryShare = field(default_factory=MemoryShare)
    output: io.StringIO = field(default_factory=io.StringIO)
    bad: set[str] = field(default_factory=set)
    slow: set[str] = field(default_factory=set)
    deployers: int = 0
    app: MemoryApp = field(init=False)

    def __post_init__(self) -> None:
        self.app = MemoryApp(self.share, self.clock)
        self.app.behaviour = self.behaviour

    def behaviour(self, release: str) -> Behaviour:
        text = self.share.files.get(f"releases/{release}/inference/server.py", b"").decode()
        if text in self.bad:
            return Behaviour.CRASH
        return Behaviour.HANG if text in self.slow else Behaviour.SERVE

    def write(self, text: str, **more: str) -> None:
        (self.root / "inference").mkdir(exist_ok=True)
        for name, content in {"server": text, "same": "same", **more}.items():
            (self.root / "inference" / f"{name}.py").write_text(content)

    def deploy(self, text: str, *, force: bool = False, host: str = "laptop", **more: str) -> DeployResult:
        """Deploy a tree whose server is `text`, from a process that has not lived before."""
        self.write(text, **more)
        self.deployers += 1
        self.clock.sleep(1)  # two releases of one tree within a second have one name
        holder = Holder("ida", host, self.deployers, 0.0, host)
        console = Console(self.output)
        lock = DeployLock(
            self.share, self.clock, holder, console.warn, lambda found: found.pid == self.deployers
        )
        context = DeployContext(self.share, self.app, lock, self.clock, console, at_once, timeout_s=300.0)
        origin = Origin(self.clock.now(), "ida@laptop", "0.1.0")
        tree = LocalTree(self.root, scan_tree(self.root / "inference"), lambda: origin)
        return deploy_tree(context, tree, force=force)

    def served(self) -> str | None:
        """Return the text of the server that answers now."""
        answer = self.app.version()
        if not isinstance(answer, VersionResponse):
            return None
        return self.share.files[f"releases/{answer.release}/inference/server.py"].decode()

    def releases(self) -> set[str]:
        return {path.split("/")[1] for path in self.share.files if path.startswith("releases/")}

    def finished(self) -> set[str]:
        return {
            release for release in self.releases() if f"releases/{release}/release.json" in self.share.files
        }

    def current(self) -> str | None:
        return read_live(self.share).current


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_first_release_goes_live(world: World) -> None:
    result = world.deploy("one")
    assert world.served() == "one"
    assert result.previous is None
    assert result.has_changed
    assert result.uploaded_files == 2
    assert result.outage_s is None
    assert world.share.files[CURRENT].decode() == f"{result.release}\n"
    assert world.share.files[PROVEN] == world.share.files[CURRENT]
    assert ".lock" not in world.share.files


def test_the_manifest_is_written_after_the_files_and_before_the_pointer(world: World) -> None:
    release = world.deploy("one").release
    besides = (".lock", "audit/", "replicas/")
    changes = [change for change in world.share.log if not any(each in change for each in besides)]
    assert changes == [
        f"upload releases/{release}/inference/same.py",
        f"upload releases/{release}/inference/server.py",
        f"write releases/{release}/release.json",
        "write CURRENT",
        "write PROVEN",
    ]


def test_only_changed_files_travel_and_the_rest_is_copied_on_the_share(world: World) -> None:
    first = world.deploy("one")
    second = world.deploy("two")
    assert world.served() == "two"
    assert (second.previous, second.uploaded_files) == (first.release, 1)
    assert f"copy releases/{second.release}/inference/same.py" in world.share.log
    assert "upload 1 file (3 bytes), copy 1 on the share (4 bytes)" in world.output.getvalue()


def test_the_same_tree_again_uploads_nothing_says_so_and_does_not_restart(world: World) -> None:
    first = world.deploy("one")
    before, restarts = list(world.share.log), list(world.app.log)
    again = world.deploy("one")
    assert again == DeployResult(first.release, first.release, has_changed=False)
    assert (world.share.log, world.app.log) == (before, restarts)
    assert f"the same tree is live already, as {first.release}" in world.output.getvalue()


def test_the_same_tree_by_force_makes_a_fresh_release_and_restarts(world: World) -> None:
    first = world.deploy("one")
    forced = world.deploy("one", force=True)
    assert forced.release != first.release
    assert forced.uploaded_files == 2
    assert world.app.log == ["restart app--1", "restart app--1"]


def test_a_live_release_that_just_starts_is_waited_for(world: World) -> None:
    first = world.deploy("one")
    world.app.restart("app--1")
    world.app._processes = world.app._processes[-1:]
    assert world.served() is None
    assert world.deploy("one").release == first.release
    assert world.served() == "one"


def test_a_live_release_that_does_not_serve_any_more_is_an_error(world: World) -> None:
    world.deploy("one")
    world.bad.add("one")
    with pytest.raises(RemoteError) as caught:
        world.deploy("one")
    assert "nothing was changed; invoke restart restarts it" in caught.value.details


def test_an_inactive_revision_is_activated(world: World) -> None:
    world.app.stop()
    world.deploy("one")
    assert world.app.log == ["activate app--1"]
    assert world.served() == "one"


def test_a_release_that_crashes_is_rolled_back(world: World) -> None:
    first = world.deploy("one")
    world.bad.add("two")
    with pytest.raises(RemoteError) as caught:
        world.deploy("two")
    assert world.served() == "one"
    assert world.current() == first.release
    second = (world.finished() - {first.release}).pop()
    assert caught.value.exit_code == 4
    assert caught.value.message == (
        f"release {second} does not serve: the container of replica app--1-3 ended 2 times (exit code 1)"
    )
    assert caught.value.details == (
        f"rolled back: {first.release} serves again",
        "its log ended with:",
        f"  {second} says goodbye",
    )
    assert ".lock" not in world.share.files


def test_a_release_that_is_too_slow_is_rolled_back(world: World) -> None:
    first = world.deploy("one")
    world.slow.add("two")
    with pytest.raises(WaitTimeoutError) as caught:
        world.deploy("two")
    assert caught.value.exit_code == 5
    assert "not within 300 s: replica app--1-3 runs, but did not get ready" in caught.value.message
    assert "--timeout" in str(caught.value.hint)
    assert world.served() == "one"
    assert world.current() == first.release


def test_a_revision_that_is_called_failed_for_long_is_a_verdict(world: World) -> None:
    first = world.deploy("one")
    world.slow.add("two")
    world.app.revision_details = lambda: DEADLINE_EXCEEDED
    with pytest.raises(RemoteError) as caught:
        world.deploy("two")
    assert caught.value.message.endswith(
        "revision app--1 is Failed (Deployment Progress Deadline Exceeded. 0/1 replicas ready)"
    )
    assert world.current() == first.release


def test_a_failure_from_before_the_first_deploy_is_not_the_releases(world: World) -> None:
    world.app.revision_details = lambda: DEADLINE_EXCEEDED
    world.app.start_s = 200.0
    world.deploy("one")
    assert world.served() == "one"


def test_a_failure_after_the_first_deploy_is_the_releases(world: World) -> None:
    world.slow.add("one")
    world.app.revision_details = lambda: "" if 10 < world.clock.elapsed_s() < 30 else "ImagePullBackOff"
    with pytest.raises(RemoteError, match="revision app--1 is Failed"):
        world.deploy("one")


def test_when_the_old_release_fails_too_both_reasons_are_said(world: World) -> None:
    first = world.deploy("one")
    world.bad |= {"one", "two"}
    with pytest.raises(RemoteError) as caught:
        world.deploy("two")
    assert caught.value.details[0].startswith(
        f"rolled back to {first.release}, which does not serve either: the container of replica"
    )
    assert world.current() == first.release


def test_the_first_release_that_crashes_leaves_none_live(world: World) -> None:
    world.bad.add("one")
    with pytest.raises(RemoteError) as caught:
        world.deploy("one")
    assert caught.value.details[0].startswith("there is no release to roll back to: none is live now")
    assert CURRENT not in world.share.files
    assert world.deploy("two").previous is None
    assert world.served() == "two"


def test_a_restart_that_azure_refuses_rolls_back(world: World) -> None:
    first = world.deploy("one")
    refusals = iter([RemoteError("Azure rejected the request: Conflict")])

    def refuse(_change: str) -> None:
        for refusal in refusals:
            raise refusal

    world.app.before_change = refuse
    with pytest.raises(RemoteError, match="does not serve: Azure rejected the request: Conflict"):
        world.deploy("two")
    assert world.current() == first.release
    assert world.served() == "one"


def test_a_question_that_the_platform_does_not_answer_does_not_end_the_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.app.start_s = 60.0
    world.deploy("one")
    snapshot, asked = world.app.snapshot, count()

    def sometimes(revision: str) -> object:
        if next(asked) == 1:
            raise RemoteError("az lost the network")
        return snapshot(revision)

    monkeypatch.setattr(world.app, "snapshot", sometimes)
    assert world.deploy("two").has_changed
    assert next(asked) > 2


def test_what_was_broken_once_is_not_uploaded_twice(world: World) -> None:
    world.deploy("one")
    world.bad.add("two")
    with pytest.raises(RemoteError):
        world.deploy("two")
    world.bad.clear()
    again = world.deploy("two")
    assert again.uploaded_files == 0
    assert world.served() == "two"


def test_an_outage_is_measured_and_said(world: World) -> None:
    world.deploy("one")
    restart = world.app.restart

    def stop_first(revision: str) -> None:
        world.app._processes.clear()
        restart(revision)

    world.app.restart = stop_first  # type: ignore[method-assign]
    result = world.deploy("two")
    assert result.outage_s == pytest.approx(3.0, abs=0.6)
    assert "outage of 3.0 s: 6 of 9 requests failed" in world.output.getvalue()


def test_an_adapter_that_is_not_served_is_a_warning(world: World) -> None:
    world.app.failed_adapters = (FailedAdapter("alien", "the adapter alien does not fit org/base"),)
    world.deploy("one")
    assert (
        "warning: an adapter is not served: the adapter alien does not fit org/base"
        in world.output.getvalue()
    )


def test_a_takeover_without_a_gap_has_no_outage(world: World) -> None:
    world.deploy("one")
    assert world.deploy("two").outage_s == 0
    assert "no outage: all of 9 requests were answered" in world.output.getvalue()


def test_old_releases_go_and_the_newest_stay(world: World) -> None:
    made = [world.deploy(f"text {number}").release for number in range(KEPT + 3)]
    assert world.releases() == set(made[-KEPT:])
    assert world.served() == f"text {KEPT + 2}"


def test_the_proven_release_stays_however_old_it_is(world: World) -> None:
    first = world.deploy("one").release
    world.bad |= {f"bad {number}" for number in range(KEPT + 3)}
    for number in range(KEPT + 3):
        with pytest.raises(RemoteError):
            world.deploy(f"bad {number}")
    assert first in world.finished()
    world.deploy("two")
    assert len(world.releases()) == KEPT + 1
    assert first in world.finished()


def test_a_second_deployer_is_told_and_changes_nothing(world: World) -> None:
    world.deploy("one")
    with pytest.raises(RemoteError, match="another deployment holds this share's lock") as caught:
        deploy_within_a_deploy(world)
    assert "--break-lock" in str(caught.value.hint)


def deploy_within_a_deploy(world: World) -> None:
    """Let a second deployer, on another machine, come in while the first uploads."""

    def come_in(change: str) -> None:
        if change.startswith("upload"):
            world.share.before_change = lambda _change: None
            world.deploy("other", host="desktop")

    world.share.before_change = come_in
    world.deploy("two")


@pytest.mark.parametrize("is_bad", [False, True], ids=["a good release", "a release that crashes"])
@pytest.mark.parametrize("is_first", [True, False], ids=["as the first", "after another"])
@pytest.mark.parametrize("next_text", ["two", "three"], ids=["the same again", "another one"])
def test_cut_short_at_any_step_it_can_simply_be_run_again(
    tmp_path: Path, *, is_bad: bool, is_first: bool, next_text: str
) -> None:
    for step in count():
        folder = tmp_path / str(step)
        folder.mkdir()
        world = World(folder)
        if not is_first:
            world.deploy("one")
        world.bad = {"two"} if is_bad else set()
        changes = iter(range(step))
        was_killed = deploy_and_die(world, "two", lambda _change: next(changes, None) is None)  # noqa: B023
        assert_a_replica_could_start(world)
        world.bad = set()
        world.clock.sleep(7)
        result = world.deploy(next_text)
        assert world.served() == next_text
        assert world.current() == result.release == read_live(world.share).proven
        assert world.releases() == world.finished()
        assert not result.has_changed or ".lock" not in world.share.files
        if not was_killed:
            assert step > 5
            return


def deploy_and_die(world: World, text: str, is_end: Callable[[str], bool]) -> bool:
    """Deploy, and let the process end before a change: it changes nothing more, nor cleans up."""
    dead = False

    def die(change: str) -> None:
        nonlocal dead
        dead = dead or is_end(change)
        if dead:
            raise KilledError

    world.share.before_change = world.app.before_change = die
    with suppress(KilledError, RemoteError):
        world.deploy(text)
    world.share.before_change = world.app.before_change = lambda _change: None
    return dead


def assert_a_replica_could_start(world: World) -> None:
    current = world.current()
    assert current is None or current in world.finished()


def test_the_release_to_roll_back_to_is_known_after_an_end_between_pointer_and_proof(
    world: World,
) -> None:
    first = world.deploy("one")
    world.bad.add("two")
    assert deploy_and_die(world, "two", lambda change: change.startswith("restart"))
    assert world.current() != first.release
    with pytest.raises(RemoteError) as caught:
        world.deploy("two")
    assert caught.value.details[0] == f"rolled back: {first.release} serves again"


def test_a_damaged_live_manifest_costs_an_upload_and_nothing_else(world: World) -> None:
    first = world.deploy("one")
    world.share.files[f"releases/{first.release}/release.json"] = b"{"
    second = world.deploy("one")
    assert second.uploaded_files == 2
    assert world.served() == "one"


def test_a_file_missing_from_the_live_release_is_uploaded(world: World) -> None:
    first = world.deploy("one")
    del world.share.files[f"releases/{first.release}/inference/same.py"]
    second = world.deploy("two")
    assert second.uploaded_files == 2
    assert f"releases/{second.release}/inference/same.py" in world.share.files


def test_a_replica_that_starts_the_first_release_by_itself_is_no_outage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = world.app.version
    count = iter((1,))

    def starting_at_first() -> VersionResponse | NoResponse:
        if CURRENT not in world.share.files:
            return NoResponse("HTTP 503")
        release = world.share.files[CURRENT].decode().strip()
        return VersionResponse(release, "app--1-x", "", is_ready=False) if next(count, None) else version()

    monkeypatch.setattr(world.app, "version", starting_at_first)
    result = world.deploy("one")
    assert result.outage_s is None
    assert "outage" not in world.output.getvalue()

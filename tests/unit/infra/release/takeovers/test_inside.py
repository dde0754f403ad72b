"""Deployments from a machine that cannot reach the app: the proof comes from the replicas' reports."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from infra.az.revision import NoResponse, VersionResponse
from infra.clock import ManualClock
from infra.console import Console
from infra.deploy_context import DeployContext
from infra.errors import RemoteError, UsageError, WaitTimeoutError
from infra.network import Unreachable
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.release.manifest import Origin
from infra.release.releases import read_live
from infra.release.takeovers.approach import SUPERVISOR
from infra.release.takeovers.inside import ALIVE_S, ASKED, RETRY_S, InsideApp, ReplicaReports, parse_report
from infra.release.tree import scan_tree
from infra.verbs.deploy import DeployResult, LocalTree, deploy_tree
from infra.verbs.rollback import restart_live, roll_back_to
from tests.doubles.background import at_once
from tests.doubles.memory_share import MemoryShare
from tests.doubles.watching_app import WatchingApp

if TYPE_CHECKING:
    from pathlib import Path

DENIED = Unreachable("forbidden", "HTTP 403: RBAC: access denied")


class ReportingApp(WatchingApp):
    """An app whose address may be blocked for this machine, and whose replicas report on the share.

    Attributes:
        blocked: Why its address does not answer from here; None if it does.
        answers: How the models answer inside; None if no server checks that.
        is_reporting: Whether the replicas report.
        stopped: Whether the app is paused.
    """

    def __init__(self, share: MemoryShare, clock: ManualClock) -> None:
        super().__init__(share, clock, replicas=2)
        self.blocked: Unreachable | None = None
        self.answers: dict[str, str | None] | None = {"base": None}
        self.is_reporting = True
        self.stopped = False
        self.asked = 0
        self._files = share

    def is_stopped(self) -> bool:
        """Return whether the app is paused."""
        return self.stopped

    def version(self) -> VersionResponse | NoResponse:
        """Return the answer of the next replica, unless the address is blocked."""
        self.asked += 1
        if self.blocked is not None:
            return NoResponse("blocked", unreachable=self.blocked)
        return super().version()

    def report(self) -> None:
        """Do what each replica does once a second."""
        question = (self._files.read(ASKED) or b"").decode().strip()
        for _ in range(2):
            answer = super().version()
            if self.is_reporting and question and isinstance(answer, VersionResponse):
                self._files.files[f"replicas/{answer.replica}.json"] = _render(question, answer, self.answers)


def _render(question: str, answer: VersionResponse, answers: dict[str, str | None] | None) -> bytes:
    document = {
        "asked": question, "release": answer.release, "replica": answer.replica, "revision": answer.revision,
        "started_at": answer.server_started, "container_started_at": answer.started,
        "ready": answer.is_ready, "base_model": "base", "adapters": [],
        "wanted_release": answer.wanted, "phase": answer.phase, "percent": answer.percent,
        "last_error": answer.error or None,
    }  # fmt: skip
    return json.dumps(document | ({} if answers is None else {"answers": answers})).encode()


class ReportingClock(ManualClock):
    """A clock at each tick of which the replicas report, and something may happen."""

    def __init__(self) -> None:
        super().__init__(datetime(2026, 1, 1, 12, tzinfo=UTC))
        self.app: ReportingApp | None = None
        self.blocks_after_s: float | None = None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.app is not None:
            if self.blocks_after_s is not None and self.elapsed_s() >= self.blocks_after_s:
                self.app.blocked = DENIED
            self.app.report()


@dataclass
class World:
    """One share, an app of two replicas, one clock."""

    root: Path
    clock: ReportingClock = field(default_factory=ReportingClock)
    share: MemoryShare = field(default_factory=MemoryShare)
    output: io.StringIO = field(default_factory=io.StringIO)
    bake_s: float = 0.0
    app: ReportingApp = field(init=False)

    def __post_init__(self) -> None:
        self.app = self.clock.app = ReportingApp(self.share, self.clock)

    @property
    def context(self) -> DeployContext:
        console = Console(self.output)
        lock = DeployLock(self.share, self.clock, Holder("ida", "laptop", 1, 0.0, "laptop"), console.warn)
        return DeployContext(
            self.share, self.app, lock, self.clock, console, at_once, 60.0, bake_s=self.bake_s, stage="prod"
        )

    def deploy(self, text: str, *, restart: bool = False) -> DeployResult:
        (self.root / SUPERVISOR).parent.mkdir(parents=True, exist_ok=True)
        (self.root / SUPERVISOR).write_text("")
        (self.root / "inference" / "server.py").write_text(text)
        self.clock.sleep(1)
        origin = Origin(self.clock.now(), "ida@laptop", "0.1.0")
        tree = LocalTree(self.root, scan_tree(self.root / "inference"), lambda: origin)
        return deploy_tree(self.context, tree, restart=restart)

    def live(self) -> tuple[str | None, str | None]:
        live = read_live(self.share)
        return live.current, live.proven


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_where_the_address_answers_nobody_is_asked_on_the_share(world: World) -> None:
    result = world.deploy("one")
    assert result.proof == "address"
    assert ASKED not in world.share.files
    assert "from here" not in world.output.getvalue()


def test_a_blocked_address_is_asked_once_and_both_replicas_prove_it_from_inside(world: World) -> None:
    world.deploy("one")
    world.app.blocked, world.app.asked = DENIED, 0
    result = world.deploy("two")
    assert world.app.asked == 1
    assert (result.proof, result.replicas, result.outage_s) == ("inside", ("app--1-1", "app--1-2"), None)
    assert (result.is_restarted, world.app.log) == (False, [])
    assert world.live() == (result.release, result.release)
    assert json.loads(json.dumps(result.to_json()))["proof"] == "inside"
    output = world.output.getvalue()
    said = "the app's address does not answer from here (HTTP 403: RBAC: access denied): the proof will come"
    assert f"warning: {said} from inside, by the replicas' reports on the share; allowedIpRanges" in output
    assert f"The replicas report from inside that they serve {result.release}, so it stays live." in output
    assert "proven    from inside, by the replicas' reports" in result.to_text()


def test_one_that_was_never_reached_has_not_stopped_answering(world: World) -> None:
    world.deploy("one")
    world.app.blocked, world.bake_s = DENIED, 15.0
    world.deploy("two")
    assert "has stopped answering" not in world.output.getvalue()


def test_the_address_is_asked_before_anything_is_written(world: World) -> None:
    world.app.blocked = DENIED
    world.deploy("one")
    changes = [change for change in world.share.log if "lock" not in change]
    assert changes[0] == f"write {ASKED}"


def test_a_first_release_is_started_by_a_restart_where_nothing_can_be_seen(world: World) -> None:
    world.app.blocked = DENIED
    result = world.deploy("one")
    assert world.app.log == ["restart app--1"]
    assert (result.proof, result.is_restarted) == ("inside", True)


def test_a_rollback_and_a_restart_are_proven_from_inside_too(world: World) -> None:
    first = world.deploy("one").release
    world.deploy("two")
    world.app.blocked = DENIED
    assert roll_back_to(world.context, first).proof == "inside"
    assert world.live() == (first, first)
    restarted = restart_live(world.context)
    assert (restarted.release, restarted.proof) == (first, "inside")
    assert restarted.to_json()["proof"] == "inside"
    assert world.app.log == ["restart app--1"]


def test_a_failure_that_is_reported_from_inside_turns_back(world: World) -> None:
    first = world.deploy("one").release
    world.app.blocked = DENIED
    world.app.outcome = lambda release, _: None if release == first else "No module named 'nowhere'"
    with pytest.raises(RemoteError, match="No module named 'nowhere'") as raised:
        world.deploy("two")
    assert raised.value.details[0] == f"rolled back: {first} serves again"
    assert world.live() == (first, first)


def test_a_model_that_does_not_answer_inside_turns_back(world: World) -> None:
    first = world.deploy("one").release
    world.app.blocked = DENIED
    world.app.answers = {"base": "there was no answer within 120 s"}
    with pytest.raises(RemoteError, match="base does not answer: there was no answer within 120 s"):
        world.deploy("two")
    assert world.live()[0] == first


def test_a_model_that_does_not_answer_after_a_restart_turns_back(world: World) -> None:
    first = world.deploy("one").release
    world.app.blocked = DENIED
    world.app.answers = {"base": "CUDA error"}
    with pytest.raises(RemoteError, match="base does not answer: CUDA error"):
        world.deploy("two", restart=True)
    assert world.live()[0] == first


def test_an_address_that_is_lost_meanwhile_turns_nothing_back(world: World) -> None:
    first = world.deploy("one").release
    world.clock.blocks_after_s = world.clock.elapsed_s() + 2.0
    result = world.deploy("two")
    assert result.release != first
    assert result.proof == "inside"
    assert world.live() == (result.release, result.release)
    assert "so it stays live. invoke status shows the address" in world.output.getvalue()


def test_an_address_that_is_lost_while_the_release_is_watched_turns_nothing_back(world: World) -> None:
    world.deploy("one")
    world.bake_s = 15.0
    world.clock.blocks_after_s = world.clock.elapsed_s() + 8.0
    result = world.deploy("two")
    assert (result.proof, world.live()) == ("address", (result.release, result.release))
    lost = "the app's address has stopped answering from here (HTTP 403: RBAC: access denied)"
    assert f"warning: {lost}, and the replicas report from inside" in world.output.getvalue()


def test_an_address_that_is_lost_then_without_reports_ends_the_watch_alone(world: World) -> None:
    world.deploy("one")
    world.bake_s, world.app.is_reporting = 120.0, False
    world.clock.blocks_after_s = world.clock.elapsed_s() + 8.0
    began_s = world.clock.elapsed_s()
    result = world.deploy("two")
    assert world.live() == (result.release, result.release)
    assert world.clock.elapsed_s() - began_s < 60.0
    assert "and no replica reports on the share" in world.output.getvalue()


def test_without_reports_an_address_that_is_lost_meanwhile_turns_nothing_back_either(world: World) -> None:
    world.deploy("one")
    world.app.is_reporting = False
    world.clock.blocks_after_s = world.clock.elapsed_s() + 2.0
    with pytest.raises(WaitTimeoutError) as raised:
        world.deploy("two")
    release = read_live(world.share).current
    assert raised.value.message.startswith(f"release {release} could not be seen: not within 60 s: ")
    assert raised.value.details[0] == f"nothing was turned back: {release} is live, and was not proven"
    assert raised.value.hint == DENIED.hint
    assert world.app.served() == {release}


def test_a_release_that_hangs_and_cannot_be_reached_is_turned_back(world: World) -> None:
    first = world.deploy("one").release
    world.app.blocked = DENIED
    world.app.outcome = lambda release, replica: "" if release != first and replica == "app--1-2" else None
    with pytest.raises(WaitTimeoutError, match="replica app--1-2 still serves"):
        world.deploy("two")
    assert world.live() == (first, first)


def test_a_paused_stage_is_named_at_once_with_the_command_that_helps(world: World) -> None:
    world.deploy("one")
    before = dict(world.share.files)
    world.app.blocked, world.app.stopped = Unreachable("refused", "the connection was refused"), True
    for change in (lambda: world.deploy("two"), lambda: restart_live(world.context)):
        with pytest.raises(UsageError, match="the stage prod is paused: no replica runs") as raised:
            change()
        assert raised.value.hint == "invoke resume --stage prod, and then again"
    assert world.share.files == before


def test_an_address_that_answers_again_is_used_again(world: World) -> None:
    world.deploy("one")
    app = InsideApp(world.app, ReplicaReports(world.share, world.clock), world.clock)
    world.app.blocked = DENIED
    assert app.version() == NoResponse("blocked")  # one failure may be an accident
    world.clock.sleep(3.0)
    app.version()
    world.clock.sleep(1.0)
    answer = app.version()
    assert isinstance(answer, VersionResponse)
    assert answer.unreached == DENIED.reason
    world.app.blocked = None
    world.clock.sleep(RETRY_S)
    answer = app.version()
    assert isinstance(answer, VersionResponse)
    assert answer.unreached == ""


def test_a_replica_that_has_ended_does_not_count_for_long(world: World) -> None:
    world.deploy("one")
    reports = ReplicaReports(world.share, world.clock)
    reports.read()
    world.clock.sleep(1.0)
    assert [each.replica for each in reports.read()] == ["app--1-1", "app--1-2"]
    world.app.is_reporting = False
    world.clock.sleep(ALIVE_S)
    assert reports.read() == ()
    # Nor does the report that another machine has asked for.
    assert ReplicaReports(world.share, world.clock).read() == ()


def test_a_share_that_fails_for_a_moment_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RemoteError("the share is busy")

    world.deploy("one")
    reports = ReplicaReports(world.share, world.clock)
    reports.read()
    world.clock.sleep(1.0)
    found = reports.read()
    monkeypatch.setattr(world.share, "entries", fail)
    monkeypatch.setattr(world.share, "write", fail)
    world.clock.sleep(6.0)
    assert reports.read() == found


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"release": "r"}', b'{"asked": 1, "release": "r"}', b"\xff"]
)
def test_a_file_that_is_no_report_is_passed_over(content: bytes) -> None:
    assert parse_report(content) is None


def test_the_word_of_a_server_that_checks_no_model_is_taken() -> None:
    parsed = parse_report(b'{"asked": "q", "release": "r", "replica": "a", "ready": true, "base_model": "b"}')
    assert parsed is not None
    assert (parsed[0], parsed[1].is_ready) == ("q", True)


def test_a_model_that_was_not_checked_yet_is_waited_for() -> None:
    report = {"asked": "q", "ready": True, "base_model": "b", "adapters": ["t"], "answers": {"b": None}}
    parsed = parse_report(json.dumps(report).encode())
    assert parsed is not None
    assert (parsed[1].is_ready, parsed[1].error) == (False, "")
    assert parsed[1].phase == "waiting for an answer of each model"

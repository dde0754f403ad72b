"""The time after the proof, in which a crash still counts."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from infra.az.revision import NoResponse, Snapshot, VersionResponse
from infra.clock import ManualClock
from infra.console import Console
from infra.errors import RemoteError
from infra.release.audit import read_audit
from infra.release.bake import SILENCE_S, Bake
from infra.release.releases import read_live
from tests.doubles.background import at_once
from tests.doubles.deployed_stage import DeployedStage
from tests.doubles.memory_app import Behaviour, MemoryApp
from tests.doubles.memory_share import MemoryShare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RELEASE = "20260101T000000Z-01234567"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
def app(clock: ManualClock) -> MemoryApp:
    """An app that has been ready for two seconds."""
    share = MemoryShare()
    share.put("CURRENT", f"{RELEASE}\n".encode())
    made = MemoryApp(share, clock)
    clock.sleep(made.start_s + 2)
    assert isinstance(made.version(), VersionResponse)
    return made


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


def bake(app: MemoryApp, clock: ManualClock, output: io.StringIO, seconds: float = 15.0) -> str | None:
    """Return the reason of the failure, if there is one."""
    failure = Bake(app, clock, Console(output), seconds, at_once, lambda: None).run(RELEASE)
    return None if failure is None else failure.cause.reason


def answering(app: MemoryApp, answer: Callable[[int], VersionResponse | NoResponse]) -> None:
    """Replace the answers of `/version` by those for the number of the request."""
    numbers = iter(range(10_000))
    app.version = lambda: answer(next(numbers))  # type: ignore[method-assign]


GOOD = VersionResponse(RELEASE, "app--1-1", "a", is_ready=True, server_started="a")


def test_a_release_that_stays_is_no_failure_and_takes_its_time(
    app: MemoryApp, clock: ManualClock, output: io.StringIO
) -> None:
    start_s = clock.elapsed_s()
    assert bake(app, clock, output) is None
    assert clock.elapsed_s() - start_s == pytest.approx(15.0, abs=0.6)
    assert f"✓ watch {RELEASE} for 15 s" in output.getvalue()


def test_a_server_that_dies_twelve_seconds_after_it_was_ready_is_caught(
    app: MemoryApp, clock: ManualClock, output: io.StringIO
) -> None:
    app.behaviour = lambda _release: Behaviour.CRASH_LATE
    assert bake(app, clock, output) == "the container of replica app--1-1 ended after the proof (exit code 1)"
    assert "failed" in output.getvalue()


def test_one_that_dies_too_late_is_not(app: MemoryApp, clock: ManualClock, output: io.StringIO) -> None:
    app.behaviour = lambda _release: Behaviour.CRASH_LATE
    assert bake(app, clock, output, seconds=8.0) is None


def test_with_zero_nothing_is_watched(app: MemoryApp, clock: ManualClock, output: io.StringIO) -> None:
    answering(app, lambda _number: NoResponse("HTTP 503"))
    assert bake(app, clock, output, seconds=0.0) is None
    assert output.getvalue() == ""


def test_a_server_that_a_supervisor_starts_again_is_caught_at_once(
    app: MemoryApp, clock: ManualClock, output: io.StringIO
) -> None:
    answering(app, lambda number: GOOD if number < 4 else replace(GOOD, server_started="b"))
    reason = "the server of replica app--1-1 crashed after the proof and was started again"
    assert bake(app, clock, output) == reason


def test_several_replicas_have_servers_of_their_own(
    app: MemoryApp, clock: ManualClock, output: io.StringIO
) -> None:
    other = replace(GOOD, replica="app--1-2", server_started="b")
    answering(app, lambda number: GOOD if number % 2 else other)
    assert bake(app, clock, output) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (NoResponse("timed out"), "it did not answer: timed out"),
        (replace(GOOD, is_ready=False), "replica app--1-1 was not ready any more"),
        (
            replace(GOOD, release="20250101T000000Z-7654"),
            "the app answered from 20250101T000000Z-7654",
        ),
    ],
)
def test_silence_for_long_is_a_failure_and_a_single_one_is_not(
    app: MemoryApp,
    clock: ManualClock,
    output: io.StringIO,
    answer: VersionResponse | NoResponse,
    reason: str,
) -> None:
    answering(app, lambda number: GOOD if number < 3 or number % 3 else answer)
    assert bake(app, clock, output) is None
    answering(app, lambda number: GOOD if number < 3 else answer)
    assert bake(app, clock, output) == f"for {SILENCE_S:.0f} s after the proof, {reason}"


def test_what_is_silent_at_the_end_is_waited_for(
    app: MemoryApp, clock: ManualClock, output: io.StringIO
) -> None:
    answering(app, lambda number: GOOD if number < 28 else NoResponse("HTTP 503"))
    assert str(bake(app, clock, output)).endswith("it did not answer: HTTP 503")


def test_a_platform_that_does_not_answer_says_nothing(
    app: MemoryApp, clock: ManualClock, output: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_revision: str) -> Snapshot:
        raise RemoteError("az lost the network")

    monkeypatch.setattr(app, "snapshot", fail)
    assert bake(app, clock, output) is None


def test_a_deployment_whose_server_dies_late_is_turned_back(tmp_path: Path) -> None:
    stage = DeployedStage(tmp_path, bake_s=15.0, late={"two"})
    one = stage.deploy("one").release
    with pytest.raises(RemoteError, match="ended after the proof") as caught:
        stage.deploy("two")
    assert caught.value.details[0] == f"rolled back: {one} serves again"
    assert stage.served() == "one"
    live = read_live(stage.share)
    assert live.current == live.proven == one
    assert read_audit(stage.share, 1)[0].outcome == "failed"


def test_without_a_bake_time_it_counts_as_proven(tmp_path: Path) -> None:
    stage = DeployedStage(tmp_path, late={"two"})
    stage.deploy("one")
    two = stage.deploy("two").release
    assert read_live(stage.share).proven == two

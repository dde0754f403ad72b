"""What is concluded from the state of a revision and its replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.az.revision import (
    FAILING_S,
    Baseline,
    NoResponse,
    Replica,
    Revision,
    Snapshot,
    VersionResponse,
    crash_reason,
    is_failing,
    phase,
    why_not_up,
)

REVISION = Revision("app--1", "2026-01-01T00:00:00Z", running_state="Running")
OLD = Replica("app--1-old", is_started=True, is_ready=True, restart_count=7)
NEW = Replica("app--1-new", is_started=True)
BASELINE = Baseline({"app--1-old": 7}, "app--1-old", "2026-01-01T00:00:00Z", did_serve=True)
ANSWER = VersionResponse("r2", "app--1-new", "2026-01-01T01:00:00Z", is_ready=True)


def test_a_new_replica_is_new_and_an_old_one_only_with_a_new_process() -> None:
    assert BASELINE.is_new(ANSWER)
    assert not BASELINE.is_new(replace(ANSWER, replica="app--1-old", started=BASELINE.started))
    assert BASELINE.is_new(replace(ANSWER, replica="app--1-old"))
    unseen = Baseline({"app--1-old": 0, "app--1-other": 0}, "app--1-old", "x")
    assert not unseen.is_new(replace(ANSWER, replica="app--1-other"))


def test_one_end_of_a_container_is_no_failure_and_two_are() -> None:
    once = replace(NEW, restart_count=1, details="exit code 1.")
    assert crash_reason(BASELINE, Snapshot(REVISION, (OLD, once)), 0) is None
    twice = replace(once, restart_count=2)
    expected = "the container of replica app--1-new ended 2 times (exit code 1)"
    assert crash_reason(BASELINE, Snapshot(REVISION, (OLD, twice)), 0) == expected


def test_old_replicas_count_only_from_now_and_only_without_new_ones() -> None:
    worse = replace(OLD, restart_count=9)
    assert crash_reason(BASELINE, Snapshot(REVISION, (OLD,)), 0) is None
    assert crash_reason(BASELINE, Snapshot(REVISION, (worse, NEW)), 0) is None
    assert "app--1-old ended 2 times" in str(crash_reason(BASELINE, Snapshot(REVISION, (worse,)), 0))


def test_a_failed_revision_counts_as_failed_after_a_while() -> None:
    failed = replace(REVISION, running_state="ActivationFailed", details="0/1 replicas ready.")
    assert is_failing(failed)
    assert not is_failing(REVISION)
    assert crash_reason(BASELINE, Snapshot(failed, ()), FAILING_S - 1) is None
    expected = "revision app--1 is ActivationFailed (0/1 replicas ready)"
    assert crash_reason(BASELINE, Snapshot(failed, ()), FAILING_S) == expected


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        (None, "asking for new replicas"),
        ((OLD,), "waiting for a new replica"),
        (
            (OLD, replace(NEW, is_started=False, details="Pulling image.")),
            "replica …new is being made (Pulling image)",
        ),
        ((OLD, NEW), "replica …new runs, and is not ready yet"),
        ((OLD, replace(NEW, restart_count=1)), "replica …new has ended and is started again"),
        ((OLD, replace(NEW, is_ready=True)), "replica …new is ready"),
    ],
)
def test_the_phase_of_a_restart(replicas: tuple[Replica, ...] | None, expected: str) -> None:
    assert phase(BASELINE, None if replicas is None else Snapshot(REVISION, replicas)) == expected


STUCK = replace(REVISION, running_state="Activating")
PORT = "The TargetPort 9999 does not match the listening port 8000."


@pytest.mark.parametrize(
    ("snapshot", "last", "reason", "hint"),
    [
        (None, None, "the platform did not say what its replicas do", "invoke status"),
        (Snapshot(replace(STUCK, details=PORT), ()), None, PORT[:-1], "FJARR_PORT"),
        (Snapshot(replace(STUCK, details="0/1 ready."), ()), None, "0/1 ready", "invoke logs"),
        (Snapshot(REVISION, (OLD,)), None, "the platform made no new replica", "GPU node"),
        (
            Snapshot(REVISION, (replace(NEW, is_started=False, details="ImagePullBackOff"),)),
            None,
            "the container of replica app--1-new did not start (ImagePullBackOff)",
            "image",
        ),
        (Snapshot(REVISION, (NEW,)), None, "replica app--1-new runs, but did not get ready", "--timeout"),
        (
            Snapshot(REVISION, (replace(NEW, is_ready=True),)),
            NoResponse("HTTP 403"),
            "the new replica is ready, but the app's address does not answer: HTTP 403",
            "allowedIpRanges",
        ),
        (
            Snapshot(REVISION, (replace(NEW, is_ready=True),)),
            replace(ANSWER, release="r1"),
            "the app's address still answers from r1",
            "draining",
        ),
        (
            Snapshot(REVISION, (replace(NEW, is_ready=True),)),
            replace(ANSWER, release=""),
            "the app's address still answers from an unknown release",
            "draining",
        ),
        (
            Snapshot(REVISION, (replace(NEW, is_ready=True),)),
            None,
            "the app's address still answers from an unknown release",
            "draining",
        ),
    ],
)
def test_why_a_release_is_not_up_is_classified(
    snapshot: Snapshot | None, last: VersionResponse | NoResponse | None, reason: str, hint: str
) -> None:
    cause = why_not_up(BASELINE, snapshot, last)
    assert cause.reason == reason
    assert hint in cause.hint

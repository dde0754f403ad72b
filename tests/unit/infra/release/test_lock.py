"""One deployment at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from infra.clock import ManualClock
from infra.errors import RemoteError, UsageError, WaitTimeoutError
from infra.release import audit
from infra.release.audit import list_audit, proven_releases, prune_audit, read_audit
from infra.release.holder import Holder, is_process_alive, this_process
from infra.release.lock import FRESH, LIFETIME, LOCK_PATH, DeployLock, LockAccess
from tests.doubles.memory_share import MemoryShare

IDA = Holder("ida", "laptop", 17, 100.0, "machine 1")
BO = Holder("bo", "desktop", 23, 200.0, "machine 2")

LockOf = Callable[[Holder], DeployLock]


@pytest.fixture
def share() -> MemoryShare:
    return MemoryShare()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC))


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def lock_of(share: MemoryShare, clock: ManualClock, warnings: list[str]) -> LockOf:
    return lambda holder: DeployLock(share, clock, holder, warnings.append, lambda _holder: True)


def test_the_lock_is_there_while_it_is_held(share: MemoryShare, lock_of: LockOf) -> None:
    with lock_of(IDA).hold("deploy"):
        assert LOCK_PATH in share.files
    assert LOCK_PATH not in share.files


def test_the_lock_is_given_back_after_a_failure(share: MemoryShare, lock_of: LockOf) -> None:
    with pytest.raises(ZeroDivisionError), lock_of(IDA).hold("deploy"):
        raise ZeroDivisionError
    assert LOCK_PATH not in share.files


def test_the_second_is_told_who_holds_it_since_when_and_how_to_break_it(
    lock_of: LockOf, clock: ManualClock
) -> None:
    since = clock.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    with lock_of(IDA).hold("deploy"):
        clock.sleep(60)
        with pytest.raises(RemoteError) as caught, lock_of(BO).hold("push"):
            pass
    assert caught.value.message == (
        f"another deployment holds this share's lock: ida on laptop (process 17): deploy, since {since}"
    )
    assert "--break-lock" in str(caught.value.hint)


def test_a_lock_that_ran_out_is_broken_with_a_warning(
    share: MemoryShare, lock_of: LockOf, clock: ManualClock, warnings: list[str]
) -> None:
    with lock_of(IDA).hold("deploy"):
        clock.sleep(LIFETIME.total_seconds() + 1)
        with lock_of(BO).hold("deploy"):
            assert "breaking the deploy lock of ida on laptop" in warnings[0]
            assert "it ran out at" in warnings[0]
        assert LOCK_PATH not in share.files


def test_a_lock_holds_until_its_very_end(lock_of: LockOf, clock: ManualClock) -> None:
    with lock_of(IDA).hold("deploy"):
        clock.sleep(LIFETIME.total_seconds())
        with pytest.raises(RemoteError), lock_of(BO).hold("deploy"):
            pass


def test_a_lock_is_renewed_after_a_third_of_its_life_and_no_earlier(
    share: MemoryShare, lock_of: LockOf, clock: ManualClock
) -> None:
    with lock_of(IDA).hold("deploy") as held:
        before = held.record
        clock.sleep(LIFETIME.total_seconds() / 3 - 1)
        held.renew()
        assert held.record == before
        clock.sleep(1)
        held.renew()
        assert held.record.expires == clock.now() + LIFETIME
        assert str(held.record.expires.isoformat()) in share.files[LOCK_PATH].decode()


def test_a_lock_whose_process_on_this_machine_is_gone_is_broken(lock_of: LockOf, warnings: list[str]) -> None:
    neighbour = replace(IDA, pid=18)
    with lock_of(IDA).hold("deploy"):
        lock = replace(lock_of(neighbour), is_alive=lambda holder: holder != IDA)
        with lock.hold("deploy"):
            assert warnings[0].endswith("that process is gone")


@pytest.mark.parametrize(
    "other",
    [BO, replace(IDA, machine="machine 2"), replace(IDA, machine="")],
    ids=["another name", "another machine of that name", "a lock of an earlier version"],
)
def test_a_process_of_another_machine_is_not_judged_by_its_pid(lock_of: LockOf, other: Holder) -> None:
    with lock_of(other).hold("deploy"):
        lock = replace(lock_of(replace(IDA, pid=18)), is_alive=lambda _holder: False)
        with pytest.raises(RemoteError), lock.hold("deploy"):
            pass


def test_a_lock_that_was_just_taken_is_not_read_again(
    share: MemoryShare, lock_of: LockOf, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read = share.read

    def recorded(path: str) -> bytes | None:
        reads.append(path)
        return read(path)

    monkeypatch.setattr(share, "read", recorded)
    with lock_of(IDA).hold("deploy") as held:
        clock.sleep(FRESH.total_seconds() - 1)
        held.check()
        assert reads == []
        clock.sleep(1)
        held.check()
        held.check()
        assert reads == [LOCK_PATH]


def test_a_released_lock_becomes_the_audits_entry(
    share: MemoryShare, lock_of: LockOf, clock: ManualClock
) -> None:
    with lock_of(IDA).hold("deploy") as held:
        held.ending.release, held.ending.outcome = "20260101T000000Z-01234567", "proven"
    clock.sleep(1)
    with pytest.raises(RemoteError), lock_of(BO).hold("push"):
        raise RemoteError("the weights are heavy")
    clock.sleep(1)
    with pytest.raises(KeyboardInterrupt), lock_of(BO).hold("push"):
        raise KeyboardInterrupt
    assert [entry.to_json() for entry in read_audit(share, 10)] == [
        {
            "time": "2026-01-01T12:00:00+00:00",
            "verb": "deploy",
            "outcome": "proven",
            "release": "20260101T000000Z-01234567",
            "by": "ida@laptop",
            "reason": "",
        },
        {
            "time": "2026-01-01T12:00:01+00:00",
            "verb": "push",
            "outcome": "failed",
            "release": None,
            "by": "bo@desktop",
            "reason": "the weights are heavy",
        },
        {
            "time": "2026-01-01T12:00:02+00:00",
            "verb": "push",
            "outcome": "interrupted",
            "release": None,
            "by": "bo@desktop",
            "reason": "KeyboardInterrupt",
        },
    ]
    assert proven_releases(list_audit(share)) == ("20260101T000000Z-01234567",)


def test_a_broken_lock_becomes_an_entry_too(share: MemoryShare, lock_of: LockOf, clock: ManualClock) -> None:
    with lock_of(IDA).hold("deploy"):
        clock.sleep(LIFETIME.total_seconds() + 1)
        with lock_of(BO).hold("push") as held:
            assert held.was_broken
    (broken, pushed) = read_audit(share, 10)
    assert (broken.by, broken.verb, broken.outcome) == ("ida@laptop", "deploy", "interrupted")
    assert (pushed.by, pushed.verb, pushed.outcome) == ("bo@desktop", "push", "done")


def test_one_who_waits_gets_the_lock_when_it_is_released(
    share: MemoryShare, lock_of: LockOf, clock: ManualClock, warnings: list[str]
) -> None:
    stack = ExitStack()
    stack.enter_context(lock_of(IDA).hold("deploy"))
    naps: list[float] = []
    sleep = clock.sleep

    def nap(seconds: float) -> None:
        naps.append(seconds)
        sleep(seconds)
        if len(naps) == 3:
            stack.close()

    clock.sleep = nap  # type: ignore[method-assign]
    with replace(lock_of(BO), access=LockAccess(wait_s=60.0)).hold("deploy"):
        assert LOCK_PATH in share.files
    assert len(naps) == 3
    assert len(warnings) == 1
    assert warnings[0].endswith("; waiting for it")


def test_one_who_waits_in_vain_is_told_for_whom(lock_of: LockOf) -> None:
    with lock_of(IDA).hold("deploy"):
        lock = replace(lock_of(BO), access=LockAccess(wait_s=60.0))
        with pytest.raises(WaitTimeoutError, match=r"ida on laptop .*did not release it within 60 s"):
            lock.hold("deploy").__enter__()


def test_a_person_holds_the_lock_until_it_is_released(
    share: MemoryShare, lock_of: LockOf, clock: ManualClock
) -> None:
    lock_of(IDA).take_for_a_person("database upgrade")
    clock.sleep(10 * LIFETIME.total_seconds())
    with pytest.raises(RemoteError, match="this share is locked: ida on laptop: database upgrade") as caught:
        lock_of(IDA).hold("deploy").__enter__()
    assert caught.value.hint == "ask them; or invoke unlock"
    with pytest.raises(RemoteError, match="is locked"):
        lock_of(BO).take_for_a_person("mine")
    released = lock_of(BO).release_for_a_person(break_lock=False)
    assert released is not None
    assert released.message == "database upgrade"
    assert lock_of(BO).release_for_a_person(break_lock=False) is None
    (entry,) = read_audit(share, 10)
    assert (entry.verb, entry.outcome, entry.by) == ("lock", "done", "ida@laptop")


def test_the_lock_of_a_process_is_released_for_a_person_only_by_force(lock_of: LockOf) -> None:
    with lock_of(IDA).hold("deploy"):
        with pytest.raises(UsageError, match="a command that runs holds the lock: ida on laptop"):
            lock_of(BO).release_for_a_person(break_lock=False)
        assert lock_of(BO).release_for_a_person(break_lock=True) is not None


def test_the_audit_has_an_end(share: MemoryShare, lock_of: LockOf, clock: ManualClock) -> None:
    share.files["audit/of-somebody.txt"] = b""
    share.files["audit/20250101T000000Z.deploy.exploded..0123.json"] = b""
    for _ in range(audit.KEPT + 2):
        clock.sleep(1)
        with lock_of(IDA).hold("push"):
            pass
    first = list_audit(share)[0]
    prune_audit(share)
    assert len(list_audit(share)) == audit.KEPT
    assert first not in list_audit(share)
    assert "audit/of-somebody.txt" in share.files


def test_an_entry_that_is_damaged_still_counts(share: MemoryShare, lock_of: LockOf) -> None:
    with lock_of(IDA).hold("push"):
        pass
    share.files[list_audit(share)[0][0]] = b"{}"
    (entry,) = read_audit(share, 1)
    assert (entry.verb, entry.by) == ("push", "")


def test_a_renewed_lock_does_not_expire(lock_of: LockOf, clock: ManualClock) -> None:
    with lock_of(IDA).hold("deploy") as held:
        for _ in range(100):
            clock.sleep(60)
            held.renew()
        with pytest.raises(RemoteError), lock_of(BO).hold("deploy"):
            pass


def test_renewing_a_fresh_lock_makes_no_request(share: MemoryShare, lock_of: LockOf) -> None:
    with lock_of(IDA).hold("deploy") as held:
        before = list(share.log)
        held.renew()
        assert share.log == before


def test_a_broken_lock_stops_its_holder_and_is_not_removed_by_it(
    share: MemoryShare, lock_of: LockOf, clock: ManualClock
) -> None:
    with lock_of(IDA).hold("deploy") as ours:
        clock.sleep(FRESH.total_seconds())
        with replace(lock_of(BO), access=LockAccess(breaks=True)).hold("deploy"):
            with pytest.raises(RemoteError, match=r"was taken from this process .held by bo on desktop"):
                ours.check()
            clock.sleep(300)
            with pytest.raises(RemoteError, match="was taken"):
                ours.renew()
            ours.release()
            assert LOCK_PATH in share.files
        with pytest.raises(RemoteError, match="nobody holds it now"):
            ours.check()


def test_a_lock_that_was_taken_while_we_broke_a_stale_one_is_put_back(
    share: MemoryShare, lock_of: LockOf, clock: ManualClock
) -> None:
    """Between our look at the stale lock and our breaking it, a third breaks it and takes the lock."""
    with lock_of(IDA).hold("deploy"):
        stale = share.files[LOCK_PATH]
        del share.files[LOCK_PATH]
        with lock_of(BO).hold("deploy") as winner:
            fresh = share.files[LOCK_PATH]
            share.files[LOCK_PATH] = stale
            clock.sleep(LIFETIME.total_seconds() + 1)

            def third_party(change: str) -> None:
                if change.startswith("move .lock.broken"):
                    share.files[LOCK_PATH] = fresh

            share.before_change = third_party
            with pytest.raises(RemoteError), lock_of(Holder("eve", "tablet", 5, 1.0)).hold("deploy"):
                pass
            winner.check()


@pytest.mark.parametrize("is_stale", [False, True], ids=["a free lock", "a stale lock"])
def test_of_two_at_once_never_both_get_it(clock: ManualClock, *, is_stale: bool) -> None:
    """Let a second deployer come in at every change that the first makes while it takes the lock."""
    for step in count():
        race = Race(clock, step, is_stale=is_stale)
        race.run()
        assert race.most == 1
        if not race.did_other_come:
            assert step == (4 if is_stale else 1)
            return


class Race:
    """Let one deployer take the lock, and another try to at its `step`-th change."""

    def __init__(self, clock: ManualClock, step: int, *, is_stale: bool) -> None:
        self.share = MemoryShare()
        self.steps = iter(range(step + 1))
        self.step = step
        self.most = 0
        self.did_other_come = False
        self.ida, self.bo = (
            DeployLock(self.share, clock, who, print, lambda _who: True) for who in (IDA, BO)
        )
        if is_stale:
            with self.ida.hold("long ago"):
                left_behind = dict(self.share.files)
            self.share.files = left_behind
            clock.sleep(LIFETIME.total_seconds() + 1)

    def run(self) -> None:
        inside = 0
        with ExitStack() as stack:

            def come_in(_change: str) -> None:
                nonlocal inside
                if next(self.steps, None) == self.step:
                    self.did_other_come = True
                    self.share.before_change = lambda _change: None
                    with suppress(RemoteError):
                        stack.enter_context(self.bo.hold("b"))
                        inside += 1

            self.share.before_change = come_in
            with suppress(RemoteError), self.ida.hold("a"):
                self.share.before_change = lambda _change: None
                inside += 1
                self.most = inside
            self.most = max(self.most, inside)


def test_a_share_that_fails_at_the_end_does_not_hide_how_the_change_has_ended(
    share: MemoryShare, lock_of: LockOf, warnings: list[str]
) -> None:
    def fail(change: str) -> None:
        if LOCK_PATH in share.files:
            raise RemoteError(f"cannot {change}: AuthenticationFailed")

    share.before_change = fail
    with pytest.raises(UsageError, match="the reason"), lock_of(IDA).hold("deploy"):
        raise UsageError("the reason")
    (warning,) = warnings
    assert warning.startswith("the deploy lock could not be released: cannot move audit/")
    assert "it runs out at " in warning


def test_a_damaged_lock_says_what_to_do(share: MemoryShare, lock_of: LockOf) -> None:
    share.files[LOCK_PATH] = b"{}"
    with pytest.raises(RemoteError) as caught, lock_of(IDA).hold("deploy"):
        pass
    assert caught.value.hint == "remove that file from the share, then retry"


def test_this_process_is_alive_and_others_with_its_pid_are_not() -> None:
    ours = this_process()
    assert ours.pid == os.getpid()
    assert is_process_alive(ours)
    assert not is_process_alive(replace(ours, started=ours.started - timedelta(days=1).total_seconds()))
    assert not is_process_alive(replace(ours, pid=2**22 + 1))


def test_a_lock_is_valid_until_the_very_end_of_its_time(
    lock_of: LockOf, clock: ManualClock, warnings: list[str]
) -> None:
    with lock_of(IDA).hold("deploy"):
        clock.sleep(LIFETIME.total_seconds())
        with pytest.raises(RemoteError), lock_of(BO).hold("deploy"):
            pass
    assert warnings == []

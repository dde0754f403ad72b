"""The runtime's pure parts: verdicts, back-off, defaults, lines, names and addresses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from localcloud.runtime import BackOff, ConsoleRecord, Container, Probe, SystemRecord
from localcloud.runtime.logs import LineSplitter
from localcloud.runtime.probes import ThresholdCounter, probes_of
from localcloud.runtime.processes import exit_code
from localcloud.runtime.sockets import Listener, free_port


def verdicts(results: str, failure_threshold: int, success_threshold: int) -> list[bool | None]:
    """The verdict after each result (+ or -), None where it did not change."""
    counter = ThresholdCounter(
        Probe("Readiness", "/", 80, failure_threshold=failure_threshold, success_threshold=success_threshold)
    )
    return [counter.verdict if counter.add(success=result == "+") else None for result in results]


def test_a_verdict_needs_as_many_in_a_row_as_its_threshold() -> None:
    assert verdicts("-+--+---+++", 3, 2) == [None] * 7 + [False, None, True, None]
    assert verdicts("++-+--", 2, 1) == [True, None, None, None, None, False]
    assert verdicts("--+", 1, 1) == [False, None, True]


def test_back_off_doubles_up_to_its_cap_and_forgets_after_a_long_run() -> None:
    back_off = BackOff()
    assert [back_off.delay_s(failures) for failures in (1, 2, 3, 4, 5, 10_000)] == [1, 2, 4, 8, 15, 15]
    assert back_off.count(3, ran_s=59) == 4
    assert back_off.count(3, ran_s=60) == 1


def test_a_container_without_probes_has_azures_where_there_is_an_ingress() -> None:
    bare = Container("main", "none", ("true",))
    defaults = probes_of(bare, 7860)
    assert sorted(defaults) == ["Readiness", "Startup"]
    assert defaults["Startup"] == Probe("Startup", None, 7860, 1, 1, 3, 240)
    assert defaults["Readiness"] == Probe("Readiness", None, 7860, 3, 5, 5, 48)
    assert probes_of(bare, None) == {}
    own = Probe("Liveness", "/", 1)
    assert probes_of(Container("main", "none", ("true",), probes=(own,)), 7860) == {"Liveness": own}


def test_lines_are_cut_at_newlines_wherever_the_pieces_end() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == ["one"]
    assert splitter.feed(b"o\r\n\nth") == ["two", ""]
    assert splitter.feed("gr\u00fc".encode()[:-1]) == []
    assert splitter.feed("\u00fc".encode()[1:] + b"\xff") == []
    assert splitter.end() == ["thgr\u00fc\ufffd"]
    assert splitter.end() == []


def test_a_line_without_end_is_cut_without_cutting_a_character() -> None:
    splitter = LineSplitter()
    lines = splitter.feed(("x" + "\u20ac" * 20_000).encode())
    rest = splitter.end()
    assert "".join([*lines, *rest]) == "x" + "\u20ac" * 20_000
    assert max(len(line.encode()) for line in lines) <= 16 * 1024
    assert len(lines) == 3


def test_exit_codes_are_a_containers() -> None:
    assert [exit_code(code) for code in (0, 3, -9, -15)] == [0, 3, 137, 143]


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),  # noqa: S104 - compared, never listened on
        ("::", False),
        ("192.168.1.2", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_only_loopback_is_loopback(address: str, is_loopback: bool) -> None:  # noqa: FBT001 - a column
    assert Listener(address, 80).is_loopback is is_loopback


def test_a_free_port_is_below_those_of_outgoing_connections_and_none_of_the_taken() -> None:
    taken = set(range(20000, 29990))
    assert free_port(taken) in range(29990, 30000)
    with pytest.raises(OSError, match=r"no free port on 127\.0\.0\.1 among 20000-29999"):
        free_port(range(20000, 30000))


def test_records_look_as_azures_do() -> None:
    time = datetime(2026, 3, 1, 12, 0, 1, 250_000, tzinfo=timezone(timedelta(hours=1)))
    console = ConsoleRecord(time, "hello")
    assert console.to_json() == {"TimeStamp": "2026-03-01T11:00:01.250000+00:00", "Log": "hello"}
    assert ConsoleRecord.from_json(console.to_json()) == ConsoleRecord(time.astimezone(UTC), "hello")
    event = SystemRecord(time, "Warning", "app", "app--1", "app--1-0-a", "ProbeFailed", "no", 2)
    assert event.to_json() == {
        "TimeStamp": "2026-03-01 11:00:01 +0000 UTC",
        "Type": "Warning",
        "ContainerAppName": "app",
        "RevisionName": "app--1",
        "ReplicaName": "app--1-0-a",
        "Msg": "no",
        "Reason": "ProbeFailed",
        "EventSource": "ContainerAppController",
        "Count": 2,
    }

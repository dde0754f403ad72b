"""The records of log streams: parsed, formatted and shown once."""

from __future__ import annotations

import json

import pytest

from infra.az.log_records import LogRecord, ShownRecords, format_time, parse_record

REPLICA = "app--1-5c1c245ba0-6lrgc"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2023-07-14T05:11:12.34696", "2023-07-14T05:11:12.346960+00:00"),
        ("2023-07-14T05:10:32.3032299+00:00", "2023-07-14T05:10:32.303229+00:00"),
        ("2023-07-14T07:10:32.5+02:00", "2023-07-14T05:10:32.500000+00:00"),
        ("2023-06-27 03:58:10 +0000 UTC", "2023-06-27T03:58:10.000000+00:00"),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_every_form_of_a_time(written: str, read: str) -> None:
    assert format_time(written) == read


def test_a_console_record() -> None:
    line = b'{"TimeStamp":"2023-07-14T05:11:12.34696","Log":"hello \\u00f6 "}\n'
    record = parse_record(line, "console", REPLICA)
    assert record == LogRecord("2023-07-14T05:11:12.346960+00:00", "console", REPLICA, "hello ö")
    assert record.to_text() == "2023-07-14T05:11:12  6lrgc | hello ö"


def test_a_system_record() -> None:
    document = {
        "TimeStamp": "2023-06-27 03:58:10 +0000 UTC",
        "Type": "Warning",
        "ReplicaName": REPLICA,
        "Msg": "Probe of StartUp failed",
        "Reason": "ProbeFailed",
        "Count": 3,
    }
    record = parse_record(json.dumps(document).encode(), "system", "")
    assert record == LogRecord(
        "2023-06-27T03:58:10.000000+00:00", "system", REPLICA, "ProbeFailed: Probe of StartUp failed"
    )
    assert record.to_text() == "2023-06-27T03:58:10 system | ProbeFailed: Probe of StartUp failed"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"  \n",
        b'{"Log": "Connecting to the container \'x\'..."}',
        b'{"Log": "Successfully Connected to container: \'x\'"}',
    ],
)
def test_a_line_that_says_nothing(line: bytes) -> None:
    assert parse_record(line, "console", REPLICA) is None


def test_what_is_not_json_is_plain_text() -> None:
    assert parse_record(b"\xff plain\n", "console", REPLICA) == LogRecord(
        "", "console", REPLICA, "\ufffd plain"
    )


def test_a_stream_that_repeats_itself_is_shown_once() -> None:
    seen = ShownRecords()
    first, again, later = (LogRecord(f"2026-01-01T00:00:0{n}", "console", "r", "x") for n in (1, 1, 2))
    beside = LogRecord("2026-01-01T00:00:01", "console", "r", "y")
    assert [seen.is_new(record) for record in (first, again, beside, beside, later, first, later)] == [
        True,
        False,
        True,
        False,
        True,
        False,
        False,
    ]

"""The first lines of a connection, whatever the versions of its ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inference.engines.remote.handshake import (
    VERSION,
    EngineStatus,
    Hello,
    check_versions,
    hello_line,
    read_hello,
    read_status,
    status_line,
)
from inference.errors import ProtocolVersionError

ROOT = Path(__file__).parents[5]


def test_a_hello_and_a_status_are_read_as_they_were_written() -> None:
    hello = Hello(VERSION, "20260101T000000Z-0123abcd", "status", 17)
    assert read_hello(hello_line(hello)) == hello
    status = EngineStatus("failed", "loading", 40, "the adapter\ndoes not fit", ("org/base", "mine"))
    line = status_line(status)
    assert line.count(b"\n") == 1
    assert read_status(line) == status


def test_members_of_a_later_release_are_ignored() -> None:
    document = json.loads(hello_line(Hello(9, "later"))) | {"colour": "green"}
    assert read_hello(json.dumps(document).encode()) == Hello(9, "later")
    document = json.loads(status_line(EngineStatus("starting", "x", 1))) | {"eta_s": 4}
    assert read_status(json.dumps(document).encode()) == EngineStatus("starting", "x", 1)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"[1]",
        b"{}",
        b'{"protocol": "other", "version": 1}',
        b'{"protocol": "fjarr-engine"}',
    ],
)
def test_what_is_no_hello_is_said_to_be_none(line: bytes) -> None:
    with pytest.raises(ProtocolVersionError, match="does not speak the protocol fjarr-engine"):
        read_hello(line)


@pytest.mark.parametrize("line", [b"", b"GET / HTTP/1.1", b"{}", b'{"state": "dreaming"}'])
def test_what_is_no_status_is_said_to_be_none(line: bytes) -> None:
    with pytest.raises(ProtocolVersionError, match="a state that this release does not know"):
        read_status(line)


def test_other_versions_are_named_with_their_releases_and_what_to_do() -> None:
    check_versions(Hello(1, "a"), Hello(1, "b"))
    with pytest.raises(ProtocolVersionError) as caught:
        check_versions(Hello(2, "new"), Hello(1, ""))
    assert str(caught.value) == (
        "the server (release new) speaks version 2 of the engine protocol, and the engine process (no"
        " release) version 1: the engine process has to be restarted with the server's release"
    )


def test_the_supervisor_can_read_it_without_any_installed_package() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import inference.engines.remote.handshake"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)

"""The messages between a server and an engine process."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from inference.engines.remote.handshake import VERSION
from inference.engines.remote.messages import (
    Draining,
    EngineMessage,
    FrameReader,
    Requests,
    ServerMessage,
    frame,
)

SCHEMAS = {1: "40c3bd11a41dbb92", 2: "8eb15476d8495f9f"}
"""The digest of the messages' schema in each version of the protocol."""


def test_a_change_of_the_messages_is_a_change_of_the_version() -> None:
    schemas = [msgspec.json.schema(kind) for kind in (EngineMessage, ServerMessage)]
    text = json.dumps(schemas, sort_keys=True)
    # Descriptions may change.
    digest = hashlib.sha256(_without_descriptions(text).encode()).hexdigest()[:16]
    assert SCHEMAS[VERSION] == digest, "raise handshake.VERSION, and add its digest here"


def _without_descriptions(text: str) -> str:
    def drop(entries: dict[str, object]) -> dict[str, object]:
        is_text = isinstance(entries.get("description"), str)
        return {key: value for key, value in entries.items() if not (is_text and key == "description")}

    return json.dumps(json.loads(text, object_hook=drop), sort_keys=True)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_frames_are_found_however_they_are_cut(size: int) -> None:
    messages: list[EngineMessage | ServerMessage] = [
        Draining(),
        Requests([], [5]),
        Requests([], list(range(100))),
    ]
    sent = b"".join(frame(message) for message in messages)
    reader, found = FrameReader(), list[bytes]()
    for start in range(0, len(sent), size):
        found += reader.feed(sent[start : start + size])
    assert found == [frame(message)[4:] for message in messages]
    assert reader.feed(b"") == []


def test_a_frame_that_is_too_large_is_an_error_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="claims to have 4294967299 bytes"):
        FrameReader().feed(b"\xff\xff\xff\xff")

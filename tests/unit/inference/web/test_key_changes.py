"""How a server follows changes of the API keys on the share."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import pytest

from inference.api_keys import KEYS_FILE, digest_of, fingerprint, parse_api_keys
from inference.web.key_changes import KeyChanges
from inference.web.keyring import Keyring

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURED = parse_api_keys("ann=one")


class World:
    """A share, and a server that was started with one key."""

    def __init__(self, share: Path) -> None:
        self.file = share / KEYS_FILE
        self.keyring = Keyring(CONFIGURED)
        self.changes = KeyChanges(share, CONFIGURED, self.keyring)

    def write(self, keys: dict[str, str], *replaced: str) -> None:
        digests = {name: f"sha256:{digest_of(key).hex()}" for name, key in keys.items()}
        self.file.write_text(json.dumps({"keys": digests, "replaced": replaced}))

    async def names(self, *keys: str) -> list[str | None]:
        await self.changes.apply()
        return [self.keyring.find(key) for key in keys]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_keys_are_added_and_removed_while_requests_are_served(world: World) -> None:
    assert await world.names("one", "two") == ["ann", None]
    world.write({"ann": "one", "bob": "two"}, fingerprint(CONFIGURED))
    assert await world.names("one", "two") == ["ann", "bob"]
    world.write({"bob": "two"}, fingerprint(CONFIGURED))
    assert await world.names("one", "two") == [None, "bob"]
    world.file.unlink()
    assert await world.names("one", "two") == ["ann", None]


async def test_a_change_from_before_this_server_was_started_is_in_its_environment(world: World) -> None:
    world.write({"bob": "two"}, fingerprint(parse_api_keys("ann=older")))
    assert await world.names("one", "two") == ["ann", None]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"keys": {}, "replaced": []}',
        '{"keys": {"a": "sha256:zz"}, "replaced": []}',
        '{"keys": {"a": 1}, "replaced": []}',
        '{"keys": ["a"], "replaced": []}',
        '{"keys": {"a": "sha256:00"}}',
    ],
)
async def test_a_file_that_cannot_be_used_changes_nothing(
    world: World, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.write({"bob": "two"}, fingerprint(CONFIGURED))
    assert await world.names("one", "two") == [None, "bob"]
    world.file.write_text(text)
    with caplog.at_level(logging.ERROR):
        assert await world.names("one", "two") == [None, "bob"]
    assert "the keys stay as they are" in caplog.text


async def test_a_share_that_does_not_answer_changes_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.write({"bob": "two"}, fingerprint(CONFIGURED))
    assert await world.names("two") == ["bob"]
    world.file.unlink()
    world.file.mkdir()
    assert await world.names("two") == ["bob"]
    assert "cannot be read" in caplog.text

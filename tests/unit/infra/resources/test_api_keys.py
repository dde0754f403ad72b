"""The forms of API keys, and the file by which running servers learn of a change."""

from __future__ import annotations

import itertools

import pytest

from inference.api_keys import fingerprint as server_fingerprint
from inference.api_keys import parse_api_keys, parse_changed_keys
from infra.errors import UsageError
from infra.resources.api_keys import (
    KEYS_FILE,
    ApiKey,
    check_name,
    check_value,
    fingerprint,
    format_keys,
    merge_keys,
    parse_keys,
    publish_keys,
)
from infra.verbs.key import ApiKeys
from tests.doubles.memory_share import MemoryShare

DIGEST = "sha256:" + "0a" * 32


def test_keys_in_the_servers_own_form() -> None:
    keys = parse_keys("one=k1, two=k2\nbare,\n")
    assert keys == (ApiKey("one", "k1"), ApiKey("two", "k2"), ApiKey("default", "bare"))
    assert ApiKeys(keys).to_text() == "k1"
    assert parse_keys(format_keys(keys)) == keys


@pytest.mark.parametrize("text", ["one=k1,two=k2", "bare", f"one={DIGEST},two=k2", "two=k2,one=k1"])
def test_the_server_computes_the_same_fingerprint(text: str) -> None:
    assert fingerprint(parse_keys(text)) == server_fingerprint(parse_api_keys(text))


def test_a_server_applies_a_change_unless_it_was_started_later() -> None:
    share = MemoryShare()
    sets = [parse_keys(text) for text in ("a=1", "a=1,b=2", "a=9,b=2")]
    for before, after in itertools.pairwise(sets):
        publish_keys(share, before, after)
    changed = parse_changed_keys(share.files[KEYS_FILE].decode())
    newest = parse_api_keys("a=9,b=2")
    for older in ("a=1", "b=2,a=1"):
        assert set(changed.apply_to(parse_api_keys(older))) == set(newest)
    assert changed.apply_to(newest) == newest
    later = parse_api_keys("somebody=else")
    assert changed.apply_to(later) == later
    assert b"9" not in share.files[KEYS_FILE].split(b"sha256")[0]


def test_a_damaged_file_is_replaced() -> None:
    share = MemoryShare()
    share.write(KEYS_FILE, b"{")
    publish_keys(share, parse_keys("a=1"), parse_keys("a=2"))
    changed = parse_changed_keys(share.files[KEYS_FILE].decode())
    assert changed.replaced == {fingerprint(parse_keys("a=1"))}


@pytest.mark.parametrize(
    ("deployed", "wanted", "merged"),
    [
        ("default=a", "b", "b"),
        ("default=a,bob=c", "b", "default=b,bob=c"),
        ("default=a,bob=c", "bob=d,eve=e", "bob=d,eve=e,default=a"),
        ("", "b", "b"),
    ],
)
def test_a_key_that_was_added_survives_the_parameter(deployed: str, wanted: str, merged: str) -> None:
    assert merge_keys(deployed, wanted) == merged


@pytest.mark.parametrize("name", ["", "a,b", "a=b", "-a", "a b", "x" * 65])
def test_a_name_that_the_secret_cannot_contain(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of an API key"):
        check_name(name)


@pytest.mark.parametrize("value", ["", "a,b", "a=b", "a b", "a\nb"])
def test_a_text_that_would_end_the_key(value: str) -> None:
    with pytest.raises(UsageError, match="cannot be an API key"):
        check_value(value)

"""Whether the share is mounted with a key that its account still has."""

from __future__ import annotations

from typing import Any

import pytest

from infra.az.names import unique_string
from infra.resources.mount_key import key_state, mounted_digest, parse_account_keys


def app(*containers: Any) -> Any:
    return {"properties": {"template": {"containers": list(containers)}}}


def container(name: str, value: str | None) -> Any:
    return {
        "name": name,
        "env": [{"name": "OTHER", "value": "x"}, {"name": "STORAGE_KEY_DIGEST", "value": value}],
    }


@pytest.mark.parametrize(
    ("document", "keys", "state"),
    [
        (app(container("inference", unique_string("a"))), ("a", "b"), "valid"),
        (app(container("sidecar", "x"), container("inference", unique_string("b"))), ("a", "b"), "valid"),
        (app(container("inference", unique_string("c"))), ("a", "b"), "rotated"),
        (app(container("inference", unique_string("a"))), (), "unknown"),
        (app(container("inference", None)), ("a",), "unknown"),
        (app(container("sidecar", unique_string("c"))), ("a",), "unknown"),
        (app({"name": "inference", "env": None}), ("a",), "unknown"),
        ({}, ("a",), "unknown"),
    ],
)
def test_the_state_of_the_key(document: Any, keys: tuple[str, ...], state: str) -> None:
    assert key_state(document, keys) == state


def test_the_digest_does_not_contain_the_key() -> None:
    key = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
    digest = mounted_digest(app(container("inference", unique_string(key))))
    assert len(digest) == 13
    assert not set(digest) - set("abcdefghijklmnopqrstuvwxyz234567")


@pytest.mark.parametrize(
    ("answer", "keys"), [([{"value": "a"}, {"value": ""}, None], ("a",)), (None, ()), ({}, ())]
)
def test_keys_as_az_lists_them(answer: Any, keys: tuple[str, ...]) -> None:
    assert parse_account_keys(answer) == keys

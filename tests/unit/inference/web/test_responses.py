"""The types of the responses, against what the writers write."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from inference.engines.protocol import Sampling
from inference.service.logprobs import Logprob, LogprobEntry
from inference.service.requests import TextDelta, TextPrompt, TextRequest, Usage
from inference.text.codec import Token
from inference.text.tools import ToolCall
from inference.web.response_writer import (
    ChatResponseWriter,
    ChoiceBuffer,
    ChunkWriter,
    CompletionResponseWriter,
)
from inference.web.responses import ChatCompletion, ChatCompletionChunk, Completion, CompletionChunk
from inference.web.schemas import SAMPLING_FIELDS, ChatCompletionRequest, CompletionRequest

REQUEST = TextRequest("id", "org/base", TextPrompt("Once"), 8, Sampling(), top_logprobs=1)
LOGPROB = Logprob(Token("Hi", b"Hi"), -0.5)
DELTAS = (
    TextDelta("Hi", logprobs=(LogprobEntry(LOGPROB, 0, (LOGPROB,)),)),
    TextDelta("", calls=((0, ToolCall("call", "get_time", "{}")),)),
    TextDelta("", "tool_calls"),
)
WRITERS = (
    (ChatResponseWriter, ChatCompletion, ChatCompletionChunk),
    (CompletionResponseWriter, Completion, CompletionChunk),
)


def validate(kind: Any, document: Any) -> None:
    """Validate strictly, unknown fields included."""
    TypeAdapter(kind).validate_python(document, strict=True, extra="forbid")


@pytest.mark.parametrize(("make", "whole", "chunk"), WRITERS)
def test_what_is_written_is_what_is_documented(make: type[ChunkWriter], whole: Any, chunk: Any) -> None:
    writer = make(REQUEST, has_usage=True)
    choice = ChoiceBuffer()
    stream = writer.opening(1, Usage(2, 0))
    for delta in DELTAS:
        choice.add(delta)
        stream += writer.delta(delta, Usage(2, 1))
    stream += writer.closing(Usage(2, 3))
    validate(whole, writer.response([choice], Usage(2, 3)))
    *events, done = stream.decode().removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    assert len(events) >= len(DELTAS)
    for event in events:
        validate(chunk, json.loads(event.removeprefix("data: ")))


def test_an_unknown_field_would_be_noticed() -> None:
    document = CompletionResponseWriter(REQUEST, has_usage=False).response([ChoiceBuffer()], Usage(1, 1))
    with pytest.raises(ValidationError, match="surplus"):
        validate(Completion, {**document, "surplus": 1})


@pytest.mark.parametrize("body", [ChatCompletionRequest, CompletionRequest])
def test_every_field_of_the_sampling_is_a_field_of_the_api(body: Any) -> None:
    assert set(SAMPLING_FIELDS) <= body.model_fields.keys()

"""What a request may have: fields, histories, prompts and bodies that are accepted or rejected."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import openai
import pytest

from inference.engines.protocol import Sampling
from tests.doubles.api_server import BASE, ENDED, HELLO, ApiServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"n": 17}, "n", "'n': Input should be less than or equal to 16."),
    ({"n": 0}, "n", "'n': Input should be greater than or equal to 1."),
    ({"n": 3}, "n", "The request asks for 3 answers, and this server gives 2 at once. Ask for fewer."),
    ({"top_logprobs": 1}, "top_logprobs", "'top_logprobs': it goes with 'logprobs': true."),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "'top_logprobs': Input should be less than"),
    ({"seed": 1.5}, "seed", "'seed': Input should be a valid integer."),
    ({"presence_penalty": 2.5}, "presence_penalty",
     "'presence_penalty': Input should be less than or equal to 2."),
    ({"frequency_penalty": -3}, "frequency_penalty",
     "'frequency_penalty': Input should be greater than or equal to -2."),
    ({"repetition_penalty": 0}, "repetition_penalty",
     "'repetition_penalty': Input should be greater than or equal to 0.01."),
    ({"logit_bias": {"5": 101}}, "logit_bias", "Input should be less than or equal to 100."),
    ({"logit_bias": {"five": 1}}, "logit_bias", "'logit_bias': the keys are token ids, such as '50256'."),
    ({"logit_bias": {"258": 1}}, "logit_bias",
     "'logit_bias' names the token 258, and token ids are from 0 to 257."),
    ({"response_format": {"type": "xml"}}, "response_format.type", "Input should be 'text', 'json_object'"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema",
     "The field 'response_format.json_schema' is missing."),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "The field 'tools[0].function' is missing."),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].custom", "Unknown field 'tools[0].custom'."),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools",
     "This model does not support tools: its chat template renders none. Leave 'tools' out."),
    ({"tool_choice": "required"}, "tool_choice", "'tool_choice': there are no tools to choose from."),
    ({"functions": [{"name": "f"}]}, "functions", "'functions' is not supported by this server"),
    ({"use_beam_search": True}, "use_beam_search", "'use_beam_search' is not supported by this server"),
    ({"verbosity": "low"}, "verbosity", "'verbosity' is not supported by this server"),
    ({"stream_options": {}}, "stream_options", "'stream_options': it goes with 'stream': true."),
    ({"stream_options": {"include_usage": True}, "stream": False}, "stream_options",
     "'stream_options': it goes with 'stream': true."),
    ({"tools": ["f"]}, "tools[0]", "'tools[0]': Input should be a JSON object."),
    ({"response_format": "json"}, "response_format", "'response_format': Input should be a JSON object."),
    ({"tool_choice": {"type": "any"}}, "tool_choice",
     "'tool_choice': it is 'none', 'auto', 'required', or {'type': 'function', 'function': {'name': ...}}."),
    ({"tool_choice": "function f"}, "tool_choice", "'tool_choice': it is 'none', 'auto', 'required', or {"),
    ({"tempratur": 1}, "tempratur", "Unknown field 'tempratur'."),
    ({"temperature": 3}, "temperature", "'temperature': Input should be less than or equal to 2."),
    ({"temperature": "hot"}, "temperature", "'temperature': Input should be a valid number."),
    ({"top_p": 0}, "top_p", "'top_p': Input should be greater than 0."),
    ({"max_tokens": 0}, "max_tokens", "'max_tokens': Input should be greater than or equal to 1."),
    ({"max_tokens": 1.5}, "max_tokens", "'max_tokens': Input should be a valid integer."),
    ({"stop": ["a", ""]}, "stop", "'stop': a stop string must not be empty."),
    ({"stop": ["x"] * 17}, "stop", "'stop': "),
    ({"messages": []}, "messages", "'messages': List should have at least 1 item"),
    ({"messages": None}, "messages", "'messages': Input should be a valid list."),
    ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role", "'messages[0].role': Input"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "The field 'messages[0].content' is missing."),
    ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"id": "c"}]}]},
     "messages[1].tool_calls[0].function", "The field 'messages[1].tool_calls[0].function' is missing."),
    ({"messages": [*HELLO, {"role": "tool", "content": "5"}]},
     "messages[1].tool_call_id", "The field 'messages[1].tool_call_id' is missing."),
    ({"messages": [*HELLO, {"role": "tool", "content": "5", "tool_call_id": "c"}]}, "messages",
     "This model's chat template does not support tools, so it cannot render calls and their results."),
    ({"messages": ["Hello"]}, "messages[0]", "'messages[0]': Input should be a JSON object."),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     "messages[0].content", "only text is supported: each part of the content is {'type': 'text', 'text': "),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content",
     "only text is supported"),
    ({"model": None}, "model", "'model': Input should be a valid string."),
    ({"stream_options": {"speed": 1}, "stream": True}, "stream_options.speed",
     "Unknown field 'stream_options.speed'."),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "message"), REFUSED)
async def test_an_unsupported_field_is_rejected_by_name(
    api_server: ApiServer, fields: dict[str, Any], param: str | None, message: str
) -> None:
    response = await api_server.chat(**fields)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == param
    assert message in error["message"]
    assert not re.search(r"\{\{|dictionary", error["message"])
    assert error["type"] == "invalid_request_error"
    assert api_server.engine.requests == []


async def test_a_neutral_value_is_accepted(api_server: ApiServer) -> None:
    api_server.engine.play(ENDED)
    response = await api_server.chat(
        n=1, logprobs=False, top_logprobs=0, presence_penalty=0, repetition_penalty=1, frequency_penalty=0.0,
        logit_bias={}, tools=[], store=False,
        user="u", metadata={"a": "b"}, response_format={"type": "text"}, seed=None, service_tier="auto",
        parallel_tool_calls=True, tool_choice="none", stream=False, stop=None, top_k=-1,
        safety_identifier="s", use_beam_search=False, skip_special_tokens=True, verbosity="medium",
    )  # fmt: skip
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "fields",
    [
        {"store": True}, {"service_tier": "priority"}, {"metadata": {"a": "b"}}, {"priority": 3},
        {"prediction": {"type": "content", "content": "x"}}, {"cache_salt": "s"}, {"prompt_cache_key": "k"},
        {"some_field_of_another_server": None}, {"response_format": {"type": "text", "schema": None}},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False},
    ],
)  # fmt: skip
async def test_a_field_that_does_not_change_the_answer_is_accepted(
    api_server: ApiServer, fields: dict[str, Any]
) -> None:
    api_server.engine.play(ENDED)
    response = await api_server.chat(**fields)
    assert response.status_code == 200, response.text
    assert api_server.engine.requests[0].sampling == Sampling()


HISTORIES: list[tuple[dict[str, Any], str]] = [
    # AutoGen's client sends the name of each agent, LangChain's what a message was given.
    ({"role": "user", "name": "user", "content": "x"}, "user: x"),
    ({"role": "system", "name": "agent", "content": "x"}, "system: x"),
    # What the official client reads from a stream, and what other servers and libraries add.
    ({"role": "assistant", "content": "x", "refusal": None, "annotations": [{"type": "url_citation"}],
      "audio": {"id": "a"}, "function_call": None, "tool_calls": None, "parsed": {"a": 1}}, "assistant: x"),
    ({"role": "assistant", "content": "x", "reasoning_content": "hm", "thinking_blocks": [],
      "provider_specific_fields": {"a": 1}, "index": 0, "images": []}, "assistant: x"),
    ({"role": "assistant", "content": None}, "assistant: "),
    ({"role": "assistant"}, "assistant: "),
    ({"role": "assistant", "content": None, "refusal": "I cannot."}, "assistant: I cannot."),
    ({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"},
      {"type": "output_text", "text": "x", "annotations": []}]}, "assistant: x"),
    ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, "assistant: No."),
    # LiteLLM and OpenRouter mark what Anthropic's models cache.
    ({"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
      "cache_control": {"type": "ephemeral"}}, "user: x"),
    ({"role": "user", "content": [{"type": "input_text", "text": "x"}, "y", {"type": "text", "text": None}]},
     "user: xy"),
    ({"role": "user", "content": [], "tool_calls": [], "tool_call_id": None}, "user: "),
    ({"role": "developer", "content": "x", "id": "msg_1", "status": "completed"}, "system: x"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "line"), HISTORIES)
async def test_a_message_may_have_what_a_library_added(
    api_server: ApiServer, message: dict[str, Any], line: str
) -> None:
    api_server.engine.play(ENDED)
    response = await api_server.chat(messages=[*HELLO, message])
    assert response.status_code == 200, response.text
    prompt = bytes(api_server.engine.requests[0].prompt_token_ids).decode()
    assert prompt == f"user: Hello\n{line}\nassistant: "


@pytest.mark.parametrize(
    ("content", "content_type", "message"),
    [
        (b"{", "application/json", "The body is not valid JSON"),
        (b"[]", "application/json", "must be a JSON object"),
        (b'"text"', "application/json", "must be a JSON object"),
        (b"", "application/json", "must be a JSON object"),
        (b"a=b", "application/x-www-form-urlencoded", "must be a JSON object"),
        (b'{"model": "\xff"}', "application/json", "The body is not valid JSON"),
    ],
)
async def test_an_invalid_body_is_rejected(
    api_server: ApiServer, content: bytes, content_type: str, message: str
) -> None:
    response = await api_server.http.post(
        "/v1/chat/completions", content=content, headers={"Content-Type": content_type}
    )
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


async def test_errors_have_one_shape_everywhere(api_server: ApiServer) -> None:
    missing = await api_server.http.get("/v1/assistants")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"].startswith(
        "There is no /v1/assistants. This server generates text: POST /v1/chat/completions, "
    )
    broken = await api_server.http.get("/v1/models/two%0Alines")
    assert (broken.status_code, broken.json()["error"]["code"]) == (404, "unknown_url")
    wrong_way = await api_server.http.get("/v1/chat/completions")
    assert wrong_way.status_code == 405
    assert wrong_way.headers["allow"] == "POST"
    assert wrong_way.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("POST", "/chat/completions", "but /v1/chat/completions: the base URL of your client has to end"),
        ("GET", "/models", "but /v1/models: the base URL of your client has to end with /v1."),
        ("POST", "/v1/v1/messages", "your client adds /v1 to a base URL that has it already."),
        ("POST", "/v1/embeddings", "There is no /v1/embeddings. This server generates text: POST /v1/chat/"),
    ],
)
async def test_a_wrong_path_is_explained(api_server: ApiServer, method: str, path: str, hint: str) -> None:
    response = await api_server.http.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    assert hint in response.json()["error"]["message"]


async def test_a_prompt_beyond_the_context_is_rejected_before_it_queues(api_server: ApiServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await api_server.openai.chat.completions.create(
            model=BASE, messages=[{"role": "user", "content": "x" * 300}]
        )
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    response = await api_server.chat(max_tokens=190)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert response.json()["error"]["param"] == "max_tokens"
    assert "you requested 213 (23 in the prompt, 190 in the answer)" in response.json()["error"]["message"]
    assert api_server.engine.requests == []


async def test_without_a_length_the_answer_gets_what_the_context_leaves(api_server: ApiServer) -> None:
    api_server.engine.play(ENDED)
    await api_server.chat(messages=[{"role": "user", "content": "x" * 150}])
    request = api_server.engine.requests[0]
    assert request.max_new_tokens == 200 - len(request.prompt_token_ids)


async def test_empty_prompts_and_unknown_token_ids_are_rejected(api_server: ApiServer) -> None:
    for prompt, message in (
        ("", "The prompt is empty."),
        ([], "The prompt is empty."),
        ([258], "from 0 to 257"),
    ):
        response = await api_server.http.post("/v1/completions", json={"model": BASE, "prompt": prompt})
        assert response.status_code == 400
        assert message in response.json()["error"]["message"]
        assert response.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("is_announced", [True, False])
async def test_an_oversized_body_is_rejected(api_server: ApiServer, *, is_announced: bool) -> None:
    body = json.dumps({"model": BASE, "messages": [{"role": "user", "content": "x" * 30_000}]}).encode()

    async def parts() -> AsyncIterator[bytes]:
        yield body[:10_000]
        yield body[10_000:]

    response = await api_server.http.post(
        "/v1/chat/completions",
        content=body if is_announced else parts(),
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"

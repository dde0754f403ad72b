"""Answers of the API, whole and as streams, with keys and models."""

from __future__ import annotations

import json
from typing import Any

import httpx2 as httpx
import openai
import pytest

from inference.engines.protocol import Sampling
from inference.service.requests import Limits
from inference.settings import Settings
from tests.doubles.api_server import BASE, END, ENDED, HELLO, KEY, TUNED, ApiServer


async def test_a_conversation_is_answered_in_one_response(api_server: ApiServer) -> None:
    api_server.engine.play(ENDED)
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": " two"}]},
        {"role": "assistant", "content": "Three."},
        {"role": "user", "content": "Four?"},
    ]
    completion = await api_server.openai.chat.completions.create(
        model=TUNED, messages=messages, temperature=0
    )
    choice = completion.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "Hi there")
    assert choice.finish_reason == "stop"
    assert completion.model == TUNED
    assert completion.usage is not None
    prompt = b"system: Be brief.\nuser: One two\nassistant: Three.\nuser: Four?\nassistant: "
    assert bytes(api_server.engine.requests[0].prompt_token_ids) == prompt
    assert completion.usage.prompt_tokens == len(prompt)
    assert completion.usage.completion_tokens == len(ENDED)
    assert completion.usage.total_tokens == len(prompt) + len(ENDED)
    assert api_server.engine.requests[0].model == TUNED
    assert api_server.engine.requests[0].sampling.is_greedy


async def test_an_answer_is_accepted_as_part_of_the_history(api_server: ApiServer) -> None:
    api_server.engine.play(ENDED)
    first = await api_server.openai.chat.completions.create(model=BASE, messages=HELLO)
    api_server.engine.play(ENDED)
    messages: Any = [*HELLO, first.choices[0].message, {"role": "user", "content": "And?"}]
    await api_server.openai.chat.completions.create(model=BASE, messages=messages)
    assert b"assistant: Hi there\n" in bytes(api_server.engine.requests[1].prompt_token_ids)


async def test_a_stream_has_the_role_once_then_text_then_the_finish_reason(api_server: ApiServer) -> None:
    api_server.engine.play(b"Hi", b" the", b"re", (END,))
    stream = await api_server.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.role for chunk in chunks[:-1]].count("assistant") == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hi there"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == [
        "stop"
    ]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_stream_ends_with_done_and_has_no_usage_unless_asked(api_server: ApiServer) -> None:
    api_server.engine.play(ENDED)
    response = await api_server.chat(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    assert "usage" not in response.text


async def test_no_character_is_split_in_a_stream(api_server: ApiServer) -> None:
    api_server.engine.play(*[(byte,) for byte in "Zürich 😀".encode()], (END,))
    response = await api_server.chat(stream=True)
    documents = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    pieces = [document["choices"][0]["delta"].get("content", "") for document in documents]
    assert "".join(pieces) == "Zürich 😀"
    assert "ü" in pieces
    assert "😀" in pieces


async def test_the_length_is_kept(api_server: ApiServer) -> None:
    api_server.engine.play(b"a long answer")
    completion = await api_server.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        max_completion_tokens=6,
    )
    assert completion.choices[0].message.content == "a long"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 6


@pytest.mark.parametrize("stop", ["END", ["nothing", "END"]])
async def test_a_stop_string_across_tokens_ends_the_answer_and_the_generation(
    api_server: ApiServer, stop: Any
) -> None:
    api_server.engine.play(b"one E", b"N", b"D two", b"three")
    completion = await api_server.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        stop=stop,
    )
    assert completion.choices[0].message.content == "one "
    assert completion.choices[0].finish_reason == "stop"
    assert api_server.engine.cancelled == [api_server.engine.requests[0].request_id]


async def test_the_sampling_reaches_the_engine(api_server: ApiServer) -> None:
    api_server.engine.play(ENDED)
    await api_server.openai.chat.completions.create(
        model=BASE,
        messages=HELLO,
        temperature=0.5,
        top_p=0.9,
        extra_body={"top_k": 40, "min_p": 0.1},
    )
    api_server.engine.play(ENDED)
    await api_server.openai.chat.completions.create(model=BASE, messages=HELLO)
    assert api_server.engine.requests[0].sampling == Sampling(0.5, 0.9, 40, 0.1)
    assert api_server.engine.requests[1].sampling == Sampling(1.0, 1.0, 0, 0.0)


@pytest.mark.parametrize(("prompt", "expected"), [("Once", b"Once"), (["Once"], b"Once"), ([79, 110], b"On")])
async def test_a_text_is_continued(api_server: ApiServer, prompt: Any, expected: bytes) -> None:
    api_server.engine.play(ENDED)
    completion = await api_server.openai.completions.create(model=BASE, prompt=prompt)
    assert completion.choices[0].text == "Hi there"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.object == "text_completion"
    assert bytes(api_server.engine.requests[0].prompt_token_ids) == expected
    assert api_server.engine.requests[0].max_new_tokens == 16


async def test_a_text_is_continued_as_a_stream(api_server: ApiServer) -> None:
    api_server.engine.play(b"Hi", b" there", (END,))
    stream = await api_server.openai.completions.create(model=BASE, prompt="Once", stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hi there"
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_the_models_are_listed_with_their_parent(api_server: ApiServer) -> None:
    models = [model async for model in api_server.openai.models.list()]
    assert [(model.id, model.object) for model in models] == [(BASE, "model"), (TUNED, "model")]
    assert [(model.model_extra or {})["parent"] for model in models] == [None, BASE]
    assert (await api_server.openai.models.retrieve(BASE)).id == BASE


async def test_an_unknown_model_is_not_found(api_server: ApiServer) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await api_server.openai.chat.completions.create(model="gpt-4", messages=HELLO)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "'org/base', 'tickets'" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        await api_server.openai.models.retrieve("gpt-4")


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", f"Basic {KEY}", KEY])
async def test_without_a_key_nothing_below_v1_answers(api_server: ApiServer, header: str | None) -> None:
    api_server.http.headers.pop("Authorization")
    headers = {} if header is None else {"Authorization": header}
    for path in ("/v1/models", "/v1/chat/completions", "/v1/nothing", "/v1/openapi.json", "/v1"):
        response = await api_server.http.get(path, headers=headers)
        assert response.status_code == 401, path
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert api_server.engine.requests == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"api-key": KEY}, 200),
        ({"x-api-key": f" {KEY} "}, 200),
        ({"Api-Key": KEY, "Authorization": "Bearer of-another-server"}, 200),
        ({"x-api-key": "of-another-server", "Authorization": f"Bearer {KEY}"}, 200),
        ({"api-key": "wrong"}, 401),
        ({"api-key": f"Bearer {KEY}"}, 401),
        ({"api-key": "", "x-api-key": ""}, 401),
        ({"x-key": KEY}, 401),
    ],
)
async def test_a_key_is_taken_from_azure_s_and_anthropic_s_headers(
    api_server: ApiServer, headers: dict[str, str], status: int
) -> None:
    transport = httpx.ASGITransport(api_server.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        response = await client.get("/v1/models", headers=headers)
    assert response.status_code == status
    if status == 401:
        assert "or in the header 'api-key' or 'x-api-key'" in response.json()["error"]["message"]


async def test_without_auth_no_key_is_needed() -> None:
    api_server = ApiServer(Limits(), Settings(auth=False, chat_sign_in=False))
    api_server.http.headers.pop("Authorization")
    assert (await api_server.http.get("/v1/models")).status_code == 200
    await api_server.close()


async def test_the_version_names_release_and_models(api_server: ApiServer) -> None:
    response = await api_server.http.get("/version", headers={"Authorization": ""})
    assert response.json() == {
        "release": "20260101T000000Z-0123abcd", "version": "0.1.0", "revision": "app--rev",
        "replica": "app--rev-0", "started_at": "2026-01-01T00:00:00Z", "base_model": BASE,
        "adapters": [TUNED],
        "adapter_versions": [], "ready": False, "adapter_generation": "", "wanted_release": None,
        "phase": "serving", "percent": 100, "last_error": None, "container_started_at": None,
        "supervisor_release": None,
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/version", "/metrics"])
async def test_what_can_only_be_read_takes_no_other_method(api_server: ApiServer, path: str) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"):
        refused = await api_server.http.request(method, path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
        assert refused.text == f"{path} does not take {method}.\n"
    read, head = await api_server.http.get(path), await api_server.http.head(path)
    assert (read.status_code, head.status_code) == (200, 200)
    assert (bool(read.content), head.content) == (True, b"")


async def test_a_request_id_comes_back(api_server: ApiServer) -> None:
    api_server.engine.play(ENDED)
    response = await api_server.http.post(
        "/v1/chat/completions", json={"model": BASE, "messages": HELLO}, headers={"X-Request-Id": "abc-1"}
    )
    assert response.headers["x-request-id"] == "abc-1"
    hostile = await api_server.http.get("/healthz", headers={"X-Request-Id": "a b\x7f" + "c" * 100})
    assert hostile.headers["x-request-id"].isalnum()


async def test_nothing_of_a_conversation_is_logged(
    api_server: ApiServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="inference")
    api_server.engine.play((*b"a private answer", END))
    await api_server.chat(messages=[{"role": "user", "content": "a private question"}])
    line = next(record.getMessage() for record in caplog.records if record.name == "inference.access")
    assert line.startswith("POST /v1/chat/completions 200 ")
    assert "key=ann" in line
    assert "private" not in caplog.text
    assert KEY not in caplog.text

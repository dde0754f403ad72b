"""The page without a browser: its paths, what it is told, and what it costs while it is idle."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import gradio
import httpx2 as httpx
import pytest
from starlette.requests import Request

from inference.engines.protocol import ServedModel
from inference.service.model_names import ListedModel
from inference.web.chat.gateway import Sessions
from inference.web.chat.page import (
    Handlers,
    Site,
    client_of,
    describe_model,
    make_blocks,
    make_chat,
    opening_models,
)
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.chat_site import BASE, TUNED, make_service

if TYPE_CHECKING:
    from pathlib import Path


def model(name: str, parent: str | None = None, version: int | None = None) -> ListedModel:
    return ListedModel(name, ServedModel(name, parent, ByteCodec(), frozenset({256}), 0), version)


def test_the_page_opens_with_an_adapter_beside_its_base() -> None:
    assert opening_models((model(BASE), model(TUNED, BASE), model("mail", BASE))) == [BASE, TUNED]
    assert opening_models((model(BASE),)) == [BASE]
    # An adapter whose base is not served by its own name.
    assert opening_models((model(TUNED, BASE),)) == [TUNED]
    assert opening_models(()) == []
    assert describe_model(model(BASE)) == {"name": BASE, "label": "base", "kind": "base"}
    assert describe_model(model("a/b", BASE)) == {"name": "a/b", "label": "a/b", "kind": "fine-tuned"}


def test_a_bare_name_is_shown_with_its_version_beside_another_one() -> None:
    listed = (model(BASE), model("mine", BASE, 3), model("mine@2", BASE, 2), model("other", BASE, 1))
    assert [describe_model(each, listed)["label"] for each in listed] == ["base", "mine@3", "mine@2", "other"]


async def test_the_page_is_told_what_is_served_now(tmp_path: Path) -> None:
    service, _ = make_service()
    handlers = Handlers(service, Site(tmp_path, "r1", has_sign_in=True), Sessions())
    told = await handlers.describe()
    assert [each["name"] for each in told["models"]] == [BASE, TUNED]
    assert (told["release"], told["has_sign_in"], told["has_feedback"]) == ("r1", True, False)
    assert await handlers.render(["*one*", "two"]) == [["<p><em>one</em></p>\n"], ["<p>two</p>\n"]]


async def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    service, _ = make_service()
    handlers = Handlers(service, Site(tmp_path), Sessions())
    request: Any = Request({"type": "http", "headers": []})
    answered = {"model": TUNED, "turns": [{"user": " "}], "settings": {}, "text": "x", "token_ids": [1]}
    blank = {"error": "The message is blank."}
    assert await handlers.probabilities(answered, request) == blank
    assert await handlers.snippets({"answered": answered, "origin": "http://x"}) == blank
    off = {"error": "This server keeps no thumbs."}
    assert await handlers.rate({"answered": answered, "is_good": True}) == off


@pytest.mark.parametrize(
    ("state", "client"), [({"key_name": "ann"}, "chat:ann"), ({"key_name": "-"}, "chat"), ({}, "chat")]
)
def test_a_person_counts_as_a_key_of_their_own(state: dict[str, str], client: str) -> None:
    request = Request({"type": "http", "headers": [], "state": state})
    assert client_of(request) == client
    assert client_of(gradio.Request(request)) == client


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://x", "/monitoring",
        "/gradio_api/vibe-edit", "/gradio_api/run/ask", "/gradio_api/call/ask", "/gradio_api/dev/reload",
        "/docs", "/openapi.json", "/gradio_api/openapi.json",
    ],
)  # fmt: skip
async def test_paths_that_the_page_does_not_use_are_not_found(path: str, tmp_path: Path) -> None:
    service, _ = make_service()
    chat = await asyncio.to_thread(make_chat, service, Site(tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(chat), base_url="http://chat") as client:
        assert (await client.post(path)).status_code == 404
        assert (await client.get(path)).status_code == 404


async def test_an_idle_page_leaves_the_interpreter_to_the_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    service, _ = make_service()
    chat = await asyncio.to_thread(make_chat, service, Site(tmp_path))
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    call_at = loop.call_at

    def note(when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *arguments, **options)

    monkeypatch.setattr(loop, "call_at", note)
    async with chat.lifespan():
        await asyncio.sleep(0.2)
        timers.clear()
        await asyncio.sleep(1)
    # Twenty polls of its queue; a thousand with its default.
    assert 1 <= len(timers) <= 200


async def test_gradio_does_not_summarize_all_events_after_each(tmp_path: Path) -> None:
    """`Queue.compute_analytics_summary` is replaced; Gradio calls it after each event, with all of them."""
    service, _ = make_service()
    queue = make_blocks(Handlers(service, Site(tmp_path), Sessions()))._queue
    assert callable(type(queue).compute_analytics_summary)
    assert queue.compute_analytics_summary([{"time": 1.0}]) is None
    assert queue.cached_event_analytics_summary == {"functions": {}}

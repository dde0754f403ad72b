from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import gradio
import httpx2 as httpx
import pytest
import uvicorn
from playwright.sync_api import Page, expect, sync_playwright
from starlette.requests import Request

from inference.api_keys import ApiKey, digest_of
from inference.engines.protocol import Sampling, ServedModel
from inference.observability.logs import PromptLog
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.web import chat
from inference.web.application import ChatPage, Identity, make_application
from inference.web.chat import Chat, Controls, _client_of, answer, make_chat
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inference.service.lifecycle import RequestLifecycle

BASE, TUNED, END, KEY = "org/base", "tickets", 256, "secret-key"


def make_service(limits: Limits = Limits()) -> tuple[Service, ScriptedEngine]:  # noqa: B008 - it is frozen
    engine = ScriptedEngine({BASE: 300, TUNED: 300}, frozenset({END}))
    service = Service(limits)
    base = ServedModel(BASE, None, ByteCodec(), frozenset({END}), 0)
    service.begin_serving(engine, (base, ServedModel(TUNED, BASE, ByteCodec(), frozenset({END}), 0)))
    return service, engine


def test_several_adapters_are_all_offered_and_the_first_is_chosen() -> None:
    codec, ends = ByteCodec(), frozenset({END})
    models = (
        ServedModel(BASE, None, codec, ends, 0),
        ServedModel("tickets", BASE, codec, ends, 0),
        ServedModel("mail", BASE, codec, ends, 0),
    )
    choice = chat._model_choice(models)
    assert choice.choices == [
        ("Fine-tuned: tickets", "tickets"),
        ("Fine-tuned: mail", "mail"),
        ("Base: base", BASE),
    ]
    assert choice.value == "tickets"
    assert "<p>tickets, mail on org/base · release r1</p>" in chat._heading(models, "r1", has_sign_in=True)
    assert "<p>org/base</p>" in chat._heading(models[:1], "", has_sign_in=True)


async def test_an_answer_grows_and_depends_on_the_history() -> None:
    service, engine = make_service()
    engine.play(b"It ", b"is.", (END,))
    history: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "One"}]},
        {"role": "assistant", "content": "Two"},
    ]
    controls = Controls(TUNED, " Be brief. ", 0.5, 0.9, 40)
    texts = [text async for text in answer(service, "Three", history, controls)]
    assert texts == ["It ", "It is."]
    request = engine.requests[0]
    assert bytes(request.prompt_token_ids) == (
        b"system: Be brief.\nuser: One\nassistant: Two\nuser: Three\nassistant: "
    )
    assert (request.model, request.sampling, request.max_new_tokens) == (TUNED, Sampling(0.5, 0.9), 40)
    assert service.queue.slots_in_use == 0


async def test_the_reason_of_a_rejection_is_shown() -> None:
    service, _ = make_service()
    controls = Controls(BASE, "", 1.0, 1.0, 40)
    with pytest.raises(gradio.Error, match="maximum context length is 300 tokens"):
        async for _text in answer(service, "x" * 400, [], controls):
            pass


async def test_the_chat_is_under_the_same_limits_as_the_api() -> None:
    service, engine = make_service(Limits(max_concurrent=1, max_waiting=0))
    engine.play(asyncio.Event())
    controls = Controls(BASE, "", 1.0, 1.0, 40)

    async def read() -> list[str]:
        return [text async for text in answer(service, "x", [], controls)]

    first = asyncio.create_task(read())
    await asyncio.sleep(0)
    with pytest.raises(gradio.Error, match="Try again shortly"):
        await anext(answer(service, "x", [], controls))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert service.queue.slots_in_use == 0


@pytest.mark.parametrize(
    ("state", "client"), [({"key_name": "ann"}, "chat:ann"), ({"key_name": "-"}, "chat"), ({}, "chat")]
)
def test_a_person_counts_as_a_key_of_their_own(state: dict[str, str], client: str) -> None:
    request = gradio.Request(Request({"type": "http", "headers": [], "state": state}))
    assert _client_of(request) == client


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://x", "/monitoring",
        "/gradio_api/vibe-edit", "/gradio_api/run/reply", "/gradio_api/call/reply", "/gradio_api/dev/reload",
        "/docs", "/openapi.json", "/gradio_api/openapi.json",
    ],
)  # fmt: skip
async def test_paths_that_the_page_does_not_use_are_not_found(path: str) -> None:
    service, _ = make_service()
    chat = await asyncio.to_thread(make_chat, service, "", has_sign_in=False)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(chat), base_url="http://chat") as client:
        assert (await client.post(path)).status_code == 404
        assert (await client.get(path)).status_code == 404


@pytest.mark.quiet
async def test_an_idle_page_leaves_the_interpreter_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    service, _ = make_service()
    chat = await asyncio.to_thread(make_chat, service, "", has_sign_in=False)
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
    assert 15 <= len(timers) <= 40


class Noting(PromptLog):
    """Records the clients of requests."""

    def __init__(self, clients: list[str]) -> None:
        super().__init__()
        self._clients = clients

    def on_queued(self, lifecycle: RequestLifecycle) -> None:
        super().on_queued(lifecycle)
        self._clients.append(lifecycle.request.client)


class Site:
    """The whole application on a port, on its own thread, with a scripted engine."""

    def __init__(self) -> None:
        self.service, self.engine = make_service()
        self.clients: list[str] = []
        self.service.observers.append(Noting(self.clients))
        settings = Settings(api_keys=(ApiKey("ann", digest_of(KEY)),))
        page = ChatPage(self.service)
        chat = make_chat(self.service, "20260101T000000Z-0123abcd", has_sign_in=True)
        page.application = chat
        application = make_application(self.service, settings, Identity("", "", "", ""), page)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(application, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(chat)))
        self._thread.start()
        self._is_up.wait(30)

    def play(self, *steps: Any) -> None:
        self._loop.call_soon_threadsafe(self.engine.play, *steps)

    def wait_until_empty(self) -> None:
        waiting = asyncio.run_coroutine_threadsafe(self.service.queue.wait_until_idle(), self._loop)
        waiting.result(30)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()

    async def _serve(self, chat: Chat) -> None:
        self._loop = asyncio.get_running_loop()
        self._is_up.set()
        async with chat.lifespan():
            await self._server.serve([self._listener])
        await self.engine.close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def page(site: Site) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        requested: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.on("response", lambda response: failed.append(response.url) if response.status >= 500 else None)
        page.goto(site.url)
        page.get_by_label("Password").fill(KEY)
        page.get_by_role("button", name="Sign in").click()
        yield page
        browser.close()
        assert [url for url in requested if not url.startswith((site.url, "data:", "blob:"))] == []
        assert failed == []


@pytest.mark.browser
def test_a_user_chats_with_both_models_and_stops_one(site: Site, page: Page) -> None:
    message = page.get_by_role("textbox").first
    expect(page.get_by_text("release 20260101T000000Z-0123abcd")).to_be_visible()
    expect(page.get_by_label("Fine-tuned: tickets")).to_be_checked()

    site.play(b"**Tuned** says hi", (END,))
    page.get_by_label("Your message").fill("Hello")
    page.keyboard.press("Enter")
    # Markdown is rendered.
    expect(page.locator("strong", has_text="Tuned")).to_be_visible()

    page.get_by_label("Base: base").check()
    site.play(b"The base talks and talks", asyncio.Event())
    message.fill("And you?")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The base talks and talks")).to_be_visible()
    assert site.engine.requests[1].model == BASE
    assert b"assistant: **Tuned** says hi\n" in bytes(site.engine.requests[1].prompt_token_ids)

    page.locator("button.stop-button").click()
    expect(page.locator("button.submit-button")).to_be_visible()
    site.wait_until_empty()
    assert site.engine.cancelled == [site.engine.requests[1].request_id]
    assert set(site.clients) == {"chat:ann"}


@pytest.mark.browser
def test_a_closed_tab_frees_its_slot(site: Site, page: Page) -> None:
    site.play(b"The base talks and talks", asyncio.Event())
    page.get_by_label("Your message").fill("Hello")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The base talks and talks")).to_be_visible()
    page.goto("about:blank")
    site.wait_until_empty()
    assert site.engine.cancelled

"""What a user does with the page, in a real browser."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from inference.observability.logs import PromptLog
from inference.service.requests import Limits
from localcloud.runtime.sockets import free_port
from tests.doubles.chat_site import BASE, END, KEY, RELEASE, TUNED, ChatSite

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Locator, Page

    from inference.service.lifecycle import RequestLifecycle

pytestmark = pytest.mark.browser


class Noting(PromptLog):
    """Records the clients of requests."""

    def __init__(self, clients: list[str]) -> None:
        super().__init__()
        self._clients = clients

    def on_queued(self, lifecycle: RequestLifecycle) -> None:
        super().on_queued(lifecycle)
        self._clients.append(lifecycle.request.client)


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answer_of(page: Page, model: str) -> Locator:
    return page.get_by_role("article", name=f"Answer of {model}").last


def only(page: Page, model: str) -> None:
    """Ask one model alone."""
    for box in page.get_by_role("checkbox").all():
        box.set_checked(box.get_attribute("value") == model)


def prompts(site: ChatSite) -> list[str]:
    return [bytes(request.prompt_token_ids).decode() for request in site.engine.requests]


def test_the_page_opens_with_base_and_adapter_side_by_side(site: ChatSite, page: Page) -> None:
    clients: list[str] = []
    site.service.observers.append(Noting(clients))
    expect(page.get_by_text(f"release {RELEASE}")).to_be_visible()
    expect(page.get_by_role("checkbox", name="tickets fine-tuned")).to_be_checked()
    expect(page.get_by_role("checkbox", name="base base")).to_be_checked()

    gate = asyncio.Event()
    site.play(b"**Bold** words", gate, b", and more", (END,))
    site.play(b'{"category": "lamp"}', (END,))
    page.get_by_role("button", name="A cry").click()
    base, tuned = answer_of(page, "base"), answer_of(page, "tickets")
    expect(tuned).to_contain_text('{"category": "lamp"}')
    # Markdown is rendered while the answer grows.
    expect(base.locator("strong")).to_have_text("Bold")
    expect(tuned).to_contain_text("complete")
    site.set(gate)
    expect(base).to_contain_text("and more")
    expect(base).to_contain_text("25 tokens")
    expect(base).to_contain_text("tokens/s")
    left, right = base.bounding_box(), tuned.bounding_box()
    assert left is not None
    assert right is not None
    assert left["x"] < right["x"]
    assert left["y"] == right["y"]
    assert prompts(site) == ["user: Help me, the lamp is dark!\nassistant: "] * 2
    assert len({request.sampling for request in site.engine.requests}) == 1
    assert set(clients) == {"chat:ann"}


def test_a_question_after_a_stop_before_the_first_token_is_one_of_its_own(site: ChatSite, page: Page) -> None:
    only(page, TUNED)
    site.play(asyncio.Event())
    ask(page, "First")
    expect(page.get_by_text("Waiting for the first token")).to_be_visible()
    site.wait_for_request(1)  # the page shows that it waits before the request is under way
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped before the first token.")).to_be_visible()
    site.wait_until_empty()
    site.play(b"Hi", (END,))
    ask(page, "Second")
    expect(answer_of(page, "tickets")).to_contain_text("Hi")
    expect(page.locator(".fj-bubble")).to_have_text(["You: First", "You: Second"])
    assert prompts(site)[1] == "user: Second\nassistant: "


def test_blank_messages_are_not_sent(site: ChatSite, page: Page) -> None:
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    ask(page, "  \n ")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    expect(page.locator(".fj-bubble")).to_have_count(0)
    assert site.engine.requests == []


def test_an_empty_answer_is_shown_as_one(site: ChatSite, page: Page) -> None:
    only(page, TUNED)
    site.play((END,))
    ask(page, "Hello")
    expect(answer_of(page, "tickets")).to_contain_text("An empty answer: the model ended it at once.")
    expect(answer_of(page, "tickets")).to_contain_text("1 token")


def test_html_stays_text(site: ChatSite, page: Page) -> None:
    only(page, TUNED)
    html = "<img src=https://x.example/a.png><form action=https://x.example>"
    site.play(f"{html} ![b](https://x.example/b.png)".encode(), (END,))
    ask(page, html)
    expect(answer_of(page, "tickets").get_by_role("link", name="b")).to_be_visible()
    expect(page.locator("#fj-turns").get_by_text(html)).to_have_count(2)
    assert page.locator("#fjarr img, #fjarr .fj-turns form").count() == 0
    policy = page.request.get(site.url).headers["content-security-policy"]
    for directive in (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "form-action 'self'",
        "connect-src 'self'",
    ):
        assert directive in policy
    other = page.context.new_page()
    other.goto(site.url)
    blocked = other.evaluate("""() => new Promise(done => {
        document.addEventListener('securitypolicyviolation', event => done(event.violatedDirective));
        fetch('https://x.example/').catch(() => 0);
    })""")
    assert blocked == "connect-src"


def test_an_answer_that_was_cut_off_is_continued(site: ChatSite, page: Page) -> None:
    only(page, TUNED)
    site.play(b"x" * 600)
    ask(page, "Write")
    expect(answer_of(page, "tickets")).to_contain_text("Cut off after 512 tokens")
    site.play(b" and the end", (END,))
    page.get_by_role("button", name="Continue").click()
    expect(answer_of(page, "tickets")).to_contain_text("xx and the end")
    expect(answer_of(page, "tickets")).to_contain_text("525 tokens")
    assert prompts(site)[1] == "user: Write\nassistant: " + "x" * 512


def test_edit_regenerate_undo_and_copy(site: ChatSite, page: Page) -> None:
    only(page, TUNED)
    for text in (b"one", b"two", b"three"):
        site.play(text, (END,))
    ask(page, "Hello")
    answer = answer_of(page, "tickets")
    expect(answer).to_contain_text("one")
    answer.get_by_role("button", name="Regenerate").click()
    expect(answer_of(page, "tickets")).to_contain_text("two")
    page.get_by_role("button", name="Edit and ask again").click()
    page.get_by_label("Edit your message").fill("Hello again")
    page.keyboard.press("Enter")
    expect(answer_of(page, "tickets")).to_contain_text("three")
    assert prompts(site) == ["user: Hello\nassistant: "] * 2 + ["user: Hello again\nassistant: "]
    assert len({request.sampling.seed for request in site.engine.requests}) == 3
    answer_of(page, "tickets").get_by_role("button", name="Copy", exact=True).click()
    expect(page.locator("#fj-status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "three"
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_label("Your message", exact=True)).to_have_value("Hello again")
    expect(page.locator(".fj-bubble")).to_have_count(0)


def test_a_request_as_code_and_an_answer_as_json(site: ChatSite, page: Page) -> None:
    only(page, TUNED)
    site.play(b"Hi", (END,))
    ask(page, "Hello")
    answer = answer_of(page, "tickets")
    answer.get_by_role("button", name="Show as code").click()
    panel = page.get_by_role("tabpanel")
    expect(panel).to_contain_text(f"{site.url}/v1/chat/completions")
    page.keyboard.press("ArrowRight")
    expect(panel).to_contain_text("from openai import OpenAI")
    page.get_by_role("tab", name="JavaScript").click()
    expect(panel).to_contain_text("new OpenAI(")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    answer.get_by_role("button", name="Show as JSON").click()
    shown = json.loads(panel.inner_text())
    assert shown["text"] == "Hi"
    # One line, however many there are.
    assert '"token_ids": [ 72, 105, 256 ],' in panel.inner_text()
    assert shown["settings"]["seed"] == site.engine.requests[0].sampling.seed


def test_a_thumb_is_kept_on_the_share(site: ChatSite, page: Page, mount: Path) -> None:
    only(page, TUNED)
    site.play(b"Hi", (END,))
    ask(page, "Hello")
    good = answer_of(page, "tickets").get_by_role("button", name="Good answer")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")
    line = json.loads((mount / "feedback" / "replica-1.jsonl").read_text())
    assert (line["label"], line["completion"][0]["content"]) == (True, "Hi")
    good.click()
    expect(good).to_have_attribute("aria-pressed", "false")
    assert (mount / "feedback" / "replica-1.jsonl").read_text() == ""


def test_a_right_to_left_text_runs_from_right_to_left(site: ChatSite, page: Page) -> None:
    only(page, TUNED)
    site.play("שלום עולם\n\nHello world".encode(), (END,))
    ask(page, "مرحبا")
    blocks = answer_of(page, "tickets").locator(".fj-block")
    expect(blocks).to_have_count(2)
    directions = blocks.evaluate_all("blocks => blocks.map(block => getComputedStyle(block).direction)")
    assert directions == ["rtl", "ltr"]
    assert page.locator(".fj-bubble").evaluate("bubble => getComputedStyle(bubble).direction") == "rtl"


def test_a_closed_tab_frees_its_slots(site: ChatSite, page: Page) -> None:
    for _ in range(2):
        site.play(b"They talk and talk", asyncio.Event())
    ask(page, "Hello")
    expect(page.get_by_text("They talk and talk")).to_have_count(2)
    page.goto("about:blank")
    site.wait_until_empty()
    assert len(site.engine.cancelled) == 2


def sign_in(page: Page, site: ChatSite) -> None:
    page.goto(site.url)
    page.get_by_label("Password").fill(KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Your message", exact=True)).to_be_visible()


def test_the_place_in_the_queue_is_shown(mount: Path, context: BrowserContext) -> None:
    site = ChatSite(mount, limits=Limits(max_concurrent=1, max_waiting=4))
    try:
        page = context.new_page()
        sign_in(page, site)
        site.play(b"The base talks", asyncio.Event())
        site.play(b"Then the other", (END,))
        ask(page, "Hello")
        expect(answer_of(page, "tickets")).to_contain_text("Waiting: 1st in the queue")
        page.get_by_role("button", name="Stop").click()
        expect(answer_of(page, "base")).to_contain_text("Stopped.")
        site.wait_until_empty()
    finally:
        site.close()


def test_from_four_models_on_they_are_lists(mount: Path, context: BrowserContext) -> None:
    site = ChatSite(mount, names=(BASE, TUNED, "mail", "sums"))
    try:
        page = context.new_page()
        sign_in(page, site)
        expect(page.get_by_role("combobox")).to_have_count(2)
        page.get_by_label("Model 1").select_option("mail")
        page.get_by_role("button", name="Compare with another model").click()
        expect(page.get_by_role("combobox")).to_have_count(3)
        expect(page.get_by_role("button", name="Compare with another model")).to_have_count(0)
        for _ in range(3):
            site.play(b"Hi", (END,))
        ask(page, "Hello")
        expect(page.get_by_role("article")).to_have_count(3)
        expect(answer_of(page, "mail")).to_contain_text("complete")
        assert {request.model for request in site.engine.requests} == {"mail", TUNED, BASE}
        page.get_by_role("button", name="Leave out mail").click()
        expect(page.get_by_role("combobox")).to_have_count(2)
    finally:
        site.close()


def test_conversations_outlive_the_page_and_the_server(mount: Path, context: BrowserContext) -> None:
    site: Any = ChatSite(mount, port=free_port())
    try:
        page = context.new_page()
        sign_in(page, site)
        only(page, TUNED)
        site.play(b"A **kept** answer", (END,))
        ask(page, "Remember this")
        expect(answer_of(page, "tickets")).to_contain_text("complete")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("System prompt").fill("Be brief.")
        page.get_by_label("System prompt").press("Tab")
        site.close()
        site = ChatSite(mount, port=site.port)
        page.goto(site.url)
        if page.get_by_label("Password").count():
            sign_in(page, site)
        expect(answer_of(page, "tickets").locator("strong")).to_have_text("kept")
        expect(page.get_by_role("checkbox", name="base base")).not_to_be_checked()

        # It goes on where it was, with the settings of before.
        site.play(b"Yes", (END,))
        ask(page, "Do you?")
        expect(answer_of(page, "tickets")).to_contain_text("Yes")
        assert prompts(site) == [
            "system: Be brief.\nuser: Remember this\nassistant: A **kept** answer\nuser: Do you?\nassistant: "
        ]
        if (
            page.get_by_role("button", name="Conversations", exact=True).get_attribute("aria-expanded")
            == "false"
        ):
            page.get_by_role("button", name="Conversations", exact=True).click()
        with page.expect_download() as started:
            page.get_by_role("button", name="Export Markdown").click()
        exported = started.value.path().read_text()
        assert "## You\n\nRemember this\n\n## tickets\n\nA **kept** answer" in exported
        assert started.value.suggested_filename == "fjarr-remember-this.md"

        page.get_by_role("button", name="New chat").click()
        expect(page.locator(".fj-bubble")).to_have_count(0)
        page.get_by_role("navigation").get_by_role("button", name="Remember this", exact=False).first.click()
        expect(page.locator(".fj-bubble")).to_have_count(2)
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete “Remember this”").click()
        expect(page.locator(".fj-bubble")).to_have_count(0)
        assert (
            page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('fjarr.conversation.'))")
            == []
        )
    finally:
        site.close()


def test_an_open_page_asks_the_server_s_successor(mount: Path, context: BrowserContext) -> None:
    site: Any = ChatSite(mount, port=free_port(), auth=False, chat_sign_in=False)
    try:
        page = context.new_page()
        page.goto(site.url)
        expect(page.get_by_label("Your message", exact=True)).to_be_visible()
        only(page, TUNED)
        site.play(b"Before", (END,))
        ask(page, "First")
        expect(answer_of(page, "tickets")).to_contain_text("complete")
        site.close()
        site = ChatSite(mount, port=site.port, auth=False, chat_sign_in=False)
        site.play(b"After", (END,))
        site.play(b"After", (END,))
        ask(page, "Second")
        expect(answer_of(page, "tickets")).to_contain_text("After")
        expect(page.locator(".fj-bubble")).to_have_count(2)
        assert prompts(site)[-1] == "user: First\nassistant: Before\nuser: Second\nassistant: "
    finally:
        site.close()

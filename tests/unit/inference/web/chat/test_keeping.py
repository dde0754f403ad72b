"""What a user has written and read is kept, whatever happens to the page, its session or its connection."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.doubles.chat_site import BASE, END, KEY, TUNED, ChatSite

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator, Page

pytestmark = pytest.mark.browser

STORED = """() => Object.keys(localStorage).filter(key => key.startsWith('fjarr.conversation.'))
    .map(key => JSON.parse(localStorage.getItem(key)))"""


def ask(page: Page, text: str) -> None:
    message_box(page).fill(text)
    page.keyboard.press("Enter")


def message_box(page: Page) -> Locator:
    return page.get_by_label("Your message", exact=True)


def answer(page: Page) -> Locator:
    return page.get_by_role("article").last


@pytest.fixture(autouse=True)
def one_model(page: Page) -> None:
    """Ask one model alone."""
    for box in page.get_by_role("checkbox").all():
        box.set_checked(box.get_attribute("value") == TUNED)


def test_a_session_that_has_ended_is_named_and_the_question_asked_after_the_sign_in(
    site: ChatSite, page: Page, context: BrowserContext
) -> None:
    site.play(b"Hi", (END,))
    context.clear_cookies()
    ask(page, "Hello")
    expect(answer(page)).to_contain_text("You are signed out. Conversations stay in this browser.")
    answer(page).get_by_role("button", name="Sign in").click()
    page.get_by_label("Password").fill(KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(answer(page)).to_contain_text("Hi")
    assert [bytes(request.prompt_token_ids) for request in site.engine.requests] == [
        b"user: Hello\nassistant: "
    ]


def test_without_a_connection_conversations_can_be_read(
    site: ChatSite, page: Page, context: BrowserContext
) -> None:
    site.play(b"**Kept** <b>text</b>", (END,))
    ask(page, "Hello")
    expect(answer(page)).to_contain_text("complete")
    page.get_by_role("button", name="New chat").click()
    context.set_offline(True)
    # As when the user comes back to the page.
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    if page.locator("#fj-app").get_attribute("data-history") == "closed":
        page.get_by_role("button", name="Conversations", exact=True).click()
    page.get_by_role("button", name="Hello", exact=False).first.click()
    expect(answer(page)).to_contain_text("**Kept** <b>text</b>")
    answer(page).get_by_role("button", name="Show as code").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("The server does not answer.")
    page.keyboard.press("Escape")
    answer(page).get_by_role("button", name="Token probabilities").click()
    expect(answer(page)).to_contain_text("The server does not answer.")

    context.set_offline(False)
    site.play(b"Again", (END,))
    answer(page).get_by_role("button", name="Regenerate").click()
    expect(answer(page)).to_contain_text("Again")


def test_to_regenerate_an_answer_keeps_the_one_before(
    site: ChatSite, page: Page, context: BrowserContext
) -> None:
    site.play(b"**One**", (END,))
    ask(page, "Hello")
    expect(answer(page)).to_contain_text("complete")
    site.play(b"Two", (END,))
    answer(page).get_by_role("button", name="Regenerate").click()
    expect(answer(page)).to_contain_text("2 of 2")
    expect(answer(page).get_by_role("button", name="Later answer")).to_be_disabled()
    context.set_offline(True)
    answer(page).get_by_role("button", name="Regenerate").click()
    expect(answer(page)).to_contain_text("The server does not answer.")
    expect(answer(page)).to_contain_text("3 of 3")
    context.set_offline(False)
    page.reload()
    answer(page).get_by_role("button", name="Earlier answer").click()
    expect(answer(page)).to_contain_text("Two")
    # What failed has nothing to be kept for.
    expect(answer(page)).to_contain_text("2 of 2")
    answer(page).get_by_role("button", name="Earlier answer").click()
    expect(answer(page).locator("strong")).to_have_text("One")
    expect(answer(page).get_by_role("button", name="Later answer")).to_be_focused()
    # The answer that is shown is the one that counts.
    site.play(b"Yes", (END,))
    ask(page, "And?")
    expect(page.get_by_role("article")).to_have_count(2)
    expect(answer(page)).to_contain_text("complete")
    assert bytes(site.engine.requests[-1].prompt_token_ids) == (
        b"user: Hello\nassistant: **One**\nuser: And?\nassistant: "
    )


def test_what_followed_an_edited_message_stays_in_a_conversation_of_its_own(
    site: ChatSite, page: Page
) -> None:
    for number, text in enumerate(("One", "Two"), start=1):
        site.play(b"Yes", (END,))
        ask(page, text)
        expect(page.get_by_role("article")).to_have_count(number)
        expect(answer(page)).to_contain_text("complete")
    site.play(b"Other", (END,))
    page.locator(".fj-question").first.hover()
    page.get_by_role("button", name="Edit and ask again").first.click()
    page.get_by_label("Edit your message").fill("One, again")
    page.keyboard.press("Enter")
    expect(answer(page)).to_contain_text("Other")
    expect(page.locator(".fj-bubble")).to_have_text(["You: One, again"])
    expect(answer(page)).to_contain_text("complete")
    kept = sorted([turn["user"] for turn in each["turns"]] for each in page.evaluate(STORED))
    assert kept == [["One", "Two"], ["One, again"]]


def test_a_second_page_follows_and_neither_overwrites_the_other(
    site: ChatSite, page: Page, context: BrowserContext
) -> None:
    site.play(b"Yes", (END,))
    ask(page, "One")
    expect(answer(page)).to_contain_text("complete")
    other = context.new_page()
    other.goto(site.url)
    expect(other.locator(".fj-bubble")).to_have_text(["You: One"])
    site.play(b"Yes", (END,))
    ask(page, "Two")
    expect(other.locator(".fj-bubble")).to_have_text(["You: One", "You: Two"])
    expect(answer(other)).to_contain_text("complete")

    # A page that has not heard of it keeps what it has as a conversation of its own.
    site.play(b"Yes", (END,))
    other.evaluate(
        """() => { const key = 'fjarr.conversation.' + sessionStorage.getItem('fjarr.current');
        const kept = JSON.parse(localStorage.getItem(key));
        localStorage.setItem(key, JSON.stringify({ ...kept, stamp: 'of another page' })); }"""
    )
    ask(other, "Three")
    expect(other.get_by_role("article")).to_have_count(3)
    expect(answer(other)).to_contain_text("complete")
    kept = sorted([turn["user"] for turn in each["turns"]] for each in other.evaluate(STORED))
    assert kept == [["One", "Two"], ["One", "Two", "Three"]]


def test_a_draft_survives_a_reload_and_an_undo(site: ChatSite, page: Page) -> None:
    message_box(page).fill("Half a thou")
    page.reload()
    expect(message_box(page)).to_have_value("Half a thou")
    site.play(b"Yes", (END,))
    ask(page, "One")
    expect(answer(page)).to_contain_text("complete")
    message_box(page).fill("Next")
    page.get_by_role("button", name="Undo").click()
    expect(message_box(page)).to_have_value("One\n\nNext")


def test_a_conversation_that_is_deleted_while_it_is_answered_stays_deleted(
    site: ChatSite, page: Page
) -> None:
    site.play(b"They talk", asyncio.Event())
    ask(page, "Hello")
    expect(answer(page)).to_contain_text("They talk")
    if page.locator("#fj-app").get_attribute("data-history") == "closed":
        page.get_by_role("button", name="Conversations", exact=True).click()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Delete “Hello”").click()
    expect(page.locator(".fj-bubble")).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete “Hello”").click()
    expect(page.locator(".fj-bubble")).to_have_count(0)
    site.wait_until_empty()
    assert page.evaluate(STORED) == []


def test_an_answer_that_was_interrupted_is_continued_without_its_probabilities(
    site: ChatSite, page: Page
) -> None:
    site.play(b"Once upon", asyncio.Event())
    ask(page, "Hello")
    expect(answer(page)).to_contain_text("Once upon")
    page.reload()
    expect(answer(page)).to_contain_text("Interrupted: the connection or the page was closed.")
    site.wait_until_empty()
    site.play(b" a time", (END,))
    page.get_by_role("button", name="Continue").click()
    expect(answer(page)).to_contain_text("Once upon a time")
    expect(answer(page)).to_contain_text("complete")
    # The tokens of its beginning are not known, and those of its end alone would be misread.
    expect(answer(page).get_by_role("button", name="Token probabilities")).to_have_count(0)


def test_a_setting_that_cannot_be_used_is_named_at_once(site: ChatSite, page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Seed").fill("-5")
    page.get_by_label("Seed").press("Tab")
    ask(page, "Hello")
    expect(answer(page)).to_contain_text("Seed must be greater than or equal to 0: see Settings.")
    assert site.engine.requests == []


def test_a_long_message_is_folded(site: ChatSite, page: Page) -> None:
    site.play(b"Yes", (END,))
    # A paste, which is quicker than typing.
    page.evaluate("text => navigator.clipboard.writeText(text)", "\n".join(["a line"] * 2000))
    message_box(page).press("Control+v")
    page.keyboard.press("Enter")
    expect(answer(page)).to_contain_text("maximum context length is 2000 tokens")
    bubble = page.locator(".fj-bubble")
    assert bubble.evaluate("bubble => bubble.offsetHeight") < 300
    page.get_by_role("button", name="Show all 2,000 lines").click()
    assert bubble.evaluate("bubble => bubble.offsetHeight") > 20_000
    page.get_by_role("button", name="Show less").click()
    assert bubble.evaluate("bubble => bubble.offsetHeight") < 300
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_page_follows_an_answer_only_while_its_end_is_in_view(site: ChatSite, page: Page) -> None:
    gate, end = asyncio.Event(), asyncio.Event()
    text = "\n\n".join(f"p {number}" for number in range(34)).encode()
    site.play(text, gate, b"\n\n" + text, end, b"\n\nthe end", (END,))
    ask(page, "Hello")
    log = page.locator("#fj-log")
    expect(answer(page)).to_contain_text("p 33")
    to_end = page.get_by_role("button", name="Scroll to the end")
    expect(to_end).to_be_hidden()
    log.evaluate("log => log.scrollTo(0, 100)")
    expect(to_end).to_be_visible()
    site.set(gate)
    expect(answer(page).get_by_text("p 33", exact=True)).to_have_count(2)
    assert log.evaluate("log => log.scrollTop") == 100
    to_end.click()
    expect(to_end).to_be_hidden()
    site.set(end)
    expect(answer(page)).to_contain_text("complete")
    page.wait_for_function("""() => { const log = document.getElementById('fj-log');
        return log.scrollHeight - log.scrollTop - log.clientHeight < 2; }""")


def test_on_a_small_screen_the_panels_close_by_themselves(site: ChatSite, page: Page) -> None:
    site.play(b"Yes", (END,))
    ask(page, "Hello")
    expect(answer(page)).to_contain_text("complete")
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    expect(message_box(page)).to_be_visible()
    history = page.locator("#fj-history")
    page.get_by_role("button", name="Conversations", exact=True).click()
    expect(history).to_be_visible()
    page.get_by_role("navigation").get_by_role("button", name="Hello", exact=False).first.click()
    expect(history).to_be_hidden()
    page.get_by_role("button", name="Conversations", exact=True).click()
    page.get_by_role("button", name="Settings").click()
    expect(history).to_be_hidden()
    expect(page.locator("#settings")).to_be_visible()
    page.mouse.click(10, 300)
    expect(page.locator("#settings")).to_be_hidden()


def test_many_conversations_can_be_searched(site: ChatSite, page: Page) -> None:
    search = page.get_by_role("searchbox", name="Search conversations", include_hidden=True)
    for number in range(6):
        page.get_by_role("button", name="New chat").click()
        site.play(f"Answer {number}".encode(), (END,))
        ask(page, f"Question {number}")
        expect(answer(page)).to_contain_text("complete")
    if page.locator("#fj-app").get_attribute("data-history") == "closed":
        page.get_by_role("button", name="Conversations", exact=True).click()
    found = page.locator(".fj-conversation span")
    expect(found).to_have_count(6)
    # The one that is open, the last one, is marked.
    colors = page.locator("#fj-conversations li").evaluate_all(
        "items => items.map(item => getComputedStyle(item).backgroundColor)"
    )
    assert colors[0] not in colors[1:]
    search.fill("answer 3")
    expect(found).to_have_text(["Question 3"])
    search.fill("zebra")
    expect(page.get_by_text("Nothing found")).to_be_visible()
    search.fill("")
    expect(found).to_have_count(6)


def test_a_full_storage_is_named(site: ChatSite, page: Page) -> None:
    site.play(b"Yes", (END,))
    ask(page, "First")
    expect(answer(page)).to_contain_text("complete")
    page.evaluate("""() => {
        for (let size = 1 << 22; size; size >>= 1) for (let part = 0; part < 3; part += 1) {
            try { localStorage.setItem(`filler.${size}.${part}`, 'x'.repeat(size)); } catch { break; }
        }
    }""")
    page.get_by_role("button", name="New chat").click()
    ask(page, "Second " * 300)
    expect(answer(page)).to_contain_text("maximum context length")
    note = page.locator("#fj-kept")
    expect(note).to_have_text("The browser's storage is full: this conversation is not kept. Export it.")
    assert [each["turns"][0]["user"] for each in page.evaluate(STORED)] == []


def test_an_export_has_every_turn(site: ChatSite, page: Page) -> None:
    site.play("Ja, 🙂 مرحبا".encode(), (END,))
    ask(page, "Hello")
    expect(answer(page)).to_contain_text("complete")
    if page.locator("#fj-app").get_attribute("data-history") == "closed":
        page.get_by_role("button", name="Conversations", exact=True).click()
    with page.expect_download() as started:
        page.get_by_role("button", name="Export JSON").click()
    document = json.loads(started.value.path().read_text(encoding="utf-8"))
    assert document["turns"][0]["answers"][TUNED]["text"] == "Ja, 🙂 مرحبا"
    assert BASE not in document["turns"][0]["answers"]

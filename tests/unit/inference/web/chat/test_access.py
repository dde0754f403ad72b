"""The page for everyone: axe-core finds nothing in any state, and the keyboard alone is enough."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from inference.engines.protocol import Increment, TokenLogprobs
from inference.errors import ScoresError
from inference.service.requests import Limits
from tests.doubles.chat_site import BASE, END, TUNED, ChatSite

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Page

pytestmark = pytest.mark.browser

RICH = """# A heading

A paragraph with **bold**, `code` and [a link](https://x.example).

- one
- two

| plan | price |
|---|---|
| basic | 5 |

```python
def answer(): return 42  # a comment
```

$$\\frac{a}{b}$$
"""


SETTLED = """() => document.getAnimations().every(each =>
    each.playState !== 'running' || each.effect.getTiming().iterations === Infinity)"""

FOCUSED_NAME = """() => {
    const at = document.activeElement;
    if (at === document.body) return '';
    return at.getAttribute('aria-label') || at.labels?.[0]?.innerText || at.innerText || '';
}"""

HAS_VISIBLE_FOCUS = """() => {
    const at = document.activeElement;
    const ring = getComputedStyle(at.closest('.fj-chip') || at).outlineStyle;
    // The frame of the message box changes its colour.
    return ring !== 'none' || at.id === 'fj-message';
}"""


def judge(page: Page, state: str) -> None:
    """Fail with what axe-core finds in a state of the page."""
    # A transition is half transparent.
    page.wait_for_function(SETTLED)
    results = Axe().run(page, options={"resultTypes": ["violations"]})
    assert results.violations_count == 0, f"{state}: {results.generate_report()}"


def toggle(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
def test_axe_finds_nothing_in_any_state(
    site: ChatSite, page: Page, scheme: Literal["light", "dark"], width: int
) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 860})
    page.reload()
    expect(page.get_by_label("Your message", exact=True)).to_be_visible()
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    judge(page, "welcome")

    gate = asyncio.Event()
    site.play(RICH.encode(), (END,))
    site.play(gate, b'{"a": 1}')
    page.get_by_label("Your message", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="A heading")).to_be_visible()
    expect(page.get_by_text("Waiting for the first token").last).to_be_visible()
    judge(page, "waiting")
    toggle(page, "Stop")
    judge(page, "answered")

    prompt = "user: Hello\nassistant: "
    read = [TokenLogprobs(-1.0)] * (len(prompt) - 1)
    read += [TokenLogprobs(-number % 4, ((65, -0.1), (66, -2.0))) for number in range(len(RICH.encode()) + 1)]
    site.play(Increment((65,), "length", (TokenLogprobs(0.0),), tuple(read)))
    toggle(page, "Token probabilities")
    expect(page.get_by_role("group", name="Tokens by probability")).to_be_visible()
    page.get_by_role("group", name="Tokens by probability").press("ArrowRight")
    expect(page.locator(".fj-token-detail")).to_contain_text("“#” 100.0 %")
    judge(page, "probabilities")

    page.get_by_role("button", name="Show as code").first.click()
    judge(page, "code")
    toggle(page, "Close")
    page.get_by_role("button", name="Show as JSON").first.click()
    judge(page, "JSON")
    toggle(page, "Close")
    page.get_by_role("button", name="Edit and ask again").click()
    judge(page, "edit")
    page.get_by_role("button", name="Cancel").click()
    if page.locator("#fj-app").get_attribute("data-history") == "closed":
        toggle(page, "Conversations")
    judge(page, "conversations")
    toggle(page, "Conversations")
    toggle(page, "Settings")
    judge(page, "settings")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_axe_finds_nothing_where_something_went_wrong(
    mount: Path, context: BrowserContext, scheme: Literal["light", "dark"], width: int
) -> None:
    site = ChatSite(
        mount, (BASE, TUNED, "mail", "sums"), Limits(max_concurrent=1, max_waiting=0), auth=False,
        chat_sign_in=False,
    )  # fmt: skip
    try:
        page = context.new_page()
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 860})
        page.goto(site.url)
        expect(page.get_by_role("combobox")).to_have_count(2)
        judge(page, "lists of models")
        # One of the two models has no place, and the other fails.
        site.play(b"Half an ans", ScoresError(11))
        page.get_by_label("Your message", exact=True).fill("Hello")
        page.keyboard.press("Enter")
        expect(page.get_by_role("article").first).to_contain_text("Half an ans")
        expect(page.locator(".fj-note[data-kind=error]")).to_have_count(2)
        judge(page, "errors")

        page.get_by_role("button", name="New chat").click()
        page.get_by_role("button", name="Leave out tickets").click()
        site.play(("مرحبا " * 90).encode())
        page.get_by_label("Your message", exact=True).fill("سؤال")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Continue")).to_be_visible()
        judge(page, "cut off")
    finally:
        site.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_sign_in_page_too(
    site: ChatSite, context: BrowserContext, scheme: Literal["light", "dark"]
) -> None:
    page = context.new_page()
    page.emulate_media(color_scheme=scheme)
    page.goto(site.url)
    judge(page, "sign in")
    page.get_by_label("Password").fill("another")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    judge(page, "a wrong password")


def test_the_keyboard_alone_is_enough(site: ChatSite, page: Page) -> None:
    def tab_to(name: str, limit: int = 40) -> None:
        for _ in range(limit):
            page.keyboard.press("Tab")
            found = page.evaluate(FOCUSED_NAME)
            if name in found:
                # What has the focus can be seen.
                assert page.evaluate(HAS_VISIBLE_FOCUS)
                return
        pytest.fail(f"{name!r} cannot be reached with the keyboard")

    page.evaluate("document.activeElement.blur()")
    tab_to("Skip to your message")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your message", exact=True)).to_be_focused()
    site.play(b"Hi", (END,))
    site.play(b"Hello", asyncio.Event())
    page.keyboard.type("One\n")
    expect(page.get_by_role("article").last).to_contain_text("Hello")
    page.keyboard.press("Escape")
    expect(page.get_by_role("article").last).to_contain_text("Stopped")
    site.wait_until_empty()

    page.evaluate("document.activeElement.blur(); document.getElementById('fj-log').focus()")
    tab_to("Show as code")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="curl")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Show as code").first).to_be_focused()

    for _ in range(2):
        site.play(b"Again", (END,))
    page.evaluate("document.getElementById('fj-log').focus()")
    tab_to("Regenerate all answers")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article").last).to_contain_text("Again", use_inner_text=True)

    tab_to("Settings")
    page.keyboard.press("Enter")
    tab_to("System prompt")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Settings")).to_be_focused()
    expect(page.locator("#settings")).to_be_hidden()


def test_a_wide_table_scrolls_and_breaks_no_word(site: ChatSite, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 860})
    table = "| enterprise | unlimited | storage | telephone |\n|---|---|---|---|\n| a | b | c | d |\n"
    for _ in range(2):
        site.play(table.encode(), (END,))
    page.get_by_label("Your message", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    cells = page.get_by_role("columnheader")
    expect(cells).to_have_count(8)
    lines = cells.evaluate_all(
        "cells => cells.map(cell => cell.getClientRects().length && cell.offsetHeight)"
    )
    assert set(lines) == {min(lines)}
    assert page.locator(".scroll").first.evaluate("box => box.scrollWidth > box.clientWidth")


def test_the_page_does_without_backgrounds_and_prints_the_whole_conversation(
    site: ChatSite, page: Page
) -> None:
    for _ in range(2):
        site.play(b"\n\n".join(b"word" for _ in range(60)), (END,))
    page.get_by_label("Your message", exact=True).fill("Hello")
    page.keyboard.press("Enter")
    expect(page.get_by_role("article").last).to_contain_text("complete")
    page.emulate_media(forced_colors="active")
    border = "node => getComputedStyle(node).borderTopStyle"
    assert page.locator(".fj-bubble").evaluate(border) == "solid"
    judge(page, "forced colours")

    page.emulate_media(forced_colors="none", media="print")
    expect(page.locator("#fj-composer")).to_be_hidden()
    assert page.locator("#fj-log").evaluate("log => log.scrollHeight <= log.clientHeight")
    assert page.evaluate("document.body.scrollHeight > innerHeight")

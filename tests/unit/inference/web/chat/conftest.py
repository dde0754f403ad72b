"""A chat page with scripted models, and a browser that is signed in to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.doubles.chat_site import KEY, ChatSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLES = '[{"title": "A cry", "message": "Help me, the lamp is dark!"}, {"message": "Where is my parcel?"}]'


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a share with the examples of an adapter."""
    mount = tmp_path_factory.mktemp("mount")
    folder = mount / "models" / "tickets" / "adapter"
    folder.mkdir(parents=True)
    (folder / "chat-examples.json").write_text(EXAMPLES)
    return mount


@pytest.fixture(scope="module")
def served_site(mount: Path) -> Iterator[ChatSite]:
    """Serve one page for all tests of a module: to build it takes a second."""
    site = ChatSite(mount, feedback=True)
    yield site
    site.close()


@pytest.fixture
def site(served_site: ChatSite) -> Iterator[ChatSite]:
    yield served_site
    served_site.forget()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        expect.set_options(timeout=60_000)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(60_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture
def page(site: ChatSite, context: BrowserContext) -> Iterator[Page]:
    """Yield the page, signed in, and judge at the end that nothing went wrong in it."""
    page = context.new_page()
    requested: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("response", lambda answer: complaints.append(answer.url) if answer.status >= 500 else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda line: complaints.append(line.text) if "Content Security Policy" in line.text else None,
    )
    page.goto(site.url)
    page.get_by_label("Password").fill(KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Your message", exact=True)).to_be_visible()
    yield page
    assert [url for url in requested if not url.startswith((site.url, "data:", "blob:"))] == []
    assert complaints == []

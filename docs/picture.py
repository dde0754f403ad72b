"""Take the pictures of the chat page that the documentation shows, from a live endpoint.

    python docs/picture.py http://127.0.0.1:8080 [--key KEY]

The endpoint is one that `invoke up --stage local` has started. Needs Playwright and Chromium.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playwright.sync_api import Error, expect, sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Page

PICTURES: Final = Path(__file__).parent / "pictures"
CHROMIUM: Final = "/usr/bin/chromium"
TIMEOUT_MS: Final = 300_000
LENGTH: Final = 64
SEED: Final = 7


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("endpoint")
    parser.add_argument("--key", help="the API key, if the page has a sign-in")
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 680}, device_scale_factor=1.5)
        page.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        try:
            page.goto(arguments.endpoint)
        except Error as error:
            sys.exit(f"error: {arguments.endpoint} shows no page: {error.message.splitlines()[0]}")
        if arguments.key:
            page.get_by_label("Password").fill(arguments.key)
            page.get_by_role("button", name="Sign in").click()
        take_compare(page)
        browser.close()


def take_compare(page: Page) -> None:
    """Ask the first example, and take the answers of base and adapter side by side."""
    expect(page.get_by_label("Your message", exact=True)).to_be_visible()
    page.get_by_role("button", name="Settings", exact=True).click()
    for label, value in (("number input for Length", LENGTH), ("Seed", SEED)):
        page.get_by_label(label).fill(str(value))
        page.get_by_label(label).press("Tab")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_role("list", name="Examples").get_by_role("button").first.click()
    for answer in page.get_by_role("article").all():
        expect(answer).to_have_attribute("aria-busy", "false")
    page.get_by_label("Messages").evaluate("log => log.scrollTo(0, 0)")
    page.screenshot(path=PICTURES / "compare.png")
    print(PICTURES / "compare.png")


if __name__ == "__main__":
    main()

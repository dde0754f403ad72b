"""How `invoke open` opens the chat page."""

from __future__ import annotations

import io
import webbrowser
from typing import TYPE_CHECKING

from infra.verbs.open import open_page

if TYPE_CHECKING:
    import pytest

    from infra.session import Session


def output(session: Session) -> str:
    stream = session.console._rich.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def test_the_chat_is_opened(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_in_browser(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr(webbrowser, "open", open_in_browser)
    assert open_page(session) == "http://127.0.0.1:9/"
    assert opened == ["http://127.0.0.1:9/"]


def test_without_a_browser_the_address_is_there_all_the_same(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    assert open_page(session) == "http://127.0.0.1:9/"
    assert "no browser could be opened here" in output(session)

"""Open a stage's chat page in the user's browser."""

from __future__ import annotations

import webbrowser
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.session import Session


def open_page(session: Session) -> str:
    """Open the chat page in a browser if there is one, and return its address.

    Raises:
        UsageError: The stage is not provisioned, or its embedded Azure is stopped.
    """
    address = f"{session.config().endpoint_url}/"
    session.require_cloud()
    try:
        is_opened = webbrowser.open(address)
    except webbrowser.Error:
        is_opened = False
    if not is_opened:
        session.console.info("no browser could be opened here; the address is:")
    return address

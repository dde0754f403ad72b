"""The chat page as an ASGI application: only the paths that the page uses are open, and closed pages stop.

Gradio serves many more paths than this page needs: uploads, files, recording, its own API.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractAsyncContextManager

    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

    from inference.service.answer import Answer

PATHS: Final = frozenset({
    "/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/gradio_api/app_id",
    "/gradio_api/cancel", "/gradio_api/component_server", "/gradio_api/info", "/gradio_api/login_check",
    "/gradio_api/queue/join", "/gradio_api/reset", "/gradio_api/run/predict", "/gradio_api/startup-events",
    "/gradio_api/theme.css", "/gradio_api/user",
})  # fmt: skip
EVENTS: Final = "/gradio_api/queue/data"
FOLDERS: Final = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")


class Sessions:
    """The answers that are being generated for each open page, to stop them when the page is closed."""

    def __init__(self) -> None:
        self._answers: dict[str, set[Answer]] = {}

    @contextmanager
    def track(self, session: str, reply: Answer) -> Iterator[None]:
        """Register an answer as one of a session's."""
        answers = self._answers.setdefault(session, set())
        answers.add(reply)
        try:
            yield
        finally:
            answers.discard(reply)
            if not answers:
                self._answers.pop(session, None)

    def end(self, session: str) -> None:
        """Stop a session's answers."""
        for reply in tuple(self._answers.get(session, ())):
            reply.close()


class Chat:
    """The page as an ASGI application; `lifespan` must be entered while it serves."""

    def __init__(self, application: FastAPI, sessions: Sessions) -> None:
        self._application = application
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if its path is one that the page uses."""
        path = scope["path"].rstrip("/") or "/"
        if path == EVENTS:
            # Answers reach the page through this stream. If it ends before they do, the page was closed.
            # Gradio itself notices only at an answer's next token, and a queued request has none.
            try:
                await self._application(scope, receive, send)
            finally:
                self._sessions.end(_session_of(scope))
        elif path in PATHS or path.startswith(FOLDERS):
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse("There is nothing here.\n", 404)(scope, receive, send)

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """Return the context in which Gradio's own background work runs."""
        return self._application.router.lifespan_context(self._application)


def _session_of(scope: Scope) -> str:
    query: dict[str, list[str]] = parse_qs(scope["query_string"].decode("latin-1"))
    return query.get("session_hash", [""])[0]

"""Protect the chat page with a sign-in: one user name, and any API key as the password.

All paths of the wrapped application are protected.
"""

from __future__ import annotations

import hmac
import logging
import math
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from inference.web.pages import sign_in_page
from inference.web.sign_in.attempts import AttemptLimiter, client_address
from inference.web.sign_in.sessions import SESSION_S, Session, SessionSigner, begin_session

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from inference.web.keyring import Keyring
    from inference.web.sign_in.sessions import EndedSessions

LOGGER: Final = logging.getLogger(__name__)

USER: Final = "fjarr"
COOKIE: Final = "fjarr_session"
MAX_FORM_BYTES: Final = 8192
WRONG: Final = "That user name and key do not fit."


class SignIn:
    """The sign-in in front of an application. An ASGI application.

    Args:
        application: What is served to those who are signed in.
        keyring: The keys to sign in with.
        ended: The sessions that were signed out.
        limiter: Limits the attempts.
    """

    def __init__(
        self,
        application: ASGIApp,
        keyring: Keyring,
        ended: EndedSessions,
        limiter: AttemptLimiter | None = None,
    ) -> None:
        self._application = application
        self._keyring = keyring
        self._signer = SessionSigner(keyring)
        self._ended = ended
        self._limiter = limiter or AttemptLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a signed-in request on, handle sign-in and sign-out, or answer with the sign-in page."""
        if scope["type"] not in {"http", "websocket"}:
            return
        if scope["path"] == "/logout":
            response = await self._sign_out(HTTPConnection(scope))
            await response(scope, receive, send)
        elif scope["path"] == "/login":
            response = await self._sign_in(Request(scope, receive))
            await response(scope, receive, send)
        elif (session := await self._find_session(HTTPConnection(scope))) is not None:
            scope.setdefault("state", {})["key_name"] = session.key_name
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            await _require_sign_in(scope)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _find_session(self, connection: HTTPConnection) -> Session | None:
        """Return the valid session of a request, or None."""
        session = self._signer.read(connection.cookies.get(COOKIE, ""))
        return None if session is None or await self._ended.contains(session) else session

    async def _sign_in(self, request: Request) -> Response:
        if request.method != "POST":
            return RedirectResponse("/", 303)
        user, password = await _read_form(request)
        address = client_address(request.client.host if request.client else "")
        wait_s = self._limiter.begin(address)
        if wait_s:
            return _too_many_attempts(user or USER, address, math.ceil(wait_s))
        is_user = hmac.compare_digest(user.encode(), USER.encode())
        # Both are always checked, so that the time of the answer does not show which one is wrong.
        name = self._keyring.find(password)
        if not is_user or name is None:
            return HTMLResponse(sign_in_page(user or USER, WRONG), 401)
        self._limiter.forgive(address)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE,
            self._signer.write(begin_session(name)),
            max_age=SESSION_S,
            httponly=True,
            secure=request.url.scheme == "https",
            samesite="lax",
        )
        return response

    async def _sign_out(self, connection: HTTPConnection) -> Response:
        """End the session, also for those who have a copy of its cookie."""
        response = RedirectResponse("/", 303)
        # A link on another site must not sign anybody out. Browsers send the header, other clients need not.
        if connection.headers.get("sec-fetch-site") == "cross-site":
            return response
        session = self._signer.read(connection.cookies.get(COOKIE, ""))
        if session is not None:
            await self._ended.add(session)
        response.delete_cookie(COOKIE, httponly=True, samesite="lax")
        return response


async def _read_form(request: Request) -> tuple[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return "", ""
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    return fields.get("username", [""])[0].strip(), fields.get("password", [""])[0].strip()


def _too_many_attempts(user: str, address: str, wait_s: int) -> Response:
    LOGGER.warning("sign-in: too many wrong attempts from %s; the next is accepted in %d s", address, wait_s)
    notice = f"There were too many wrong attempts. Try again in {wait_s} seconds."
    return HTMLResponse(sign_in_page(user, notice), 429, {"Retry-After": str(wait_s)})


def _require_sign_in(scope: Scope) -> Response:
    if scope["path"] == "/" and scope["method"] in {"GET", "HEAD"}:
        return HTMLResponse(sign_in_page(USER), 401)
    # In the form of Gradio's own errors, which the page shows.
    return JSONResponse({"detail": "Sign in first."}, 401)

"""Protect the chat page with a sign-in: one user name, and any API key as the password.

A session is a signed cookie that contains the name of the key. The signing secret is derived from the API
keys, so a session survives a restart, is valid on every replica, and ends when the keys change. All paths of
the wrapped application are protected.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from inference.web.pages import sign_in_page

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from inference.web.keyring import Keyring

USER: Final = "fjarr"
COOKIE: Final = "fjarr_session"
SESSION_S: Final = 30 * 24 * 3600
MAX_FORM_BYTES: Final = 8192


class SignIn:
    """The sign-in in front of an application. An ASGI application."""

    def __init__(self, application: ASGIApp, keyring: Keyring) -> None:
        self._application = application
        self._keyring = keyring
        self._secret = keyring.derive_secret("chat sign-in")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a signed-in request on, handle sign-in and sign-out, or answer with the sign-in page."""
        if scope["type"] not in {"http", "websocket"}:
            return
        if scope["path"] == "/logout":
            await _signed_out()(scope, receive, send)
        elif scope["path"] == "/login":
            response = await self._sign_in(Request(scope, receive))
            await response(scope, receive, send)
        elif (name := self._find_session(HTTPConnection(scope))) is not None:
            scope.setdefault("state", {})["key_name"] = name
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            await _require_sign_in(scope)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _find_session(self, connection: HTTPConnection) -> str | None:
        """Return the name of the key of a valid session, or None."""
        payload, _, signature = connection.cookies.get(COOKIE, "").rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(payload).encode()):
            return None
        expiry, _, name = payload.partition(".")
        return _decode(name) if int(expiry) > time.time() else None

    async def _sign_in(self, request: Request) -> Response:
        if request.method != "POST":
            return RedirectResponse("/", 303)
        user, password = await _read_form(request)
        is_user = hmac.compare_digest(user.encode(), USER.encode())
        # Both are always checked, so that the time of the answer does not show which one is wrong.
        name = self._keyring.find(password)
        if not is_user or name is None:
            return HTMLResponse(sign_in_page(user or USER, is_wrong=True), 401)
        payload = f"{int(time.time()) + SESSION_S}.{_encode(name)}"
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE,
            f"{payload}.{self._sign(payload)}",
            max_age=SESSION_S,
            httponly=True,
            secure=request.url.scheme == "https",
            samesite="lax",
        )
        return response

    def _sign(self, payload: str) -> str:
        digest = hmac.new(self._secret, payload.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _encode(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _decode(text: str) -> str:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


async def _read_form(request: Request) -> tuple[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return "", ""
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    return fields.get("username", [""])[0].strip(), fields.get("password", [""])[0].strip()


def _require_sign_in(scope: Scope) -> Response:
    if scope["path"] == "/" and scope["method"] in {"GET", "HEAD"}:
        return HTMLResponse(sign_in_page(USER, is_wrong=False), 401)
    return PlainTextResponse("Sign in first.\n", 401)


def _signed_out() -> Response:
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return response

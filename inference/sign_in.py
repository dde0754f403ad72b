"""Keep the chat page behind a sign-in: one user name, any API key as the password.

A session is a signed cookie. Its secret comes from the API keys, so that a session outlives a restart and
holds on every replica, and ends when the keys are changed. Everything below the wrapped application is closed
to strangers; nothing of it is asked whether it should be.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from inference.keyring import Keyring

USER: Final = "fjarr"
COOKIE: Final = "fjarr_session"
SESSION_S: Final = 30 * 24 * 3600
MAX_FORM_BYTES: Final = 8192

PAGE: Final = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Sign in</title><style>
:root{color-scheme:light dark;--page:#f5f7f8;--card:#fff;--text:#16202a;--quiet:#5b6874;--line:#d5dce1;--go:#0f766e}
@media(prefers-color-scheme:dark){:root{--page:#0b0f14;--card:#151b22;--text:#e6ebf0;--quiet:#93a1ae;--line:#2b3540;
--go:#14b8a6}}
*{box-sizing:border-box}body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1rem;
font:16px/1.5 system-ui,sans-serif;background:var(--page);color:var(--text)}
form{width:100%%;max-width:22rem;background:var(--card);border:1px solid var(--line);border-radius:14px;
padding:1.75rem}h1{font-size:1.3rem;margin:0 0 .25rem}p{margin:0 0 1.25rem;color:var(--quiet);font-size:.92rem}
label{display:block;font-size:.85rem;font-weight:600;margin:0 0 .3rem}input{width:100%%;font:inherit;color:inherit;
background:transparent;border:1px solid var(--line);border-radius:8px;padding:.55rem .7rem;margin:0 0 1rem}
input:focus-visible,button:focus-visible{outline:2px solid var(--go);outline-offset:1px}
button{width:100%%;font:inherit;font-weight:600;color:#fff;background:#0f766e;border:0;border-radius:8px;
padding:.6rem;cursor:pointer}.wrong{color:#c2410c;font-weight:600}</style></head><body>
<form method="post" action="/login"><h1>Sign in</h1><p>The password is the endpoint's API key.</p>%s
<label for="user">User name</label><input id="user" name="username" value="%s" autocomplete="username" required>
<label for="password">Password</label><input id="password" name="password" type="password"
autocomplete="current-password" autofocus required><button>Sign in</button></form></body></html>"""
WRONG: Final = '<p class="wrong" role="alert">That user name and key do not fit.</p>'


class SignIn:
    """Let signed-in browsers through to an application. An ASGI application."""

    def __init__(self, application: ASGIApp, keyring: Keyring) -> None:
        self._application = application
        self._keyring = keyring
        self._secret = keyring.derive_secret("chat sign-in")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, sign in or out, or ask to sign in."""
        if scope["type"] not in {"http", "websocket"}:
            return
        if scope["path"] == "/logout":
            await _signed_out()(scope, receive, send)
        elif scope["path"] == "/login":
            response = await self._sign_in(Request(scope, receive))
            await response(scope, receive, send)
        elif self._is_signed_in(HTTPConnection(scope)):
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            await _refuse(scope)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _is_signed_in(self, connection: HTTPConnection) -> bool:
        expiry, _, signature = connection.cookies.get(COOKIE, "").partition(".")
        is_ours = hmac.compare_digest(signature.encode(), self._sign(expiry).encode())
        return is_ours and int(expiry) > time.time()

    async def _sign_in(self, request: Request) -> Response:
        if request.method != "POST":
            return RedirectResponse("/", 303)
        user, password = await _read_form(request)
        is_user = hmac.compare_digest(user.encode(), USER.encode())
        # Both are always looked at, so that the answer takes as long whichever is wrong.
        is_key = self._keyring.find(password) is not None
        if not (is_user and is_key):
            return HTMLResponse(PAGE % (WRONG, html.escape(user or USER, quote=True)), 401)
        expiry = str(int(time.time()) + SESSION_S)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE,
            f"{expiry}.{self._sign(expiry)}",
            max_age=SESSION_S,
            httponly=True,
            secure=request.url.scheme == "https",
            samesite="lax",
        )
        return response

    def _sign(self, expiry: str) -> str:
        digest = hmac.new(self._secret, expiry.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


async def _read_form(request: Request) -> tuple[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return "", ""
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    return fields.get("username", [""])[0].strip(), fields.get("password", [""])[0].strip()


def _refuse(scope: Scope) -> Response:
    if scope["path"] == "/" and scope["method"] in {"GET", "HEAD"}:
        return HTMLResponse(PAGE % ("", USER), 401)
    return PlainTextResponse("Sign in first.\n", 401)


def _signed_out() -> Response:
    response = RedirectResponse("/", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return response

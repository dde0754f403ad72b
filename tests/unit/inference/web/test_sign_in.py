from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest
from starlette.responses import PlainTextResponse

from inference.api_keys import ApiKey, digest_of
from inference.web.keyring import Keyring
from inference.web.sign_in import COOKIE, SESSION_S, SignIn

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

KEYS = (ApiKey("ann", digest_of("key-one")), ApiKey("bob", digest_of("key-two")))
RIGHT = {"username": "fjarr", "password": "key-two"}


async def secret(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(f"secret {scope['path']}")(scope, receive, send)


def browser(keys: tuple[ApiKey, ...] = KEYS, url: str = "http://chat") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(SignIn(secret, Keyring(keys))), base_url=url)


@pytest.mark.parametrize(
    "path", ["/", "/config", "/gradio_api/queue/join", "/gradio_api/upload", "/assets/x.js"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_session_there_is_only_the_form(path: str, method: str) -> None:
    response = await browser().request(method, path)
    assert response.status_code == 401
    assert "secret" not in response.text
    assert ('action="/login"' in response.text) is (path == "/" and method == "GET")


async def test_any_key_signs_in_and_the_session_lasts() -> None:
    client = browser()
    response = await client.post("/login", data=RIGHT)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie
    assert (await client.get("/")).text == "secret /"
    # A restarted server, or another replica, has the same keys and takes the same cookie.
    again = browser()
    again.cookies = client.cookies
    assert (await again.get("/x")).text == "secret /x"


async def test_the_cookie_is_for_tls_where_there_is_tls() -> None:
    response = await browser(url="https://chat").post("/login", data=RIGHT)
    assert "secure" in response.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    "form",
    [
        {"username": "fjarr", "password": "wrong"},
        {"username": "ann", "password": "key-one"},
        {"username": "fjarr", "password": ""},
        {"username": "fjarr", "password": "x" * 10_000},
        {},
    ],
)
async def test_a_wrong_user_or_key_does_not_sign_in(form: dict[str, str]) -> None:
    client = browser()
    response = await client.post("/login", data=form)
    assert response.status_code == 401
    assert "do not fit" in response.text
    assert (await client.get("/")).status_code == 401


async def test_the_form_does_not_echo_markup() -> None:
    response = await browser().post("/login", data={"username": '"><script>', "password": "x"})
    assert "<script>" not in response.text


@pytest.mark.parametrize("forged", ["", "9999999999", "9999999999.", "9999999999.AAAA", ".", "x.y", "ü.ü"])
async def test_a_forged_cookie_is_rejected(forged: str) -> None:
    response = await browser().get("/", headers={b"Cookie": f"{COOKIE}={forged}".encode()})
    assert response.status_code == 401


async def test_a_session_ends_with_its_time_and_with_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    client = browser()
    await client.post("/login", data=RIGHT)
    others = browser(KEYS[:1])
    others.cookies = client.cookies
    assert (await others.get("/")).status_code == 401
    later = time.time() + SESSION_S + 1
    monkeypatch.setattr("inference.web.sign_in.time.time", lambda: later)
    assert (
        await client.get("/", headers={"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"})
    ).status_code == 401


async def test_signing_out_forgets_the_session() -> None:
    client = browser()
    await client.post("/login", data=RIGHT)
    await client.get("/logout")
    assert (await client.get("/")).status_code == 401


async def test_a_session_has_the_name_of_its_key() -> None:
    seen: list[str] = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"]["key_name"])
        await PlainTextResponse("")(scope, receive, send)

    keys = (ApiKey("ann", digest_of("key-one")), ApiKey("bob.é", digest_of("key-two")))
    for password in ("key-one", "key-two"):
        transport = httpx.ASGITransport(SignIn(page, Keyring(keys)))
        client = httpx.AsyncClient(transport=transport, base_url="http://chat")
        await client.post("/login", data={"username": "fjarr", "password": password})
        assert (await client.get("/")).status_code == 200
    assert seen == ["ann", "bob.é"]


async def test_a_session_s_name_cannot_be_changed() -> None:
    client = browser()
    await client.post("/login", data=RIGHT)
    expiry, name, signature = client.cookies[COOKIE].split(".")
    for named, status in ((name, 200), ("YW5u", 401)):
        cookie = {"Cookie": f"{COOKIE}={expiry}.{named}.{signature}"}
        assert (await browser().get("/", headers=cookie)).status_code == status

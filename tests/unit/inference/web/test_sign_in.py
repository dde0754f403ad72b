from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest
from starlette.responses import PlainTextResponse

from inference.api_keys import ApiKey, digest_of
from inference.web.forwarded import ForwardedHeaders
from inference.web.keyring import Keyring
from inference.web.sign_in.attempts import ADDRESS_RATE, TOTAL_RATE, AttemptLimiter, client_address
from inference.web.sign_in.middleware import COOKIE, SignIn
from inference.web.sign_in.sessions import RECHECK_S, SESSION_S, EndedSessions

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

KEYS = (ApiKey("ann", digest_of("key-one")), ApiKey("bob", digest_of("key-two")))
NUMBERS = itertools.count()
RIGHT = {"username": "fjarr", "password": "key-two"}


async def secret(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(f"secret {scope['path']}")(scope, receive, send)


def browser(
    keys: tuple[ApiKey, ...] = KEYS,
    url: str = "http://chat",
    *,
    application: ASGIApp = secret,
    ended: EndedSessions | None = None,
    limiter: AttemptLimiter | None = None,
) -> httpx.AsyncClient:
    """A client of a server of its own, whose share cannot be written unless there are ended sessions."""
    ended = ended or EndedSessions(Path("/nowhere/ended-sessions"))
    application = ForwardedHeaders(SignIn(application, Keyring(keys), ended, limiter))
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=url)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


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


async def test_a_session_lasts_while_other_keys_change() -> None:
    client = browser()
    await client.post("/login", data=RIGHT)
    others = browser((ApiKey("eve", digest_of("key-three")), KEYS[1]))
    others.cookies = client.cookies
    assert (await others.get("/")).text == "secret /"
    rotated = browser((KEYS[0], ApiKey("bob", digest_of("key-four"))))
    rotated.cookies = client.cookies
    assert (await rotated.get("/")).status_code == 401


async def test_a_session_ends_with_its_time_and_with_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    client = browser()
    await client.post("/login", data=RIGHT)
    others = browser(KEYS[:1])
    others.cookies = client.cookies
    assert (await others.get("/")).status_code == 401
    later = time.time() + SESSION_S + 1
    monkeypatch.setattr("inference.web.sign_in.sessions.time.time", lambda: later)
    assert (
        await client.get("/", headers={"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"})
    ).status_code == 401


async def sign_in(client: httpx.AsyncClient) -> dict[str, str]:
    """Sign in, and return the headers with a copy of the cookie."""
    await client.post("/login", data=RIGHT)
    return {"Cookie": f"{COOKIE}={client.cookies[COOKIE]}"}


async def test_signing_out_ends_the_session_for_every_copy_of_its_cookie(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = browser()
    copy = await sign_in(client)
    other = await sign_in(client)
    await client.get("/logout", headers=copy)
    assert (await client.get("/", headers=copy)).status_code == 401
    # Another session of the same key goes on.
    assert (await client.get("/", headers=other)).status_code == 200
    response = await client.get("/logout")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert (await client.get("/")).status_code == 401
    assert "the session has ended on this replica only, until it restarts" in caplog.text


async def test_a_sign_out_reaches_other_replicas_and_outlasts_a_restart(tmp_path: Path) -> None:
    clock, folder = Clock(), tmp_path / "ended-sessions"
    here, there = browser(ended=EndedSessions(folder)), browser(ended=EndedSessions(folder, clock))
    copy = await sign_in(here)
    assert (await there.get("/", headers=copy)).status_code == 200
    await here.get("/logout", headers=copy)
    clock.now += RECHECK_S - 1
    assert (await there.get("/", headers=copy)).status_code == 200
    clock.now += 1
    assert (await there.get("/", headers=copy)).status_code == 401
    restarted = browser(ended=EndedSessions(folder))
    assert (await restarted.get("/", headers=copy)).status_code == 401


async def test_files_of_sessions_that_have_expired_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "ended-sessions"
    client = browser(ended=EndedSessions(folder))
    await client.get("/logout", headers=await sign_in(client))
    (old,) = folder.iterdir()
    os.utime(old, (0, time.time() - SESSION_S - 1))
    await client.get("/logout", headers=await sign_in(client))
    (new,) = folder.iterdir()
    assert new != old


@pytest.mark.parametrize(("site", "status"), [("cross-site", 200), ("same-origin", 401), ("none", 401)])
async def test_a_link_on_another_site_signs_nobody_out(site: str, status: int) -> None:
    client = browser()
    copy = await sign_in(client)
    await client.get("/logout", headers=copy | {"Sec-Fetch-Site": site})
    assert (await client.get("/", headers=copy)).status_code == status


async def test_signing_out_without_a_session_writes_nothing(tmp_path: Path) -> None:
    client = browser(ended=EndedSessions(tmp_path / "ended-sessions"))
    for cookie in ("", "x.y.z", "9999999999.../../x.YQ.AAAA"):
        response = await client.get("/logout", headers={"Cookie": f"{COOKIE}={cookie}"})
        assert response.status_code == 303
    assert not (tmp_path / "ended-sessions").exists()


async def guess(client: httpx.AsyncClient, address: str, key: str = "wrong") -> httpx.Response:
    form = {"username": "fjarr", "password": key}
    # A client may send the header, too, on lines of its own or not; the ingress appends to it.
    forged = f"192.0.2.{next(NUMBERS) % 256}"
    headers = [("X-Forwarded-For", forged), ("X-Forwarded-For", f"{forged}, {address}")]
    return await client.post("/login", data=form, headers=headers)


async def test_wrong_attempts_are_limited_for_each_address(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    client = browser(limiter=AttemptLimiter(clock))
    for _ in range(ADDRESS_RATE.burst):
        assert (await guess(client, "10.0.0.1")).status_code == 401
    clock.now += 10
    # Now the right key is no better than a wrong one: otherwise the answer would tell which it is.
    for key in ("wrong", "key-two"):
        response = await guess(client, "10.0.0.1", key)
        assert (response.status_code, response.headers["retry-after"]) == (429, "20")
        assert "There were too many wrong attempts. Try again in 20 seconds." in response.text
        assert "set-cookie" not in response.headers
    assert "too many wrong attempts from 10.0.0.1; the next is accepted in 20 s" in caplog.text
    assert (await guess(client, "10.0.0.2", "key-two")).status_code == 303
    clock.now += 20
    assert (await guess(client, "10.0.0.1", "key-two")).status_code == 303
    # After the right key, the count begins anew.
    for _ in range(ADDRESS_RATE.burst):
        assert (await guess(client, "10.0.0.1")).status_code == 401


async def test_right_attempts_are_not_limited() -> None:
    client = browser(limiter=AttemptLimiter(Clock()))
    for _ in range(2 * TOTAL_RATE.burst):
        assert (await guess(client, "10.0.0.1", "key-two")).status_code == 303


async def test_wrong_attempts_are_limited_in_total_too() -> None:
    client = browser(limiter=AttemptLimiter(Clock()))
    for number in range(TOTAL_RATE.burst):
        assert (await guess(client, f"10.0.1.{number}")).status_code == 401
    assert (await guess(client, "10.0.2.1", "key-two")).status_code == 429


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", ""),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1:5000", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::7]:443", "2001:db8:1:2::/64"),
        ("unknown", "unknown"),
        ("x" * 5000, "x" * 64),
    ],
)
def test_attempts_are_counted_for_an_address_without_its_port(text: str, address: str) -> None:
    assert client_address(text) == address


async def test_a_session_has_the_name_of_its_key() -> None:
    seen: list[str] = []

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"]["key_name"])
        await PlainTextResponse("")(scope, receive, send)

    keys = (ApiKey("ann", digest_of("key-one")), ApiKey("bob.é", digest_of("key-two")))
    for password in ("key-one", "key-two"):
        client = browser(keys, application=page)
        await client.post("/login", data={"username": "fjarr", "password": password})
        assert (await client.get("/")).status_code == 200
    assert seen == ["ann", "bob.é"]


async def test_a_session_s_name_cannot_be_changed() -> None:
    client = browser()
    await client.post("/login", data=RIGHT)
    expiry, session_id, name, signature = client.cookies[COOKIE].split(".")
    for named, status in ((name, 200), ("YW5u", 401)):
        cookie = {"Cookie": f"{COOKIE}={expiry}.{session_id}.{named}.{signature}"}
        assert (await browser().get("/", headers=cookie)).status_code == status

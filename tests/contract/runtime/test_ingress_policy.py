"""What an ingress does beside forwarding: restrictions, CORS, and sessions that stay on a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from localcloud.runtime import CorsPolicy, IngressPolicy
from localcloud.runtime.ingress_policy import is_admitted

if TYPE_CHECKING:
    from collections.abc import Mapping

APP = "app"
ORIGIN = "https://a.example"
CORS = CorsPolicy((ORIGIN,), ("GET", "POST"), ("x-own",), ("x-shown",), 60, allows_credentials=True)


async def ask(
    bench: Any, path: str, method: str = "GET", **headers: str
) -> tuple[int, Mapping[str, str], str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://127.0.0.1:{bench.port}{path}"
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.request(method, url, headers=named) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


@pytest.mark.parametrize(
    ("networks", "are_allowed", "is_in"),
    [
        ((), True, True),
        (("127.0.0.0/8",), True, True),
        (("10.0.0.0/8",), True, False),
        (("10.0.0.0/8", "127.0.0.1"), True, True),
        (("127.0.0.1/32",), False, False),
        (("10.0.0.0/8",), False, True),
        (("fd00::/8",), True, False),
    ],
)
def test_callers_are_admitted_by_their_address(
    networks: tuple[str, ...],
    are_allowed: bool,  # noqa: FBT001 - a column of the table
    is_in: bool,  # noqa: FBT001 - a column of the table
) -> None:
    policy = IngressPolicy(networks, are_networks_allowed=are_allowed)
    assert is_admitted(policy, "127.0.0.1") is is_in


async def test_others_get_403_and_a_header_does_not_help(bench: Any) -> None:
    await bench.up()
    bench.host.set_ingress_policy(APP, IngressPolicy(("10.0.0.0/8",)))
    status, _, text = await ask(bench, "/name", X_Forwarded_For="10.0.0.1")
    assert (status, text.strip()) == (403, "RBAC: access denied")
    bench.host.set_ingress_policy(APP, IngressPolicy(("127.0.0.1/32",)))
    assert (await ask(bench, "/name"))[0] == 200


async def test_an_allowed_origin_gets_cors_headers_and_another_none(bench: Any) -> None:
    await bench.up()
    bench.host.set_ingress_policy(APP, IngressPolicy(cors=CORS))
    _, headers, _ = await ask(bench, "/name", Origin=ORIGIN)
    assert headers["Access-Control-Allow-Origin"] == ORIGIN
    assert headers["Access-Control-Expose-Headers"] == "x-shown"
    assert headers["Access-Control-Allow-Credentials"] == "true"
    _, headers, _ = await ask(bench, "/name", Origin="https://b.example")
    assert "Access-Control-Allow-Origin" not in headers


async def test_a_preflight_request_is_answered_by_the_ingress(bench: Any) -> None:
    await bench.up()
    bench.host.set_ingress_policy(APP, IngressPolicy(cors=CORS))
    status, headers, text = await ask(
        bench, "/name", "OPTIONS", Origin=ORIGIN, Access_Control_Request_Method="POST"
    )
    assert (status, text) == (200, "")
    assert headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert headers["Access-Control-Allow-Headers"] == "x-own"
    assert headers["Access-Control-Max-Age"] == "60"


async def test_a_session_stays_on_its_replica(bench: Any) -> None:
    await bench.up(bench.spec(replicas=2))
    bench.host.set_ingress_policy(APP, IngressPolicy(is_sticky=True))
    _, headers, first = await ask(bench, "/name")
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert cookie.startswith("acaAffinity=")
    answers = [await ask(bench, "/name", Cookie=cookie) for _ in range(4)]
    assert {text for _, _, text in answers} == {first}
    assert all("Set-Cookie" not in headers for _, headers, _ in answers)

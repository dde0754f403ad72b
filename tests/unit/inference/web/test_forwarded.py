from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import pytest
from starlette.responses import JSONResponse

from inference.server import configure
from inference.web.forwarded import ForwardedHeaders

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


async def show(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse([scope["client"][0], scope["scheme"]])(scope, receive, send)


async def seen(*headers: tuple[str, str]) -> Any:
    transport = httpx.ASGITransport(ForwardedHeaders(show), client=("192.0.2.1", 5000))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return (await client.get("/", headers=list(headers))).json()


@pytest.mark.parametrize(
    ("headers", "address", "scheme"),
    [
        ([], "192.0.2.1", "http"),
        ([("X-Forwarded-For", "10.0.0.1")], "10.0.0.1", "http"),
        ([("X-Forwarded-For", "1.1.1.1, 10.0.0.1")], "10.0.0.1", "http"),
        ([("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "10.0.0.2")], "10.0.0.2", "http"),
        ([("X-Forwarded-For", "")], "192.0.2.1", "http"),
        ([("X-Forwarded-Proto", "https")], "192.0.2.1", "https"),
        ([("X-Forwarded-Proto", "http, https")], "192.0.2.1", "https"),
        ([("X-Forwarded-Proto", "javascript")], "192.0.2.1", "http"),
    ],
)
async def test_what_the_ingress_appended_counts_and_not_what_the_client_sent(
    headers: list[tuple[str, str]], address: str, scheme: str
) -> None:
    assert await seen(*headers) == [address, scheme]


async def test_the_server_leaves_these_headers_to_this_middleware() -> None:
    config = configure(show)
    config.load()
    assert not config.proxy_headers
    assert isinstance(config.loaded_app, ForwardedHeaders)

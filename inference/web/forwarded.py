"""Take the client's address and scheme from the ingress, which is the one proxy in front of the server.

A proxy appends to `X-Forwarded-For`, so that the last entry is what the ingress saw, and those before it are
what the client has sent. Nothing here can tell whether there is an ingress: without one, clients choose what
the server takes for their address.

Source: Azure Container Apps documentation, "Ingress in Azure Container Apps", HTTP headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

FORWARDED_FOR: Final = b"x-forwarded-for"
FORWARDED_PROTO: Final = b"x-forwarded-proto"
SCHEMES: Final = frozenset({"http", "https"})


class ForwardedHeaders:
    """The ASGI middleware that makes the client and the scheme of a request those that the ingress saw.

    uvicorn's own trusts either proxies with known addresses, and the ingress has none, or every entry.

    Args:
        application: Answers the requests.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http":
            if client := _last(scope, FORWARDED_FOR):
                scope["client"] = (client, 0)
            if (scheme := _last(scope, FORWARDED_PROTO)) in SCHEMES:
                scope["scheme"] = scheme
        await self._application(scope, receive, send)


def _last(scope: Scope, name: bytes) -> str:
    """Return the last entry of a header, which may be on several lines."""
    values: list[bytes] = [value for key, value in scope["headers"] if key == name]
    return values[-1].rpartition(b",")[2].strip().decode("latin-1") if values else ""

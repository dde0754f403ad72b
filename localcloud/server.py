"""Serve the local cloud over TLS.

One listener serves everything, and the path selects the service: the metadata and sign-in endpoints, Resource
Manager, and Azure Files, whose paths begin with a storage account.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from aiohttp import web

from localcloud.arm.identity import metadata_endpoints, openid_configuration, sign_in
from localcloud.arm.requests import ArmRequest, ArmResponse
from localcloud.arm.resource_ids import parse_path

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator

    from localcloud.cloud import Cloud

# A compiled template may have some megabytes (Azure's own limit is 4 MB), and a range of a file 4 MiB.
_MAX_BODY_BYTES: Final = 16 * 1024 * 1024
_ARM_ROOTS: Final = frozenset({"subscriptions", "tenants", "providers"})
_SHUTDOWN_S: Final = 2


class Server:
    """The listener of a local cloud."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._runner: web.AppRunner | None = None

    async def listen(self, port: int, context: ssl.SSLContext) -> None:
        """Listen on a port of 127.0.0.1.

        Raises:
            OSError: The port is taken.
        """
        application = web.Application(client_max_size=_MAX_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=context).start()

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        parts = [unquote(part) for part in request.rel_url.raw_path.split("/") if part]
        words = [part.lower() for part in parts]
        if not words or words[0] in _ARM_ROOTS:
            return await self._handle_arm(request)
        if words[:2] == ["metadata", "endpoints"]:
            return web.json_response(metadata_endpoints(self._cloud.identity, self._cloud.base_url))
        if words[1:] == ["v2.0", ".well-known", "openid-configuration"]:
            return web.json_response(openid_configuration(parts[0], self._cloud.base_url))
        if words[1:] in (["oauth2", "v2.0", "token"], ["oauth2", "token"]):
            return await self._sign_in(request, parts[0])
        return await self._cloud.files.handle(request)

    async def _sign_in(self, request: web.Request, tenant: str) -> web.StreamResponse:
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        found = sign_in(self._cloud.identity, self._cloud.tokens, tenant, form)
        return web.json_response(found.body, status=found.status)

    async def _handle_arm(self, request: web.Request) -> web.StreamResponse:
        found = await self._cloud.handle(await _arm_request(request, self._cloud.base_url))
        if found.stream is not None:
            return await _stream(request, found, found.stream)
        if found.body is None:
            return web.Response(status=found.status, headers=found.headers)
        text = json.dumps(found.body)
        kind = "application/json"
        return web.Response(status=found.status, headers=found.headers, text=text, content_type=kind)


async def _arm_request(request: web.Request, base_url: str) -> ArmRequest:
    path = request.rel_url.raw_path
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return ArmRequest(
        method=request.method,
        path=parse_path(path),
        url_path=unquote(path),
        query={name.lower(): value for name, value in request.query.items()},
        text=await request.text(),
        base_url=base_url,
        token=token.strip() if scheme.lower() == "bearer" else None,
    )


async def _stream(
    request: web.Request, found: ArmResponse, lines: AsyncGenerator[bytes, None]
) -> web.StreamResponse:
    response = web.StreamResponse(status=found.status, headers=found.headers)
    response.content_type = "text/plain"
    await response.prepare(request)
    async with aclosing(lines):
        async for line in lines:
            await response.write(line)
    await response.write_eof()
    return response

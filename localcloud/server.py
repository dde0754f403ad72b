"""Serve the local cloud over TLS: requests become values, answers become responses.

One listener has it all, as paths tell the services apart: the metadata and sign-in endpoints, Resource
Manager, and Azure Files, whose paths begin with a storage account.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import web

from localcloud.arm.calls import Answer, Call
from localcloud.arm.identity import metadata_endpoints, openid_configuration, sign_in
from localcloud.arm.resource_ids import parse_path

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator

    from localcloud.cloud import Cloud

# A compiled template may be some megabytes; Azure's own limit is 4 MB. Ranges of files are 4 MiB and a
# header.
_LARGEST_BODY_BYTES = 16 * 1024 * 1024
_ARM_ROOTS = frozenset({"subscriptions", "tenants", "providers"})
_SHUTDOWN_S = 2


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
        application = web.Application(client_max_size=_LARGEST_BODY_BYTES)
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
            return await self._manage(request)
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

    async def _manage(self, request: web.Request) -> web.StreamResponse:
        answer = await self._cloud.answer(await _call(request, self._cloud.base_url))
        if answer.stream is not None:
            return await _stream(request, answer, answer.stream)
        if answer.body is None:
            return web.Response(status=answer.status, headers=answer.headers)
        text = json.dumps(answer.body)
        kind = "application/json"
        return web.Response(status=answer.status, headers=answer.headers, text=text, content_type=kind)


async def _call(request: web.Request, base_url: str) -> Call:
    path = request.rel_url.raw_path
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return Call(
        method=request.method,
        path=parse_path(path),
        url_path=unquote(path),
        query={name.lower(): value for name, value in request.query.items()},
        text=await request.text(),
        base_url=base_url,
        token=token.strip() if scheme.lower() == "bearer" else None,
    )


async def _stream(
    request: web.Request, answer: Answer, lines: AsyncGenerator[bytes, None]
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_type = "text/plain"
    await response.prepare(request)
    async with aclosing(lines):
        async for line in lines:
            await response.write(line)
    await response.write_eof()
    return response

"""Put the application together: the edge around everything, health and version, the API, the chat.

Nothing here knows how a model is loaded or how the process ends; `server` does.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from inference import VERSION
from inference.api import make_api
from inference.errors import ApiError, TooLargeError, UnauthorizedError
from inference.keyring import Keyring
from inference.pages import starting_page
from inference.sign_in import SignIn

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from inference.service import Service
    from inference.settings import Settings

LOGGER: Final = logging.getLogger("inference.access")
REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
QUIET_PATHS: Final = ("/healthz", "/readyz")


@dataclass(frozen=True, slots=True)
class Identity:
    """Say who this server is, for `/version`.

    Attributes:
        started_at: ISO 8601, UTC.
    """

    release: str
    revision: str
    replica: str
    started_at: str


class ChatPage:
    """Stand where the chat will be, and hand over to it once it is there. An ASGI application."""

    def __init__(self, service: Service) -> None:
        self.application: ASGIApp | None = None
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the chat, or with a page that asks to wait."""
        if self.application is not None:
            await self.application(scope, receive, send)
        elif scope["type"] == "http":
            await self._starting_page(Request(scope))(scope, receive, send)

    def _starting_page(self, request: Request) -> Response:
        if request.url.path != "/":
            return Response("There is nothing here.\n", 404, media_type="text/plain")
        page = starting_page(self._service.phase, self._service.percent)
        return HTMLResponse(page, 503, headers={"Retry-After": "2"})


class Edge:
    """Give every request an id, keep strangers and giants out of `/v1`, and log one line without its content.

    Args:
        keyring: The keys that open `/v1`; None leaves it open.
    """

    def __init__(self, application: ASGIApp, keyring: Keyring | None, max_body_bytes: int) -> None:
        self._application = application
        self._keyring = keyring
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        request_id = _request_id(headers.get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = _Exchange(scope, send, request_id)
        try:
            if scope["path"].startswith("/v1"):
                exchange.key_name = self._authenticate(headers)
            await self._application(scope, self._limit(headers, receive), exchange.send)
        except ApiError as error:
            response = JSONResponse(error.to_json(), error.status, error.headers)
            await response(scope, receive, exchange.send)
        finally:
            exchange.log()

    def _authenticate(self, headers: dict[str, str]) -> str:
        if self._keyring is None:
            return "-"
        scheme, _, key = headers.get("authorization", "").partition(" ")
        name = self._keyring.find(key.strip()) if scheme.lower() == "bearer" else None
        if name is None:
            raise UnauthorizedError(
                "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return name

    def _limit(self, headers: dict[str, str], receive: Receive) -> Receive:
        """Return a `receive` that refuses a body beyond the limit, announced or not."""
        most = self._max_body_bytes
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > most:
            raise _too_large(most)
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        return limited


class _Exchange:
    """Watch one answer go out: add the request id, note the status."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self._started_at = time.monotonic()
        self._status = 0
        self.key_name = "-"

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._request_id.encode())]
        await self._send(message)

    def log(self) -> None:
        path = self._scope["path"]
        if path in QUIET_PATHS or not path.startswith(("/v1", "/version")):
            return
        duration_ms = (time.monotonic() - self._started_at) * 1000
        LOGGER.info(
            "%s %s %d %.0f ms key=%s request=%s",
            self._scope["method"], path, self._status, duration_ms, self.key_name, self._request_id,
        )  # fmt: skip


def make_application(
    service: Service, settings: Settings, identity: Identity, chat_page: ChatPage
) -> ASGIApp:
    """Return the whole application."""

    async def healthz(_request: Request) -> Response:
        if service.state == "failed":
            return JSONResponse({"status": "failed"}, 503)
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        if service.state == "ready":
            return JSONResponse({"status": "ready"})
        document: dict[str, Any] = {"status": service.state}
        if service.state == "starting":
            document |= {"phase": service.phase, "percent": service.percent}
        return JSONResponse(document, 503, {"Retry-After": "5"})

    async def version(_request: Request) -> Response:
        return JSONResponse(version_document(service, identity))

    keyring = Keyring(settings.api_keys)
    routes = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/version", version),
        Mount("/v1", make_api(service, settings.heartbeat_s)),
        Mount("/", SignIn(chat_page, keyring) if settings.is_chat_sign_in_on else chat_page),
    ]
    api_keyring = keyring if settings.is_auth_on else None
    return Edge(Starlette(routes=routes), api_keyring, settings.max_body_bytes)


def version_document(service: Service, identity: Identity) -> dict[str, Any]:
    """Return what `/version` says: by it a deployment proves which release answers."""
    bases = [model.name for model in service.models if model.parent is None]
    return {
        "release": identity.release,
        "version": VERSION,
        "revision": identity.revision,
        "replica": identity.replica,
        "started_at": identity.started_at,
        "base_model": bases[0] if bases else None,
        "adapters": [model.name for model in service.models if model.parent is not None],
        "ready": service.state == "ready",
    }


def _request_id(wanted: str) -> str:
    """Return the client's own id where it is harmless to log and to send back, else a new one."""
    return wanted if REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"The body is larger than {most} bytes, which is the most this server takes.")

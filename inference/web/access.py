"""Decide which requests may enter: by API key, and by the size and speed of head and body.

Nothing here sends a response: a request that may not enter raises the error to answer it with.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from inference.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ForbiddenError,
    HeadersTooLargeError,
    NotFoundError,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message, Receive, Scope

    from inference.service.lifecycle import RequestContext
    from inference.web.keyring import Keyring

API_PATH: Final = "/v1"
METRICS_PATH: Final = "/metrics"

ROOT_PATHS: Final = frozenset({"/tokenize", "/detokenize"})
"""Paths that are served below `API_PATH`, and also where vLLM has them."""

MISPLACED_PATHS: Final = frozenset(
    {"/chat/completions", "/completions", "/messages", "/models", "/responses"}
)
"""What a client requests whose base URL lacks `API_PATH`."""

ADMIN_PATHS: Final = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
"""Paths that the admin key alone opens, if there is one."""

KEY_HEADERS: Final = ("api-key", "x-api-key")
"""The headers in which Azure OpenAI's clients and Anthropic's send a key.

Source: Azure OpenAI REST API reference, "Authentication"; Anthropic API reference, "Authentication".
"""

MAX_HEADERS: Final = 128
MAX_HEADER_BYTES: Final = 32 * 1024
MAX_TARGET_BYTES: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The rules that a request must meet to reach the application.

    Attributes:
        keyring: The keys that open the protected paths; None if no path needs a key.
        has_open_metrics: Whether `/metrics` is served without a key.
        max_body_bytes: The largest body.
        body_timeout_s: How long a body may take to arrive.
        cors_origins: The origins whose pages may call `/v1`; empty if none may.
        admin_keyring: The keys that open `ADMIN_PATHS`; None if there are none.
    """

    keyring: Keyring | None
    has_open_metrics: bool
    max_body_bytes: int
    body_timeout_s: float
    cors_origins: tuple[str, ...] = ()
    admin_keyring: Keyring | None = None

    def requires_key(self, path: str) -> bool:
        """Return whether a path is served only to requests with an API key."""
        if path in ADMIN_PATHS and self.admin_keyring is not None:
            return True
        is_protected = path.startswith(API_PATH) or (path == METRICS_PATH and not self.has_open_metrics)
        return is_protected and self.keyring is not None

    def authenticate(self, headers: Mapping[str, str], path: str) -> str:
        """Return the name of the key in the headers that opens a path.

        Raises:
            UnauthorizedError: If there is no key, or an unknown one.
            ForbiddenError: If it is an API key, and the path needs the admin key.
        """
        needs_admin = path in ADMIN_PATHS and self.admin_keyring is not None
        keyring = self.admin_keyring if needs_admin else self.keyring
        keys = _keys_in(headers)
        name = next((name for key in keys if (name := keyring and keyring.find(key))), None)
        if name is not None:
            return name
        if needs_admin and self.keyring is not None and any(map(self.keyring.find, keys)):
            raise ForbiddenError(f"{path} needs the admin key of FJARR_ADMIN_KEY; an API key does not do.")
        raise UnauthorizedError(
            "The API key is missing or wrong. Send it as 'Authorization: Bearer KEY', or in the header"
            " 'api-key' or 'x-api-key'.",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def limit_body(self, headers: Mapping[str, str], receive: Receive, context: RequestContext) -> Receive:
        """Return a `receive` that raises when the body is too large, announced or not, or too slow.

        FastAPI wraps what `receive` raises, so the error's code is also written into `context`.

        Raises:
            BodyTooLargeError: If the announced length is too large.
        """
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.max_body_bytes:
            raise _too_large(self.max_body_bytes)
        received, is_complete, deadline = 0, False, None

        async def limited() -> Message:
            nonlocal received, is_complete, deadline
            if is_complete:
                return await receive()
            deadline = deadline or asyncio.get_running_loop().time() + self.body_timeout_s
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                context.rejection_code = BodyTimeoutError.code
                raise _too_slow(self.body_timeout_s) from None
            received += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if received > self.max_body_bytes:
                context.rejection_code = BodyTooLargeError.code
                raise _too_large(self.max_body_bytes)
            return message

        return limited


def check_head(scope: Scope) -> None:
    """Check the size of a request's first line and headers.

    Raises:
        HeadersTooLargeError: If one of them is too large.
    """
    target = len(scope.get("raw_path") or scope["path"]) + len(scope["query_string"])
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if target > MAX_TARGET_BYTES:
        raise HeadersTooLargeError(f"The address is longer than {MAX_TARGET_BYTES} bytes.")
    if len(scope["headers"]) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        raise HeadersTooLargeError(
            f"There are more than {MAX_HEADERS} headers, or more than {MAX_HEADER_BYTES} bytes of them."
        )


def check_path(path: str) -> None:
    """Check that a path is not one of the API's without its beginning: the chat page would ask to sign in.

    Raises:
        NotFoundError: If it is.
    """
    if path in MISPLACED_PATHS:
        raise NotFoundError(
            f"There is no {path}, but {API_PATH}{path}: the base URL of your client has to end with"
            f" {API_PATH}.",
            code="unknown_url",
        )


def _keys_in(headers: Mapping[str, str]) -> list[str]:
    """Return the keys in a request's headers; a client may send more than one, for different servers."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    keys = [key] if scheme.lower() == "bearer" else []
    return [found.strip() for found in (*keys, *(headers.get(name, "") for name in KEY_HEADERS))]


def _too_slow(timeout_s: float) -> BodyTimeoutError:
    return BodyTimeoutError(
        f"The body did not arrive within {timeout_s:g} s.", headers={"Connection": "close"}
    )


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"The body is larger than {max_bytes} bytes, which is the most this server takes."
    )

"""The server's errors, by who must act.

```
InferenceError
├── SettingsError       who deploys: a variable is unknown or has a bad value (exit code 2)
├── LoadError           who deploys: base, adapter and hardware do not fit (exit code 1)
├── EngineError         nobody outside: the engine failed on a request, or died
└── ApiError            the client, or its patience: it has a status and OpenAI's error fields
    ├── InvalidRequestError      400
    ├── UnauthorizedError        401
    ├── NotFoundError            404
    ├── BodyTimeoutError            408
    ├── BodyTooLargeError            413
    ├── HeadersTooLargeError     431
    ├── OverloadedError          429
    └── UnavailableError         503
```

Imports the standard library only: `start` uses it before anything is installed.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class InferenceError(Exception):
    """Be the root of everything that the server raises on purpose."""


class SettingsError(InferenceError):
    """Report every bad or unknown variable of the environment at once.

    Args:
        problems: One sentence each: which variable, what is wrong with it, what it may be.
    """

    exit_code = 2

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class LoadError(InferenceError):
    """Report why the model cannot be served. The message says what to change."""

    exit_code = 1


class EngineError(InferenceError):
    """Report that the engine failed on a request, or stopped working altogether."""


class ApiError(InferenceError):
    """Answer a request with an error in OpenAI's shape.

    Args:
        message: What happened and what to change.
        param: The request's field that it is about, as a dotted path.
        code: OpenAI's machine-readable code, such as `context_length_exceeded`.
        headers: Further response headers, such as `Retry-After`.

    Source: OpenAI API reference, "Error codes"; the official client reads `error.message`, `.type`, `.param`,
    `.code`.
    """

    status = 500
    kind = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.headers = dict(headers)

    def to_json(self) -> dict[str, Any]:
        """Return the body of the answer."""
        message, param = _printable(self.message), self.param and _printable(self.param)
        return {"error": {"message": message, "type": self.kind, "param": param, "code": self.code}}


class InvalidRequestError(ApiError):
    """Refuse a request that cannot be served as it is."""

    status = 400
    kind = "invalid_request_error"


class UnauthorizedError(ApiError):
    """Refuse a request without a valid key."""

    status = 401
    kind = "invalid_request_error"
    code = "invalid_api_key"


class NotFoundError(ApiError):
    """Report a model or a path that does not exist."""

    status = 404
    kind = "invalid_request_error"


class MethodNotAllowedError(ApiError):
    """Report a path that exists, asked in a way that it does not offer."""

    status = 405
    kind = "invalid_request_error"
    code = "method_not_allowed"


class BodyTooLargeError(ApiError):
    """Refuse a body beyond the limit."""

    status = 413
    kind = "invalid_request_error"
    code = "request_too_large"


class BodyTimeoutError(ApiError):
    """Refuse a request whose body does not arrive."""

    status = 408
    kind = "invalid_request_error"
    code = "body_timeout"


class HeadersTooLargeError(ApiError):
    """Refuse a request whose first line or headers are beyond the limit."""

    status = 431
    kind = "invalid_request_error"
    code = "headers_too_large"


class OverloadedError(ApiError):
    """Refuse a request because the queue is full, or because its key has all that a key may have."""

    status = 429
    kind = "requests"
    code = "rate_limit_exceeded"


class UnavailableError(ApiError):
    """Report that the server cannot answer now: it starts, drains, is out of time, or its engine is dead."""

    status = 503
    kind = "server_error"


def _printable(text: str) -> str:
    """Return a text that quotes a request as UTF-8 can say it: JSON can spell halves of characters."""
    return text.encode(errors="backslashreplace").decode()

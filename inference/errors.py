"""The server's errors, by who must act.

```
InferenceError
├── SettingsError       whoever deploys: a variable is unknown or has an invalid value (exit code 2)
├── LoadError           whoever deploys: base, adapter and hardware do not fit (exit code 1)
│   ├── UnsuitedEngineError   the registry: with FJARR_ENGINE=auto it takes another engine
│   ├── RestartRequiredError  `push`: it restarts the revision
│   └── ProtocolVersionError  the supervisor: the server and the engine process have to be of one release
├── TakeoverError       whoever deploys: a release cannot take over in this container
├── EngineError         nobody: the engine failed on a request, or died; the server logs it
│   ├── RequestRefusedError   the client: the engine does not take this request
│   └── ScoresError           whoever deploys or asks: the model's scores for a request are not numbers
└── ApiError            the client: it has an HTTP status and OpenAI's error fields
    ├── InvalidRequestError      400
    ├── UnauthorizedError        401
    ├── ForbiddenError           403
    ├── NotFoundError            404
    ├── MethodNotAllowedError    405
    ├── BodyTimeoutError         408
    ├── BodyTooLargeError        413
    ├── HeadersTooLargeError     431
    ├── OverloadedError          429
    ├── GenerationFailedError    500
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
    """The root of the errors that the server raises on purpose."""


class SettingsError(InferenceError):
    """All unknown or invalid environment variables at once.

    Args:
        problems: A sentence for each: the variable, what is wrong with it, what is allowed.
    """

    exit_code = 2

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class LoadError(InferenceError):
    """The reason why the model cannot be served, and what to change."""

    exit_code = 1


class UnsuitedEngineError(LoadError):
    """The reason why an engine cannot serve a model that another engine can serve."""


class RestartRequiredError(LoadError):
    """The reason why a running engine cannot load an adapter that it can load when it starts."""


class ProtocolVersionError(LoadError):
    """The reason why a server and an engine process do not understand each other."""


class TakeoverError(InferenceError):
    """The reason why a release cannot take over in this container."""


class EngineError(InferenceError):
    """A failure of the engine: on a request, or altogether."""


class RequestRefusedError(EngineError):
    """A request whose tokens or parameters the engine does not take. Others are unaffected."""


class ScoresError(EngineError):
    """A request for which the model computed scores that are not numbers. Others are unaffected.

    Attributes:
        tokens: How many tokens of the answer there were.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        super().__init__(
            f"the model's scores are not finite numbers after {tokens} tokens: its weights or this request's"
            " parameters are too large for its precision"
        )


class ApiError(InferenceError):
    """An error response in OpenAI's format.

    Args:
        message: What happened and what to change.
        param: The field of the request that is wrong, as a dotted path.
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
        """Return the body of the response."""
        message, param = _printable(self.message), self.param and _printable(self.param)
        return {"error": {"message": message, "type": self.kind, "param": param, "code": self.code}}


class InvalidRequestError(ApiError):
    """An invalid request, or one that needs what this server does not support."""

    status = 400
    kind = "invalid_request_error"


class UnauthorizedError(ApiError):
    """A request without a valid API key."""

    status = 401
    kind = "invalid_request_error"
    code = "invalid_api_key"


class ForbiddenError(ApiError):
    """A request that the admin key alone may make."""

    status = 403
    kind = "invalid_request_error"
    code = "admin_key_required"


class NotFoundError(ApiError):
    """A model or a path that does not exist."""

    status = 404
    kind = "invalid_request_error"


class MethodNotAllowedError(ApiError):
    """A path that exists, with a method that it does not support."""

    status = 405
    kind = "invalid_request_error"
    code = "method_not_allowed"


class BodyTooLargeError(ApiError):
    """A body that is larger than the limit."""

    status = 413
    kind = "invalid_request_error"
    code = "request_too_large"


class BodyTimeoutError(ApiError):
    """A body that does not arrive in time."""

    status = 408
    kind = "invalid_request_error"
    code = "body_timeout"


class HeadersTooLargeError(ApiError):
    """A request line or headers that are larger than the limit."""

    status = 431
    kind = "invalid_request_error"
    code = "headers_too_large"


class OverloadedError(ApiError):
    """A request that is rejected because the queue is full or its API key is at its limit."""

    status = 429
    kind = "requests"
    code = "rate_limit_exceeded"


class GenerationFailedError(ApiError):
    """An answer that cannot be completed; the same request would fail again."""

    status = 500
    kind = "server_error"


class UnavailableError(ApiError):
    """The server cannot answer now: it is starting or draining, the engine is dead, or time ran out."""

    status = 503
    kind = "server_error"


def _printable(text: str) -> str:
    """Escape lone surrogates, which JSON in a request can contain and UTF-8 cannot encode."""
    return text.encode(errors="backslashreplace").decode()

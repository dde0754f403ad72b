"""The one error of the local cloud: an error response of Azure.

Anything else that is raised while a request is handled is a bug; the response is 500 `InternalServerError`,
and the traceback is in the daemon's log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


_NOT_IMPLEMENTED: Final = 501


class AzureError(Exception):
    """An error of a request or of a long-running operation, as Azure's error envelope.

    Args:
        status: The HTTP status of the response.
        code: Azure's machine-readable code, such as `ResourceNotFound`.
        message: One sentence for a person, in Azure's own words where they are known.
        details: Inner errors, outermost first, as deployments nest them.
        target: What the error is about, where Azure names it.
        additional_info: Entries such as ``{"type": "TemplateViolation", "info": {...}}``.

    Source: Azure Resource Manager, "Common API details: error response".
    """

    def __init__(  # noqa: PLR0913 - these are the fields of Azure's envelope
        self,
        status: int,
        code: str,
        message: str,
        details: tuple[AzureError, ...] = (),
        *,
        target: str | None = None,
        additional_info: tuple[dict[str, Any], ...] = (),
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.target = target
        self.additional_info = additional_info

    @property
    def parts(self) -> tuple[AzureError, ...]:
        """Return the errors that this one stands for: itself, or those that it combines."""
        return (self,)

    def body(self) -> dict[str, Any]:
        """Return the content of the envelope: code and message, and what else is set."""
        found: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target is not None:
            found["target"] = self.target
        if self.details:
            found["details"] = [inner.body() for inner in self.details]
        if self.additional_info:
            found["additionalInfo"] = list(self.additional_info)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the envelope, ``{"error": {...}}``."""
        return {"error": self.body()}


class CombinedError(AzureError):
    """Several errors of one request: the first one's code and message, and all of them as details."""

    def __init__(self, errors: Sequence[AzureError]) -> None:
        first = errors[0]
        super().__init__(first.status, first.code, first.message, tuple(errors), target=first.target)

    @property
    def parts(self) -> tuple[AzureError, ...]:
        """Return the combined errors."""
        return self.details


def raise_all(errors: Sequence[AzureError]) -> None:
    """Raise the errors of a request, all at once; what Azure rejects goes before what is not emulated."""
    found = [error for error in errors if error.status != _NOT_IMPLEMENTED] or list(errors)
    if found:
        raise found[0] if len(found) == 1 else CombinedError(found)


def not_emulated(operation: str) -> AzureError:
    """Return the error 501 for an operation that Azure has and the local cloud does not."""
    return AzureError(
        _NOT_IMPLEMENTED, "NotImplementedByLocalCloud", f"The local cloud does not emulate {operation}."
    )


def bad_request(code: str, message: str) -> AzureError:
    """Return the error 400 for a request that is not valid."""
    return AzureError(400, code, message)

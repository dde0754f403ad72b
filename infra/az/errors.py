"""Convert the error output of `az` to an exception, with the innermost cause and a hint.

Azure nests errors: an outer code without information, details within details, and sometimes a whole error
document as text inside a message. az adds its own prose. This module finds the cause in the text of
stderr alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.hints import hint_for
from infra.errors import RemoteError, ToolError, UsageError
from infra.wording import last_lines

if TYPE_CHECKING:
    from infra.document import Json

_NOT_FOUND: Final = (
    "ResourceNotFound",
    "ResourceGroupNotFound",
    "ParentResourceNotFound",
    "DeploymentNotFound",
    "NotFound",
)
OPERATION_IN_PROGRESS: Final = "ContainerAppOperationInProgress"
"""The code of a request that Container Apps rejects while another change of the app runs."""

VAGUE_CODES: Final = frozenset(
    {
        "Conflict",
        "DeploymentFailed",
        "InvalidTemplateDeployment",
        "PreflightValidationCheckFailed",
        "ResourceDeploymentFailure",
        "ValidationForMultipleResourcesFailed",
        "ValidationForResourceFailed",
    }
)
"""Codes without information: the cause is in the details."""

_SIGNED_OUT: Final = re.compile(r"az login|AADSTS\d+|No subscription found|not logged in", re.IGNORECASE)
_CODE_AND_MESSAGE: Final = re.compile(r"^(?:ERROR: )?\((?P<code>\w+)\) (?P<message>.+)$", re.MULTILINE)
_CODE_DASH_MESSAGE: Final = re.compile(r"^(?:ERROR: )?(?P<code>[A-Z]\w+) - (?P<message>.+)$", re.MULTILINE)
_CODE_LINE: Final = re.compile(r"^Code: *(?P<code>\w+)$", re.MULTILINE)
_MESSAGE_LINE: Final = re.compile(r"^Message: *(?P<message>.+)$", re.MULTILINE)
_USAGE_EXIT_CODE: Final = 2


@dataclass(frozen=True, slots=True)
class ErrorCause:
    """The innermost cause of an error of Azure: its code and message."""

    code: str
    message: str

    def __str__(self) -> str:
        """Return `Code: message`, or the message alone if there is no code."""
        return f"{self.code}: {self.message}" if self.code else self.message


class AzureRejectedError(RemoteError):
    """A request that Azure rejected.

    Attributes:
        cause: The innermost cause.
    """

    def __init__(self, what: str, cause: ErrorCause, *, command: str | None = None) -> None:
        super().__init__(
            f"{what}: {cause}", command=command, hint=hint_for(cause.code, cause.message, command)
        )
        self.cause = cause


class NotFoundError(AzureRejectedError):
    """A resource that does not exist."""


def classify(exit_code: int, stderr: str, *, command: str) -> UsageError | ToolError | RemoteError:
    """Return the exception for a failed az command.

    Args:
        exit_code: The exit code of the process.
        stderr: Its error output, with secrets redacted.
        command: The command line for the message, redacted.
    """
    cause = find_cause(stderr)
    if cause is not None and is_not_found(cause):
        return NotFoundError("the resource does not exist", cause, command=command)
    if cause is not None and cause.code:
        return AzureRejectedError("Azure rejected the request", cause, command=command)
    lines = last_lines(stderr)
    if _SIGNED_OUT.search(stderr):
        return UsageError("you are not signed in to Azure", command=command, hint="az login", details=lines)
    if exit_code == _USAGE_EXIT_CODE:
        hint = "az does not know this command line; invoke doctor checks its version"
        return ToolError("az rejected its arguments", command=command, hint=hint, details=lines)
    return RemoteError(f"az failed with exit code {exit_code}", command=command, details=lines)


def find_cause(text: str) -> ErrorCause | None:
    """Find the innermost cause in the output of az; None if no error code is found.

    az prints the error of a deployment as one JSON document for each level, the outer first, each without
    the levels inside it; other errors as `(Code) message`, as `Code - message` for each level, or as a
    `Code:` and a `Message:` line. Any message may contain a whole document as text.
    """
    for causes in (
        _printed_documents(text),
        _matches(_CODE_AND_MESSAGE, text),
        _matches(_CODE_DASH_MESSAGE, text),
    ):
        if causes:
            return _most_specific(causes)
    codes = _CODE_LINE.findall(text)
    messages = _MESSAGE_LINE.findall(text)
    return _unwrapped(codes[-1], messages[-1]) if codes and messages else None


def innermost_cause(document: Json) -> ErrorCause | None:
    """Return the innermost cause in an error document, or None if there is none.

    Of several causes on one level the first is taken, because Azure lists the one that stopped it first.
    """
    if isinstance(document, str):
        return next((found for inner in _documents(document) if (found := innermost_cause(inner))), None)
    if not isinstance(document, dict):
        return None
    if "error" in document:
        return innermost_cause(document["error"])
    details = document.get("details")
    for detail in details if isinstance(details, list) else []:
        found = innermost_cause(detail)
        if found is not None:
            return found
    code, message = document.get("code"), document.get("message")
    if isinstance(code, str) and isinstance(message, str):
        return _unwrapped(code, message)
    return None


def _printed_documents(text: str) -> list[ErrorCause]:
    return [found for document in _documents(text) if (found := innermost_cause(document)) is not None]


def _matches(pattern: re.Pattern[str], text: str) -> list[ErrorCause]:
    return [_unwrapped(match["code"], match["message"]) for match in pattern.finditer(text)]


def _most_specific(causes: list[ErrorCause]) -> ErrorCause:
    """Return the first cause with a specific code, else the innermost, which is the last."""
    return next((cause for cause in causes if cause.code not in VAGUE_CODES), causes[-1])


def _unwrapped(code: str, message: str) -> ErrorCause:
    inner = innermost_cause(message)
    return inner if inner is not None else ErrorCause(code, " ".join(message.split()))


def is_not_found(cause: ErrorCause) -> bool:
    """Return whether an error says that the resource does not exist."""
    return cause.code in _NOT_FOUND


def _documents(text: str) -> list[Json]:
    """Return every JSON object in a text, in order."""
    decoder = json.JSONDecoder(strict=False)
    documents: list[Json] = []
    position = text.find("{")
    while position != -1:
        try:
            document, end = decoder.raw_decode(text, position)
        except ValueError:
            end = position + 1
        else:
            documents.append(document)
        position = text.find("{", end)
    return documents

"""Convert the errors of Azure Files to exceptions with a message and a hint.

Source: Azure Files REST API, "File service error codes" and "Status and error codes"; a full share answers
with 403 `ShareSizeLimitReached`, see the issues 1791 and 2685 of Azure/azure-storage-azcopy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from infra.errors import RemoteError
from infra.wording import first_line

TRANSIENT_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that are no fault of the request: it may succeed later."""

TRANSIENT_CONFLICTS: Final = frozenset(
    {
        "ClientCacheFlushDelay",
        "DeletePending",
        "FileLockConflict",
        "OperationInProgress",
        "SharingViolation",
        "ShareOperationInProgress",
    }
)
"""Conflicts (409) that end by themselves, such as with a file that a replica has open."""

_TLS_ERRORS: Final = (
    "certificate verify failed",
    "CERTIFICATE_VERIFY_FAILED",
    "SSLError",
    "WRONG_VERSION_NUMBER",
)


@dataclass(frozen=True, slots=True)
class ShareAddress:
    """The address of a share: its storage account, its name and the endpoint."""

    account: str
    share: str
    endpoint: str


def is_transient(status: int, code: str) -> bool:
    """Return whether the same request is likely to succeed in a moment."""
    return status in TRANSIENT_STATUSES or (status == 409 and code in TRANSIENT_CONFLICTS)  # noqa: PLR2004  # Conflict


def is_tls_failure(reason: str) -> bool:
    """Return whether the certificate was not accepted, in which case a retry is useless."""
    return any(mark in reason for mark in _TLS_ERRORS)


def rejected_error(what: str, address: ShareAddress, status: int, code: str, message: str) -> RemoteError:
    """Return the exception for a request that the service rejected.

    Args:
        what: The operation, as in `write CURRENT`.
        address: The share.
        status: The HTTP status.
        code: The service's error code, such as `ShareNotFound`; may be empty.
        message: The message of the service, of which the first line is shown.
    """
    summary = f"cannot {what} on share {address.share!r} of {address.account!r}"
    hint = _hint(address, status, code)
    reason = first_line(message) or "the service gave no reason"
    return RemoteError(f"{summary}: {code or status}: {reason}", hint=hint)


def unreachable_error(what: str, address: ShareAddress, reason: str) -> RemoteError:
    """Return the exception for a request without a response. `reason` is the error of the HTTP library."""
    summary = f"cannot {what} on share {address.share!r}: {address.endpoint} cannot be reached"
    if is_tls_failure(reason):
        hint = "its certificate is not trusted; behind a proxy that inspects TLS, set REQUESTS_CA_BUNDLE"
        return RemoteError(summary, details=(reason,), hint=hint)
    hint = "check the network, and that a firewall lets HTTPS through to it; invoke status shows what runs"
    return RemoteError(summary, details=(reason,), hint=hint)


def _hint(address: ShareAddress, status: int, code: str) -> str | None:
    by_code = {
        "AuthenticationFailed": (
            "the key may have been rotated a moment ago, then run the same command again; "
            "or this machine's clock is more than 15 minutes off"
        ),
        "KeyBasedAuthenticationNotPermitted": (
            f"allow it: az storage account update --name {address.account} --allow-shared-key-access true"
        ),
        "AuthorizationFailure": (
            f"the firewall of {address.account!r} keeps this machine out: add its address under Networking"
        ),
        "ShareNotFound": "provision the stage (invoke provision), or correct FILE_SHARE_NAME in its config",
        "ShareBeingDeleted": "wait half a minute until it is gone, then provision again (invoke provision)",
        "ShareSizeLimitReached": (
            "the share is full: raise its limit (invoke provision --set shareQuotaGib=GIB); "
            "invoke prune removes what is old"
        ),
        "AccountIsDisabled": f"the storage account {address.account!r} is disabled: see the Azure portal",
    }
    if code in by_code:
        return by_code[code]
    if is_transient(status, code):
        return "it did not pass in several tries: run the same command again in a minute"
    return None

"""Authorization of requests: by account key or SAS.

A request has an `Authorization` header, or a SAS in its query, or neither. There is no anonymous access, and
no identity has a data role here, so an OAuth token is rejected with a message that names the alternatives.

Source: "Authorize requests to Azure Storage", "Authorize with Shared Key", and the recorded wording of the
service.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from localcloud.files import shared_key
from localcloud.files.errors import StorageError, authentication_failed, missing_header, storage_error
from localcloud.files.request import Grant, HttpRequest
from localcloud.files.sas import check_sas
from localcloud.files.shared_key import SignedRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_SKEW: Final = timedelta(minutes=15)


def authorize(request: HttpRequest, keys: Sequence[str], resource: str, now: datetime) -> Grant:
    """Return the permissions of a request.

    Args:
        request: The request.
        keys: The account's keys, base64; none if shared-key access is disabled for it.
        resource: What the operation acts on: `s`, `c` or `o`, as in an account SAS.
        now: The time.

    Raises:
        StorageError: 401, 403, or 400 for an `Authorization` header that cannot be read.
    """
    value = request.headers.get("authorization")
    if not keys and not (value or "").lower().startswith("bearer ") and (value or "sig" in request.query):
        raise storage_error("KeyBasedAuthenticationNotPermitted")
    if value is not None:
        return _check_header(request, value, keys, now)
    if "sig" in request.query:
        return check_sas(request, keys, resource, now)
    raise _unauthenticated(request)


def check_permission(grant: Grant, letters: str) -> None:
    """Check that a grant has at least one of these permissions.

    Raises:
        StorageError: AuthorizationPermissionMismatch.
    """
    if not grant.allows(letters):
        raise storage_error("AuthorizationPermissionMismatch")


def check_copy_source(source: HttpRequest, keys: Sequence[str], now: datetime) -> None:
    """Check that the URL of a copy's source has a SAS with read permission.

    Raises:
        StorageError: CannotVerifyCopySource, whatever is wrong with the source, as in Azure.
    """
    if "sig" not in source.query:
        raise _unverified("it carries no SAS", 401)
    try:
        check_permission(check_sas(source, keys, "o", now), "r")
    except StorageError as error:
        raise _unverified(error.code, 403) from None


def _check_header(request: HttpRequest, value: str, keys: Sequence[str], now: datetime) -> Grant:
    scheme, _, credentials = value.partition(" ")
    if scheme.lower() == "bearer":
        raise _no_role(request)
    account, colon, signature = credentials.strip().partition(":")
    if scheme != "SharedKey" or not colon or not account:
        raise storage_error("InvalidAuthenticationInfo")
    if account != request.account:
        raise authentication_failed(f"The account '{account}' is not the account of this endpoint.")
    _check_date(request, now)
    _check_signature(request, keys, signature)
    return Grant()


def _check_date(request: HttpRequest, now: datetime) -> None:
    value = request.headers.get("x-ms-date") or request.headers.get("date")
    if value is None:
        raise authentication_failed("The Date or x-ms-date header is mandatory with SharedKey authorization.")
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        raise authentication_failed(f"The Date header in the request is incorrect: '{value}'") from None
    date = date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    if now - date > _MAX_SKEW:
        raise authentication_failed(f"HttpRequest date header too old: '{value}'")
    if date - now > _MAX_SKEW:
        raise authentication_failed(f"HttpRequest date header is in the future: '{value}'")


def _check_signature(request: HttpRequest, keys: Sequence[str], signature: str) -> None:
    signed = SignedRequest(
        request.method, request.raw_path, request.raw_query, tuple(request.headers.items())
    )
    try:
        text = shared_key.string_to_sign(signed, request.account)
    except KeyError as error:
        raise authentication_failed(f"A header's name holds the character {error}.") from None
    if not shared_key.is_signed_by(keys, text, signature):
        raise authentication_failed(
            f"The MAC signature found in the HTTP request '{signature}' is not the same as any computed "
            f"signature. Server used following string to sign: '{text}'."
        )


def _no_role(request: HttpRequest) -> StorageError:
    if "x-ms-file-request-intent" not in request.headers:
        return missing_header("x-ms-file-request-intent")
    return StorageError(
        403,
        "AuthorizationPermissionMismatch",
        "This request is not authorized to perform this operation using this permission. No identity holds "
        "a data role in the local cloud: use the account's key or a SAS instead of an OAuth token.",
    )


def _unauthenticated(request: HttpRequest) -> StorageError:
    challenge = (
        f"Bearer authorization_uri={request.scheme}://{request.host}/common/oauth2/authorize "
        "resource_id=https://storage.azure.com"
    )
    return StorageError(
        401,
        "NoAuthenticationInformation",
        "Server failed to authenticate the request. "
        "Please refer to the information in the www-authenticate header.",
        headers=(("WWW-Authenticate", challenge),),
    )


def _unverified(reason: str, status: int) -> StorageError:
    return StorageError(status, "CannotVerifyCopySource", f"The copy source could not be verified: {reason}.")

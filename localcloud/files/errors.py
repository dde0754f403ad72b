"""The errors of Azure Files: one exception, and functions that return it with Azure's codes and messages.

`StorageError` is the only exception that operations raise for a client's mistake; `service` sends it as XML
with its code in `x-ms-error-code`. Any other exception is a bug, and the response is 500.

Source: "Azure Files error codes" and "Common REST API error codes" of the Azure Storage REST reference; the
wording of lease errors is that of recorded responses of the real service.
"""

from __future__ import annotations

from typing import Final


class StorageError(Exception):
    """The rejection of a request.

    Args:
        status: The HTTP status.
        code: Azure's code, such as `ShareNotFound`.
        message: One sentence, in Azure's words where they are known.
        extra: Further elements of the XML body, such as `HeaderName`.
        headers: Further headers of the response, such as `WWW-Authenticate`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        extra: tuple[tuple[str, str], ...] = (),
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.extra = extra
        self.headers = headers


_KNOWN: Final = {
    "ShareNotFound": (404, "The specified share does not exist."),
    "ShareAlreadyExists": (409, "The specified share already exists."),
    "ResourceNotFound": (404, "The specified resource does not exist."),
    "ParentNotFound": (404, "The specified parent path does not exist."),
    "ResourceAlreadyExists": (409, "The specified resource already exists."),
    "ResourceTypeMismatch": (
        409,
        "The specified resource type does not match the type of the existing resource.",
    ),
    "DirectoryNotEmpty": (409, "The specified directory is not empty."),
    "CannotDeleteFileOrDirectory": (
        409,
        "An attempt has been made to remove a file or directory that can't be deleted.",
    ),
    "ReadOnlyAttribute": (409, "The specified resource is read-only and cannot be modified at this time."),
    "InvalidRange": (416, "The range specified is invalid for the current size of the resource."),
    "Md5Mismatch": (
        400,
        "The MD5 value specified in the request did not match with the MD5 value calculated by the server.",
    ),
    "InvalidMd5": (
        400,
        "The MD5 value specified in the request is invalid. MD5 value must be 128 bits and base64 encoded.",
    ),
    # Spelled as the service spells it.
    "InvalidResourceName": (400, "The specifed resource name contains invalid characters."),
    "OutOfRangeInput": (400, "The specified resource name length is not within the permissible limits."),
    "InvalidUri": (400, "The requested URI does not represent any resource on the server."),
    "InvalidMetadata": (
        400,
        "The metadata specified is invalid. It has characters that are not permitted.",
    ),
    "EmptyMetadataKey": (400, "The key for one of the metadata key-value pairs is empty."),
    "MetadataTooLarge": (400, "The size of the specified metadata exceeds the maximum size permitted."),
    "MissingContentLengthHeader": (411, "The Content-Length header was not specified."),
    "NoPendingCopyOperation": (409, "There is currently no pending copy operation."),
    "CannotVerifyCopySource": (404, "The specified copy source does not exist."),
    "KeyBasedAuthenticationNotPermitted": (
        403,
        "Key based authentication is not permitted on this storage account.",
    ),
    "AuthorizationPermissionMismatch": (
        403,
        "This request is not authorized to perform this operation using this permission.",
    ),
    "AuthorizationResourceTypeMismatch": (
        403,
        "This request is not authorized to perform this operation using this resource type.",
    ),
    "AuthorizationServiceMismatch": (
        403,
        "This request is not authorized to perform this operation using this service.",
    ),
    "AuthorizationProtocolMismatch": (
        403,
        "This request is not authorized to perform this operation using this protocol.",
    ),
    "InvalidAuthenticationInfo": (
        400,
        (
            "The authentication information was not provided in the correct format. "
            "Verify the value of Authorization header."
        ),
    ),
    "LeaseAlreadyPresent": (409, "There is already a lease present."),
}


def storage_error(code: str) -> StorageError:
    """Return the error with this code, with Azure's status and message.

    Raises:
        KeyError: the code is not in the table of errors without parameters.
    """
    status, message = _KNOWN[code]
    return StorageError(status, code, message)


def authentication_failed(detail: str) -> StorageError:
    """Return the 403 for an invalid signature, date or SAS, with the reason."""
    return StorageError(
        403,
        "AuthenticationFailed",
        "Server failed to authenticate the request. "
        "Make sure the value of Authorization header is formed correctly including the signature.",
        (("AuthenticationErrorDetail", detail),),
    )


def missing_header(name: str) -> StorageError:
    """Return the 400 for a missing mandatory header."""
    return StorageError(
        400,
        "MissingRequiredHeader",
        "An HTTP header that's mandatory for this request is not specified.",
        (("HeaderName", name),),
    )


def invalid_header(name: str, value: str) -> StorageError:
    """Return the 400 for a header with a malformed value."""
    return StorageError(
        400,
        "InvalidHeaderValue",
        "The value for one of the HTTP headers is not in the correct format.",
        (("HeaderName", name), ("HeaderValue", value)),
    )


def unsupported_header(name: str) -> StorageError:
    """Return the 400 for a header that the operation does not support."""
    return StorageError(
        400,
        "UnsupportedHeader",
        "One of the HTTP headers specified in the request is not supported.",
        (("HeaderName", name),),
    )


def invalid_parameter(name: str, value: str, reason: str) -> StorageError:
    """Return the 400 for a query parameter with a malformed value."""
    return StorageError(
        400,
        "InvalidQueryParameterValue",
        "Value for one of the query parameters specified in the request URI is invalid.",
        (("QueryParameterName", name), ("QueryParameterValue", value), ("Reason", reason)),
    )


def out_of_range_parameter(name: str, value: str, minimum: int, maximum: int) -> StorageError:
    """Return the 400 for a numeric query parameter outside its limits."""
    return StorageError(
        400,
        "OutOfRangeQueryParameterValue",
        "One of the query parameters specified in the request URI is outside the permissible range.",
        (
            ("QueryParameterName", name),
            ("QueryParameterValue", value),
            ("MinimumAllowed", str(minimum)),
            ("MaximumAllowed", str(maximum)),
        ),
    )


def unsupported_parameter(name: str) -> StorageError:
    """Return the 400 for a query parameter that the operation does not support."""
    return StorageError(
        400,
        "UnsupportedQueryParameter",
        "One of the query parameters specified in the request URI is not supported.",
        (("QueryParameterName", name),),
    )


def body_too_large(maximum: int) -> StorageError:
    """Return the 413 for a body that is longer than the operation allows."""
    return StorageError(
        413,
        "RequestBodyTooLarge",
        "The request body is too large and exceeds the maximum permissible limit.",
        (("MaxLimit", str(maximum)),),
    )


def path_too_long() -> StorageError:
    """Return the 400 for a path over 2,048 characters, or with a name over 255."""
    return StorageError(400, "InvalidFileOrDirectoryPathName", "File or directory path is too long.")


def path_too_deep() -> StorageError:
    """Return the 400 for a path with more than 250 names."""
    return StorageError(
        400, "InvalidFileOrDirectoryPathName", "File or directory path has too many subdirectories."
    )


def not_emulated(what: str) -> StorageError:
    """Return the 501 for something that Azure Files supports and the local cloud does not."""
    return StorageError(501, "NotImplementedByLocalCloud", f"The local cloud does not emulate {what}.")

"""The values that the HTTP layer and the operations exchange.

Operations take a `FileRequest` and return a `FileResponse`. They get no socket, clock or event loop: every
operation is a plain function over the disk, run in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from localcloud.files.errors import storage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from localcloud.files.shares import Share, ShareStore
    from localcloud.files.sidecar import Sidecar

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """The permissions of a request.

    Attributes:
        permissions: The letters of its SAS, or None for an account key, which permits everything.
        is_service_sas: Whether the SAS is for one share or file.
    """

    permissions: str | None = None
    is_service_sas: bool = False

    def allows(self, letters: str) -> bool:
        """Return whether any of these permissions is granted."""
        return self.permissions is None or any(letter in self.permissions for letter in letters)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request to Azure Files, parsed but not authorized yet.

    Attributes:
        method: Upper case.
        scheme: `https` or `http`.
        host: The `Host` header: name and port.
        remote: The client's address, or None if the transport has none.
        raw_path: The path on the request line, without the query.
        raw_query: Name and value pairs, still percent-encoded.
        account: The first name of the path.
        names: The decoded names after the account: the share, then the path in it.
        query: Decoded, by lower-case name.
        headers: By lower-case name, except that the names of metadata keep their case; repeated ones are
            joined.
    """

    method: str
    scheme: str
    host: str
    remote: str | None
    raw_path: str
    raw_query: tuple[tuple[str, str], ...]
    account: str
    names: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def endpoint(self) -> str:
        """The account's File endpoint, with a slash at its end."""
        return f"{self.scheme}://{self.host}/{self.account}/"


@dataclass(frozen=True, slots=True)
class FileStream:
    """A part of an open file to send; the sender closes the descriptor."""

    descriptor: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileResponse:
    """The response of an operation: either a body in memory, or a part of a file."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    stream: FileStream | None = None


@dataclass(frozen=True, slots=True)
class FileRequest:
    """An authorized request for one operation.

    Attributes:
        http: The HTTP request, parsed.
        grant: The client's permissions.
        shares: The shares on the disk.
        share: The share's name, or an empty string for an operation on the account.
        path: The checked path in the share.
        now_ns: The time of the request, in nanoseconds since the epoch.
        body: The request's body, at most 4 MiB.
        check_source: Checks the SAS in the URL of a copy's source (see `authorization.check_copy_source`).
    """

    http: HttpRequest
    grant: Grant
    shares: ShareStore
    share: str
    path: tuple[str, ...]
    now_ns: int
    body: bytes | bytearray
    check_source: Callable[[HttpRequest], None]

    @property
    def account(self) -> str:
        """The storage account's name."""
        return self.http.account

    @property
    def root(self) -> Path:
        """The share's directory on the disk."""
        return self.shares.path(self.account, self.share)

    @property
    def sidecar(self) -> Sidecar:
        """The records of the share's entries."""
        return self.shares.sidecar(self.account, self.share)

    def header(self, name: str) -> str | None:
        """Return a header by its lower-case name, or None."""
        return self.http.headers.get(name)

    def share_properties(self) -> Share:
        """Return the share's properties.

        Raises:
            StorageError: ShareNotFound.
        """
        try:
            return self.shares.read(self.account, self.share)
        except KeyError:
            raise storage_error("ShareNotFound") from None

    def key(self, path: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return the lock key of an entry of the share; without a path, of the request's own."""
        return (self.account, self.share, *(self.path if path is None else path))

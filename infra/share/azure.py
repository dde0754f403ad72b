"""Access the file share over Azure Files: the only module that uses its SDK.

Every request goes through `AzureShare._request`, which retries transient errors and converts the exceptions
of the SDK. A change that others must not see half done is made under a temporary name and then renamed, which
the service does in one step.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Self, TypeVar

from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError
from azure.storage.fileshare import ShareClient, ShareFileClient

from infra.concurrency import DaemonExecutor
from infra.errors import RemoteError, UsageError
from infra.share.errors import ShareAddress, is_tls_failure, is_transient, rejected_error, unreachable_error
from infra.share.protocol import RANGE_BYTES, Advance, Share, ShareEntry, Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from azure.storage.fileshare import DirectoryProperties, FileProperties

    from infra.clock import Clock

_THREADS: Final = 8
_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait between attempts. A replica's file system releases a file within seconds."""

_DIGEST: Final = "fjarrsha256"
"""The metadata of a file that is being uploaded: the digest of its whole content."""

_COPY_POLL_S: Final = 0.5
_NO_PARENT: Final = "ParentNotFound"
_MISSING_CODES: Final = frozenset({"ResourceNotFound", _NO_PARENT})
_NO_SOURCE: Final = (404, "CannotVerifyCopySource")
"""The status and code of a copy whose source does not exist. With another status the code is about access."""


T = TypeVar("T")
R = TypeVar("R")


def connect(address: ShareAddress, account_key: str, ca_bundle: Path | None, clock: Clock) -> AzureShare:
    """Return the client of one share.

    Args:
        address: The share.
        account_key: The account's key, in base64.
        ca_bundle: The certificates to trust; None for the machine's own. If given, no proxy is used, because
            it is given only for the embedded Azure on this machine.
        clock: Waits between attempts.
    """
    client = ShareClient(
        address.endpoint,
        address.share,
        credential={"account_name": address.account, "account_key": account_key},
        retry_total=0,
        connection_verify=True if ca_bundle is None else str(ca_bundle),
        use_env_settings=ca_bundle is None,
    )
    return AzureShare(client, address, clock)


def parse_connection_string(text: str) -> dict[str, str]:
    """Parse a storage account's connection string into its named parts."""
    pairs = (part.partition("=") for part in text.split(";") if "=" in part)
    return {name: value for name, _, value in pairs}


class _Transient:
    """The result of an attempt that failed with a transient error."""


class _MissingError(RemoteError):
    """A file that does not exist, or whose folder does not exist."""


@dataclass(frozen=True, slots=True)
class _Written:
    """The ranges of a file that are on the share already, by their offsets, and what was there before."""

    offsets: frozenset[int]
    resumed_bytes: int = 0


class AzureShare(Share):
    """A share on Azure Files. Safe to use from several threads."""

    def __init__(self, client: ShareClient, address: ShareAddress, clock: Clock) -> None:
        self._client = client
        self._address = address
        self._clock = clock
        self._folders: set[str] = {"", "."}
        self._folders_lock = threading.Lock()

    def __enter__(self) -> Self:
        """Use the share in a `with` block, which closes its connections."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self._client.close()

    def read(self, path: str) -> bytes | None:
        """Return the content of a small file, or None if it does not exist."""
        return self._find(f"read {path}", lambda: bytes(self._file(path).download_file().readall()), None)

    def read_start(self, path: str, size_bytes: int) -> bytes | None:
        """Return the first bytes of a file that is not empty; None if it does not exist."""

        def download() -> bytes:
            return bytes(self._file(path).download_file(offset=0, length=size_bytes).readall())

        return self._find(f"read {path}", download, None)

    def read_all(self, paths: Sequence[str]) -> tuple[bytes | None, ...]:
        """Read small files, several at a time; None for each that does not exist."""
        return self._each(self.read, paths)

    def put(self, path: str, content: bytes) -> None:
        """Write a small file, in one request if its folder is there. A reader may see it half written."""
        uploads = [Upload(path, content)]
        try:
            self._send(uploads, lambda _size: None)
        except _MissingError:
            with self._folders_lock:
                self._folders.discard(str(PurePosixPath(path).parent))
            self.upload(uploads, lambda _size: None)

    def write(self, path: str, content: bytes) -> None:
        """Write a small file in one step."""
        temporary = self._write_temporary(path, content)
        # If the response of a successful rename is lost, the retry does not find the temporary file.
        if not self.move(temporary, path, replace=True) and self.read(path) != content:
            what = f"the temporary file for {path} disappeared from the share before it was renamed"
            raise RemoteError(what, hint="run the same command again")

    def create(self, path: str, content: bytes) -> bool:
        """Create a small file in one step. Return False, without a change, if the file exists."""
        temporary = self._write_temporary(path, content)
        if self.move(temporary, path, replace=False):
            return True
        self.delete(temporary)
        return False

    def entries(self, folder: str) -> tuple[ShareEntry, ...]:
        """List a folder, sorted by name. A folder that does not exist is empty."""

        def request() -> tuple[ShareEntry, ...]:
            items = self._client.get_directory_client(folder).list_directories_and_files(
                include=["timestamps"]
            )
            return tuple(_entry(item) for item in items)

        found = self._find(f"list {folder or 'the root'}", request, ())
        return tuple(sorted(found, key=lambda entry: entry.name))

    def upload(self, uploads: Sequence[Upload], advance: Advance) -> int:
        """Upload files, several ranges of several files at a time. A small file takes one request.

        The service compares each range with its checksum.
        """
        self._make_folders(item.path for item in uploads)
        return self._send(uploads, advance)

    def copy(self, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Copy files on the server (pairs of source and target). Return the sources that do not exist."""
        self._make_folders(target for _, target in pairs)
        found = self._each(lambda pair: self._copy_one(*pair), pairs)
        return tuple(source for (source, _), is_there in zip(pairs, found, strict=True) if not is_there)

    def move(self, source: str, target: str, *, replace: bool) -> bool:
        """Rename a file in one step. Return False if the source is missing or the target must be kept."""
        tries = 0

        def request() -> bool:
            nonlocal tries
            tries += 1
            return rename()

        def rename() -> bool:
            try:
                self._file(source).rename_file(target, overwrite=replace)
            except HttpResponseError as error:
                if _code(error) == _NO_PARENT and self._make_folders([target]):
                    return rename()
                # The code for an existing target is not documented, so check whether the target exists.
                if replace or error.status_code != 409 or self._size(target) is None:  # noqa: PLR2004  # Conflict
                    raise
                return False
            return True

        is_renamed = self._find(f"rename {source} to {target}", request, None)
        if is_renamed is None and tries > 1:
            # If the response of a successful rename is lost, the retry does not find the source.
            return self._request(f"look at {target}", lambda: self._size(target)) is not None
        return bool(is_renamed)

    def delete(self, path: str) -> bool:
        """Delete a file. Return False if it did not exist."""

        def request() -> bool:
            self._file(path).delete_file()
            return True

        return self._find(f"delete {path}", request, missing=False)

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with everything in it, if it exists."""
        files, folders = self._tree(folder)
        self._each(self.delete, files)
        for inner in sorted(folders, key=lambda path: path.count("/"), reverse=True):
            self._find(f"delete {inner}", self._client.get_directory_client(inner).delete_directory, None)
            with self._folders_lock:
                self._folders.discard(inner)

    def _request(self, what: str, call: Callable[[], T]) -> T:
        """Perform a request, and retry it after transient errors."""
        for pause_s in _PAUSES_S:
            error = self._try(what, call, is_last=False)
            if not isinstance(error, _Transient):
                return error
            self._clock.sleep(pause_s)
        last = self._try(what, call, is_last=True)
        assert not isinstance(last, _Transient)  # noqa: S101  # the last attempt returns or raises
        return last

    def _try(self, what: str, call: Callable[[], T], *, is_last: bool) -> T | _Transient:
        try:
            return call()
        except HttpResponseError as error:
            status, code = error.status_code or 0, _code(error)
            if code in _MISSING_CODES or (status, code) == _NO_SOURCE:
                raise _MissingError(f"cannot {what}: it is not there") from error
            if is_last or not is_transient(status, code):
                raise rejected_error(what, self._address, status, code, error.message) from error
        except AzureError as error:
            if is_last or is_tls_failure(str(error)):
                raise unreachable_error(what, self._address, str(error)) from error
        return _Transient()

    def _find(self, what: str, call: Callable[[], T], missing: R) -> T | R:
        """Perform a request; return `missing` if the file or folder does not exist."""
        try:
            return self._request(what, call)
        except _MissingError:
            return missing

    def _each(self, work: Callable[[T], R], items: Sequence[T]) -> tuple[R, ...]:
        """Apply a function to every item, several at a time. After a failure no further item is started."""
        if not items:
            return ()
        with DaemonExecutor(min(_THREADS, len(items)), "share") as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                return tuple(future.result() for future in futures)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _file(self, path: str) -> ShareFileClient:
        return self._client.get_file_client(path)

    def _write_temporary(self, path: str, content: bytes) -> str:
        """Write content under a temporary name in the same folder, and return that path."""
        target = PurePosixPath(path)
        temporary = str(target.with_name(f".{target.name.lstrip('.')}.{secrets.token_hex(4)}.tmp"))
        self.put(temporary, content)
        return temporary

    def _start_file(self, item: Upload, advance: Advance) -> _Written:
        """Create a file with its first range, or find what an interrupted upload left.

        Source: azure-storage-file-share 12.25.0b1, `ShareFileClient.create_file(data=...)`: up to 4 MiB.
        """
        if item.sha256 and item.size_bytes > RANGE_BYTES and (left := self._find_written(item)) is not None:
            advance(left.resumed_bytes)
            return left
        data = _read_range(item, 0) if item.size_bytes else None
        client = self._file(item.path)
        content = {} if data is None else {"data": data, "headers": {"Content-MD5": _checksum(data)}}
        metadata = {_DIGEST: item.sha256} if item.sha256 else None
        self._request(
            f"create {item.path}", lambda: client.create_file(item.size_bytes, metadata=metadata, **content)
        )
        advance(len(data or b""))
        return _Written(frozenset({0}))

    def _find_written(self, item: Upload) -> _Written | None:
        """Return the ranges that an interrupted upload of the same content wrote; None if there was none."""
        client = self._file(item.path)
        found = self._find(f"look at {item.path}", client.get_file_properties, None)
        if found is None or found.size != item.size_bytes or found.metadata.get(_DIGEST) != item.sha256:
            return None
        pieces = self._request(f"list the ranges of {item.path}", client.get_ranges)
        return _whole_ranges([(int(each["start"]), int(each["end"]) + 1) for each in pieces], item.size_bytes)

    def _send_range(self, item: Upload, offset: int) -> int:
        data = _read_range(item, offset)
        client = self._file(item.path)
        self._request(
            f"write {item.path}",
            lambda: client.upload_range(data, offset, len(data), validate_content=True),
        )
        return len(data)

    def _copy_one(self, source: str, target: str) -> bool:
        url = self._file(source).url
        client = self._file(target)
        started = self._find(f"copy {source}", lambda: client.start_copy_from_url(url), None)
        if started is None:
            return False
        status = started.get("copy_status")
        while status == "pending":
            self._clock.sleep(_COPY_POLL_S)
            status = self._request(f"look at {target}", client.get_file_properties).copy.status
        if status != "success":
            raise RemoteError(f"the service did not copy {source} to {target}: {status}", hint="deploy again")
        return True

    def _size(self, path: str) -> int | None:
        try:
            return int(self._file(path).get_file_properties().size)
        except HttpResponseError as error:
            if _code(error) in _MISSING_CODES or error.status_code == 404:  # noqa: PLR2004  # a HEAD has no body to say why
                return None
            raise

    def _send(self, uploads: Sequence[Upload], advance: Advance) -> int:
        """Upload files to folders that are there."""
        found = self._each(lambda item: self._start_file(item, advance), uploads)
        ranges = [
            (item, offset)
            for item, written in zip(uploads, found, strict=True)
            for offset in range(0, item.size_bytes, RANGE_BYTES)
            if offset not in written.offsets
        ]
        self._each(lambda piece: advance(self._send_range(*piece)), ranges)
        return sum(written.resumed_bytes for written in found)

    def _make_folders(self, paths: Iterable[str]) -> bool:
        """Create the folders of these files, each only once in a process. Return whether any was missing."""
        wanted = {str(PurePosixPath(path).parent) for path in paths}
        with self._folders_lock:
            missing = wanted - self._folders
        for depth in sorted({path.count("/") for path in missing}):
            self._each(self._make_folder, [path for path in missing if path.count("/") == depth])
        return bool(missing)

    def _make_folder(self, folder: str) -> None:
        """Create a folder; the outer one first if that is missing, which is rare."""

        def request() -> bool:
            try:
                with suppress(ResourceExistsError):
                    self._client.create_directory(folder)
            except HttpResponseError as error:
                if _code(error) != _NO_PARENT:
                    raise
                return False
            return True

        if not self._request(f"make the folder {folder}", request):
            self._make_folder(str(PurePosixPath(folder).parent))
            self._request(f"make the folder {folder}", request)
        with self._folders_lock:
            self._folders.add(folder)

    def _tree(self, folder: str) -> tuple[list[str], list[str]]:
        """List all files and folders below a folder, which is included."""
        files: list[str] = []
        folders = [folder]
        for entry in self.entries(folder):
            path = f"{folder}/{entry.name}"
            if entry.is_folder:
                inner_files, inner_folders = self._tree(path)
                files += inner_files
                folders += inner_folders
            else:
                files.append(path)
        return files, folders


def _whole_ranges(pieces: Sequence[tuple[int, int]], size_bytes: int) -> _Written:
    """Return which ranges of `RANGE_BYTES` are covered.

    Args:
        pieces: The first byte of each piece that was written, and the byte after its last.
        size_bytes: The size of the file.
    """
    merged: list[tuple[int, int]] = []
    for start, end in sorted(pieces):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    offsets = frozenset(
        offset
        for offset in range(0, size_bytes, RANGE_BYTES)
        if any(start <= offset and min(offset + RANGE_BYTES, size_bytes) <= end for start, end in merged)
    )
    return _Written(offsets, sum(min(RANGE_BYTES, size_bytes - offset) for offset in offsets))


def _checksum(data: bytes) -> str:
    """Return the value of the header Content-MD5, with which the service checks a transfer."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _entry(item: DirectoryProperties | FileProperties) -> ShareEntry:
    if item.is_directory:
        return ShareEntry(item.name, is_folder=True)
    written = item.last_write_time
    modified_s = 0.0 if written is None else written.timestamp()
    return ShareEntry(item.name, is_folder=False, size_bytes=int(item.size), modified_s=modified_s)


def _code(error: HttpResponseError) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def _read_range(item: Upload, offset: int) -> bytes:
    if isinstance(item.source, bytes):
        return item.source[offset : offset + RANGE_BYTES]
    with item.source.open("rb") as file:
        file.seek(offset)
        data = file.read(RANGE_BYTES)
    if not data:
        raise UsageError(f"{item.source} became shorter while it was read", hint="run the same command again")
    return data

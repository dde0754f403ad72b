"""Reach the file share over the Azure Files protocol: the one module that touches its SDK.

Every request goes through `AzureShare._ask`, which tries again what passes by itself, and turns what the SDK
raises into our errors, once. Every change that others may see half done is made under a temporary name and
then renamed, which the service does in one step.
"""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Self, TypeVar

from azure.core.exceptions import AzureError, HttpResponseError, ResourceExistsError
from azure.storage.fileshare import ShareClient, ShareFileClient

from infra.errors import RemoteError, UsageError
from infra.share.errors import ShareAddress, is_tls_failure, is_transient, rejected_error, unreachable_error
from infra.share.protocol import Advance, Share, ShareEntry, Upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from azure.storage.fileshare import DirectoryProperties, FileProperties

    from infra.clock import Clock

RANGE_BYTES: Final = 4 << 20
"""The most that one request may carry. Source: Azure Files REST API, Put Range."""

_THREADS: Final = 8
_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How long to wait between tries. A replica's file system lets go of a file within seconds."""

_COPY_POLL_S: Final = 0.5
_GONE: Final = frozenset({"ResourceNotFound", "ParentNotFound"})
_NO_SOURCE: Final = (404, "CannotVerifyCopySource")
"""What a copy is refused with when its source is not there. With another status it is about access."""


T = TypeVar("T")
R = TypeVar("R")


def connect(address: ShareAddress, account_key: str, ca_bundle: Path | None, clock: Clock) -> AzureShare:
    """Make the client of one share.

    Args:
        address: The share.
        account_key: The account's key, in base64.
        ca_bundle: The certificates to trust; None means the machine's own. With it, proxies are not asked,
        since
            it is given for an Azure on this machine.
        clock: Lets the pauses between tries pass.
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
    """Take a storage account's connection string apart into its named parts."""
    pairs = (part.partition("=") for part in text.split(";") if "=" in part)
    return {name: value for name, _, value in pairs}


class _Passing:
    """Stand for a try that failed in a way that passes."""


class _GoneError(RemoteError):
    """Report that the file, or the folder it should be in, is not there."""


class AzureShare(Share):
    """Hold files on Azure Files. Safe to use from several threads."""

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
        """Return a small file's content, or None if it is not there."""
        return self._find(f"read {path}", lambda: bytes(self._file(path).download_file().readall()), None)

    def write(self, path: str, content: bytes) -> None:
        """Put a small file there in one step."""
        draft = self._draft(path, content)
        # The answer to a rename that worked may be lost on the way; tried again, it finds no draft.
        if not self.move(draft, path, replace=True) and self.read(path) != content:
            what = f"the draft of {path} disappeared from the share before it was in its place"
            raise RemoteError(what, hint="run the same command again")

    def create(self, path: str, content: bytes) -> bool:
        """Put a small file there in one step unless something is there already."""
        draft = self._draft(path, content)
        if self.move(draft, path, replace=False):
            return True
        self.delete(draft)
        return False

    def entries(self, folder: str) -> tuple[ShareEntry, ...]:
        """List a folder by name; one that is not there is empty."""

        def ask() -> tuple[ShareEntry, ...]:
            items = self._client.get_directory_client(folder).list_directories_and_files(
                include=["timestamps"]
            )
            return tuple(_entry(item) for item in items)

        found = self._find(f"list {folder or 'the root'}", ask, ())
        return tuple(sorted(found, key=lambda entry: entry.name))

    def upload(self, uploads: Sequence[Upload], advance: Advance) -> None:
        """Send files, several ranges of several files at a time."""
        self._make_folders(item.path for item in uploads)
        self._each(self._start_file, uploads)
        ranges = [(item, offset) for item in uploads for offset in range(0, item.size_bytes, RANGE_BYTES)]
        self._each(lambda piece: advance(self._send_range(*piece)), ranges)

    def copy(self, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
        """Have the service copy files (pairs of source and target). Returns the sources that are missing."""
        self._make_folders(target for _, target in pairs)
        found = self._each(lambda pair: self._copy_one(*pair), pairs)
        return tuple(source for (source, _), is_there in zip(pairs, found, strict=True) if not is_there)

    def move(self, source: str, target: str, *, replace: bool) -> bool:
        """Rename a file in one step. False if there is no source, or a target that must not be replaced."""
        self._make_folders([target])

        def ask() -> bool:
            try:
                self._file(source).rename_file(target, overwrite=replace)
            except HttpResponseError as error:
                # Which code refuses a target that exists is not documented, so the target itself is asked.
                if replace or error.status_code != 409 or self._size(target) is None:  # noqa: PLR2004  # Conflict
                    raise
                return False
            return True

        return self._find(f"rename {source} to {target}", ask, gone=False)

    def delete(self, path: str) -> bool:
        """Delete a file. False if it was not there."""

        def ask() -> bool:
            self._file(path).delete_file()
            return True

        return self._find(f"delete {path}", ask, gone=False)

    def delete_tree(self, folder: str) -> None:
        """Delete a folder with all that is in it, if it is there."""
        files, folders = self._tree(folder)
        self._each(self.delete, files)
        for inner in sorted(folders, key=lambda path: path.count("/"), reverse=True):
            self._find(f"delete {inner}", self._client.get_directory_client(inner).delete_directory, None)
            with self._folders_lock:
                self._folders.discard(inner)

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        """Perform one request, again while what is in the way passes by itself."""
        for pause_s in _PAUSES_S:
            error = self._try(what, call, is_last=False)
            if not isinstance(error, _Passing):
                return error
            self._clock.sleep(pause_s)
        last = self._try(what, call, is_last=True)
        assert not isinstance(last, _Passing)  # noqa: S101  # the last try returns or raises
        return last

    def _try(self, what: str, call: Callable[[], T], *, is_last: bool) -> T | _Passing:
        try:
            return call()
        except HttpResponseError as error:
            status, code = error.status_code or 0, _code(error)
            if code in _GONE or (status, code) == _NO_SOURCE:
                raise _GoneError(f"cannot {what}: it is not there") from error
            if is_last or not is_transient(status, code):
                raise rejected_error(what, self._address, status, code, error.message) from error
        except AzureError as error:
            if is_last or is_tls_failure(str(error)):
                raise unreachable_error(what, self._address, str(error)) from error
        return _Passing()

    def _find(self, what: str, call: Callable[[], T], gone: R) -> T | R:
        """Perform a request about something that may not be there; then the answer is `gone`."""
        try:
            return self._ask(what, call)
        except _GoneError:
            return gone

    def _each(self, work: Callable[[T], R], items: Sequence[T]) -> tuple[R, ...]:
        """Do the same to many things, several at a time; the first failure stops what has not begun."""
        if not items:
            return ()
        with ThreadPoolExecutor(min(_THREADS, len(items)), thread_name_prefix="share") as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                return tuple(future.result() for future in futures)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _file(self, path: str) -> ShareFileClient:
        return self._client.get_file_client(path)

    def _draft(self, path: str, content: bytes) -> str:
        """Write content under a name that nobody looks at, beside its later place."""
        place = PurePosixPath(path)
        draft = str(place.with_name(f".{place.name.lstrip('.')}.{secrets.token_hex(4)}.tmp"))
        self.upload([Upload(draft, content)], lambda _size: None)
        return draft

    def _start_file(self, item: Upload) -> None:
        self._ask(f"create {item.path}", lambda: self._file(item.path).create_file(item.size_bytes))

    def _send_range(self, item: Upload, offset: int) -> int:
        data = _read_range(item, offset)
        client = self._file(item.path)
        self._ask(f"write {item.path}", lambda: client.upload_range(data, offset, len(data)))
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
            status = self._ask(f"look at {target}", client.get_file_properties).copy.status
        if status != "success":
            raise RemoteError(f"the service did not copy {source} to {target}: {status}", hint="deploy again")
        return True

    def _size(self, path: str) -> int | None:
        try:
            return int(self._file(path).get_file_properties().size)
        except HttpResponseError as error:
            if _code(error) in _GONE or error.status_code == 404:  # noqa: PLR2004  # a HEAD has no body to say why
                return None
            raise

    def _make_folders(self, paths: Iterable[str]) -> None:
        """Make the folders that these files will be in, the outer ones first, each once a process."""
        wanted = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        with self._folders_lock:
            missing = wanted - self._folders
        for depth in sorted({path.count("/") for path in missing}):
            self._each(self._make_folder, [path for path in missing if path.count("/") == depth])

    def _make_folder(self, folder: str) -> None:
        def ask() -> None:
            with suppress(ResourceExistsError):
                self._client.create_directory(folder)

        self._ask(f"make the folder {folder}", ask)
        with self._folders_lock:
            self._folders.add(folder)

    def _tree(self, folder: str) -> tuple[list[str], list[str]]:
        """List all files and all folders below a folder, itself included."""
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

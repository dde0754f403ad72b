"""Read an app's log streams: the console of every replica, and the platform's system log.

`az containerapp logs show` follows one replica only, and ends after some minutes of silence. Therefore az
only supplies the token and the addresses, and the streams are read here: one thread for each stream, which
reconnects whenever the stream ends, without repeating or losing a line that the stream still has.
"""

from __future__ import annotations

import queue
import threading
import time
import urllib.error
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import app_log_token, app_show, replica_list
from infra.az.log_records import Kind, LogRecord, ShownRecords, parse_record
from infra.concurrency import DaemonExecutor
from infra.document import Json, as_object
from infra.errors import RemoteError
from infra.network import FAILURES, open_url

if TYPE_CHECKING:
    import http.client
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from infra.session import Session

MAX_LINES: Final = 300
"""The maximum number of past lines that a stream returns. Source: `tailLines`, 0 to 300."""

_READ_TIMEOUT_S: Final = 90.0
"""A stream that is silent for longer is reopened: Azure drops silent streams without closing them."""

_REFRESH_INTERVAL_S: Final = 60.0
"""How often to list the replicas and to request a new token."""

_MIN_REFRESH_S: Final = 5.0
"""The minimum interval between refreshes when a stream ends, which may mean that there is a new replica."""

_RECONNECT_PAUSE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class LogStream:
    """A log stream: the console of one replica's container, or the app's system log."""

    kind: Kind
    replica: str
    url: str


@dataclass(frozen=True, slots=True)
class LogAccess:
    """The current streams of an app, with the token to open them.

    Attributes:
        token: Valid for about an hour. Secret.
        sources: The streams.
    """

    token: str
    sources: tuple[LogStream, ...]


def read_streams(session: Session, *, tail: int, kinds: tuple[Kind, ...]) -> tuple[LogRecord, ...]:
    """Return the last lines of every stream, ordered by time.

    Args:
        session: The opened stage.
        tail: The number of lines of each stream, at most `MAX_LINES`.
        kinds: Which streams.

    Raises:
        UsageError: The stage is not provisioned.
        RemoteError: Azure does not return the logs.
    """
    access = find_access(session, kinds)
    records = [
        record for source in access.sources for record in _read(source, access.token, tail, session.ca_bundle)
    ]
    return tuple(sorted(records, key=lambda record: record.time))


def follow_streams(session: Session, *, tail: int, kinds: tuple[Kind, ...]) -> Generator[LogRecord]:
    """Yield the last lines of every stream, then each new line as it arrives, until the generator is closed.

    Raises:
        UsageError: The stage is not provisioned.
        RemoteError: Azure does not return the logs.
    """
    lines: queue.SimpleQueue[LogRecord | None] = queue.SimpleQueue()
    followers: dict[LogStream, _Follower] = {}
    ca_bundle = session.ca_bundle
    try:
        while True:
            access = find_access(session, kinds)
            for source in access.sources:
                if source in followers:
                    followers[source].token = access.token
                else:
                    followers[source] = _Follower(source, access.token, ca_bundle, tail, lines)
                    followers[source].start()
            for gone in followers.keys() - set(access.sources):
                followers.pop(gone).stop()
            yield from _until_refresh(lines)
    finally:
        for follower in followers.values():
            follower.stop()


def find_access(session: Session, kinds: tuple[Kind, ...]) -> LogAccess:
    """Request the token and the addresses of an app's streams, with concurrent az commands.

    Raises:
        RemoteError: Azure does not return the address of the logs.
    """
    config, group = session.config(), session.group()
    session.require_cloud()
    with DaemonExecutor(3) as pool:
        shown = pool.submit(session.az.run, app_show(group, config.aca_app_name))
        answered = pool.submit(session.az.run, app_log_token(group, config.aca_app_name))
        listed = pool.submit(session.az.run, replica_list(group, config.aca_app_name))
        properties = as_object(as_object(shown.result()).get("properties"))
        token = as_object(as_object(answered.result()).get("properties")).get("token")
        replicas = listed.result()
    base, found, _ = str(properties.get("eventStreamEndpoint") or "").partition("/subscriptions/")
    if not found:
        raise RemoteError(f"Azure does not tell where the logs of {config.aca_app_name!r} are")
    here = f"{base}{group.id}/containerApps/{config.aca_app_name}"
    consoles = _consoles(here, str(properties.get("latestRevisionName")), replicas)
    sources = (*consoles, LogStream("system", "", f"{here}/eventstream"))
    return LogAccess(str(token), tuple(source for source in sources if source.kind in kinds))


def _consoles(here: str, revision: str, replicas: Json) -> tuple[LogStream, ...]:
    sources = []
    for item in replicas if isinstance(replicas, list) else []:
        replica = str(as_object(item).get("name"))
        containers = as_object(as_object(item).get("properties")).get("containers")
        for container in containers if isinstance(containers, list) else []:
            name = as_object(container).get("name")
            path = f"/revisions/{revision}/replicas/{replica}/containers/{name}/logstream"
            sources.append(LogStream("console", replica, here + path))
    return tuple(sources)


def _read(source: LogStream, token: str, tail: int, ca_bundle: Path | None) -> list[LogRecord]:
    """Return the past lines of a stream; none if its replica has just been removed."""
    try:
        with _open(source, token, tail, ca_bundle, is_followed=False) as lines:
            records = [parse_record(line, source.kind, source.replica) for line in lines]
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 404:  # noqa: PLR2004  # Not Found: the replica was removed meanwhile
                return []
            raise RemoteError(f"the {source.kind} log cannot be read: HTTP {error.code}") from error
    except FAILURES as error:
        raise RemoteError(f"the {source.kind} log cannot be read: {error}") from error
    return [record for record in records if record is not None]


def _open(
    source: LogStream, token: str, tail: int, ca_bundle: Path | None, *, is_followed: bool
) -> http.client.HTTPResponse:
    query = urllib.parse.urlencode({"follow": str(is_followed).lower(), "output": "json", "tailLines": tail})
    address = f"{source.url}?{query}"
    headers = {"Authorization": f"Bearer {token}"}
    return open_url(address, timeout_s=_READ_TIMEOUT_S, headers=headers, ca_bundle=ca_bundle)


class _Follower(threading.Thread):
    """A thread that reads one stream and reopens it whenever it ends."""

    def __init__(
        self,
        source: LogStream,
        token: str,
        ca_bundle: Path | None,
        tail: int,
        lines: queue.SimpleQueue[LogRecord | None],
    ) -> None:
        super().__init__(name=f"{source.kind} log {source.replica}", daemon=True)
        self.token = token
        self._source = source
        self._ca_bundle = ca_bundle
        self._tail = tail
        self._lines = lines
        self._shown = ShownRecords()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stop after the current line, because the replica was removed."""
        self._stopped.set()

    def run(self) -> None:
        """Read until stopped. The end of a stream is not an error: it is reopened."""
        while not self._stopped.is_set():
            # Rejected, disconnected, or silent for too long.
            with suppress(*FAILURES):
                self._read()
            self._lines.put(None)
            self._stopped.wait(_RECONNECT_PAUSE_S)

    def _read(self) -> None:
        with _open(self._source, self.token, self._tail, self._ca_bundle, is_followed=True) as lines:
            self._tail = MAX_LINES  # the next stream repeats lines, which `ShownRecords` skips
            for line in lines:
                self._take(line)
                if self._stopped.is_set():
                    return

    def _take(self, line: bytes) -> None:
        record = parse_record(line, self._source.kind, self._source.replica)
        if record is not None and self._shown.is_new(record):
            self._lines.put(record)


def _until_refresh(lines: queue.SimpleQueue[LogRecord | None]) -> Iterator[LogRecord]:
    """Yield records until the next refresh. None in the queue means that a stream ended."""
    now = time.monotonic()
    earliest, end = now + _MIN_REFRESH_S, now + _REFRESH_INTERVAL_S
    while (left_s := end - time.monotonic()) > 0:
        try:
            record = lines.get(timeout=left_s)
        except queue.Empty:
            return
        if record is None:
            end = earliest
        else:
            yield record

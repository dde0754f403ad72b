"""Sessions of the chat page: signed cookies, and the sessions that were ended before their time.

A session is a signed text with its expiry, its id and the name of the API key. The signing secret is derived
from that key, so a session survives a restart, is valid on every replica, and ends when the key is changed or
removed.
A session that is signed out is recorded as an empty file on the share, where the other replicas, and this one
after a restart, find it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from inference.web.keyring import Keyring

LOGGER: Final = logging.getLogger(__name__)

SESSION_S: Final = 30 * 24 * 3600
RECHECK_S: Final = 15.0
"""After how long the share is asked again whether another replica has ended a session. The share's own cache
adds up to 30 s to it."""

MAX_REMEMBERED: Final = 4096
"""For how many sessions it is remembered when the share was asked."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session.

    Attributes:
        id: 32 hexadecimal digits.
        key_name: The name of the API key that was signed in with.
        expires_at: Seconds since the epoch.
    """

    id: str
    key_name: str
    expires_at: int


def begin_session(key_name: str) -> Session:
    """Return a new session for an API key."""
    return Session(secrets.token_hex(16), key_name, int(time.time()) + SESSION_S)


class SessionSigner:
    """Turns sessions into cookies, and cookies into sessions."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def write(self, session: Session) -> str:
        """Return the value of the session's cookie."""
        payload = f"{session.expires_at}.{session.id}.{_encode(session.key_name.encode())}"
        return f"{payload}.{self._sign(payload, session.key_name)}"

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if it is not ours, or has expired."""
        payload, _, signature = cookie.rpartition(".")
        expiry, _, rest = payload.partition(".")
        session_id, _, encoded_name = rest.partition(".")
        try:
            # An older server signed a session without an id, so it could not be ended: its name is empty.
            name = _decode(encoded_name).decode()
        except ValueError:
            return None
        if not hmac.compare_digest(signature.encode(), self._sign(payload, name).encode()):
            return None
        session = Session(session_id, name, int(expiry))
        return session if session.expires_at > time.time() else None

    def _sign(self, payload: str, key_name: str) -> str:
        """Return the signature of a payload by a key. A key that does not exist has one that nobody knows."""
        secret = self._keyring.derive_secret(key_name, "chat sign-in") or secrets.token_bytes()
        return _encode(hmac.new(secret, payload.encode(), hashlib.sha256).digest())


class EndedSessions:
    """The sessions that were ended before their time.

    Args:
        folder: The folder with a file for each of them. Its parent is the share; if that does not exist, or
            cannot be written, the sessions are remembered by this process only.
        clock: Returns monotonic seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._ended: set[str] = set()
        self._checked_at: OrderedDict[str, float] = OrderedDict()

    async def add(self, session: Session) -> None:
        """End a session, on every replica."""
        self._ended.add(session.id)
        try:
            await asyncio.to_thread(self._write, session.id)
        except OSError as error:
            LOGGER.warning(
                "a sign-out could not be written to %s (%s): the session has ended on this replica only,"
                " until it restarts",
                self._folder,
                error.strerror,
            )

    async def contains(self, session: Session) -> bool:
        """Return whether a session has been ended, here or, some seconds ago, elsewhere."""
        if session.id in self._ended:
            return True
        checked_at = self._checked_at.get(session.id)
        if checked_at is not None and self._clock() - checked_at < RECHECK_S:
            return False
        if await asyncio.to_thread((self._folder / session.id).exists):
            self._ended.add(session.id)
            return True
        self._checked_at[session.id] = self._clock()
        self._checked_at.move_to_end(session.id)
        if len(self._checked_at) > MAX_REMEMBERED:
            self._checked_at.popitem(last=False)
        return False

    def _write(self, session_id: str) -> None:
        """Write the file of a session, and remove those of sessions that have expired by now."""
        self._folder.mkdir(exist_ok=True)
        (self._folder / session_id).touch()
        for file in self._folder.iterdir():
            if file.stat().st_mtime + SESSION_S < time.time():
                file.unlink(missing_ok=True)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

"""The shares on the disk, and their properties.

`root/<account>/<share>` is the directory that a replica mounts; everything else is under
`root/.properties`, a name that no account can have.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import uuid
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from localcloud.files.leases import Lease
from localcloud.files.names import is_share_name
from localcloud.files.sidecar import Locks, Sidecar

if TYPE_CHECKING:
    from pathlib import Path

#: The default quota of a share, and the largest one of a standard account, in GiB.
DEFAULT_QUOTA_GIB: Final = 5120
MAX_QUOTA_GIB: Final = 102400
_PROPERTIES: Final = ".properties"


@dataclass(frozen=True, slots=True)
class Share:
    """The properties of a share. Times are nanoseconds since the epoch; `revision` counts the changes."""

    created_ns: int
    changed_ns: int
    quota_gib: int = DEFAULT_QUOTA_GIB
    access_tier: str = "TransactionOptimized"
    metadata: tuple[tuple[str, str], ...] = ()
    lease: Lease | None = None
    revision: int = 0

    @property
    def etag(self) -> str:
        """The share's ETag, with its quotes."""
        text = f"{self.created_ns}/{self.changed_ns}/{self.revision}"
        return f'"0x{hashlib.blake2b(text.encode(), digest_size=8).hexdigest().upper()}"'


class ShareStore:
    """All shares of all accounts under one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.locks = Locks()

    def path(self, account: str, share: str) -> Path:
        """Return the directory of a share, whether it exists or not."""
        return self._root / account / share

    def exists(self, account: str, share: str) -> bool:
        """Return whether a share exists."""
        return is_share_name(share) and self.path(account, share).is_dir()

    def sidecar(self, account: str, share: str) -> Sidecar:
        """Return the records of a share's entries."""
        return Sidecar(self._record(account, share) / "entries")

    def names(self, account: str) -> list[str]:
        """Return the names of an account's shares, sorted."""
        try:
            entries = list(os.scandir(self._root / account))
        except FileNotFoundError:
            return []
        return sorted(
            entry.name
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and is_share_name(entry.name)
        )

    def read(self, account: str, share: str) -> Share:
        """Return a share's properties.

        Raises:
            KeyError: there is no such share.
        """
        if not self.exists(account, share):
            raise KeyError(share)
        try:
            text = (self._record(account, share) / "share.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            made_ns = self.path(account, share).stat().st_mtime_ns
            return Share(made_ns, made_ns)
        return _from_json(json.loads(text))

    def write(self, account: str, share: str, properties: Share, now_ns: int) -> Share:
        """Store a share's properties, creating it if needed; return them with their new revision and time."""
        stored = replace(properties, changed_ns=now_ns, revision=properties.revision + 1)
        record = self._record(account, share)
        record.mkdir(parents=True, exist_ok=True)
        fresh = record / f".{threading.get_ident()}"
        fresh.write_text(json.dumps(asdict(stored)), encoding="utf-8")
        fresh.replace(record / "share.json")
        self.path(account, share).mkdir(parents=True, exist_ok=True)
        return stored

    def remove(self, account: str, share: str) -> None:
        """Delete a share with its content; do nothing if it does not exist."""
        self._delete(self.path(account, share))
        self._delete(self._record(account, share))

    def remove_account(self, account: str) -> None:
        """Delete every share of an account."""
        self._delete(self._root / account)
        self._delete(self._root / _PROPERTIES / account)

    def _record(self, account: str, share: str) -> Path:
        return self._root / _PROPERTIES / account / share

    def _delete(self, directory: Path) -> None:
        """Move a directory away, then delete it: a partly deleted share is never visible."""
        if not directory.is_dir():
            return
        trash = self._root / _PROPERTIES / ".deleted"
        trash.mkdir(parents=True, exist_ok=True)
        gone = trash / uuid.uuid4().hex
        directory.replace(gone)
        shutil.rmtree(gone)


def _from_json(found: dict[str, Any]) -> Share:
    lease = found.pop("lease")
    metadata = tuple((name, value) for name, value in found.pop("metadata"))
    return Share(**found, metadata=metadata, lease=None if lease is None else Lease(**lease))

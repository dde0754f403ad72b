"""The audit of a share: one file in `audit/` for each change, with who made it, when, and how it ended.

The deploy lock becomes the entry: it has the holder and the time already, and one rename releases the lock
and records the change together. The file's name has the rest, so that a listing of the folder is enough to
know which releases were proven:

    audit/20260102T030405Z.deploy.proven.20260102T030400Z-abcdef01.1f2e3d4c.json
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, get_args

from infra.document import load_json

if TYPE_CHECKING:
    from infra.share.protocol import Share, ShareEntry

FOLDER: Final = "audit"
KEPT: Final = 500
"""How many entries stay on the share."""

Outcome = Literal["done", "proven", "failed", "interrupted"]

_NAME: Final = re.compile(
    r"(?P<time>\d{8}T\d{6}Z)\.(?P<verb>[a-z-]+)\.(?P<outcome>[a-z]+)\.(?P<release>[^.]*)\.[0-9a-f]+\.json"
)
_NO_WORD: Final = re.compile(r"[^a-z]+")
_TIME: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change of a share.

    Attributes:
        time: When it ended.
        verb: What changed it, such as `deploy`.
        outcome: How it ended: `proven` if a release was seen to serve.
        release: The release that it was about; None for a change without one.
        by: Who made it, as `user@host`; empty until the entry's content is read.
        reason: Why it failed; empty otherwise, and until the content is read.
    """

    time: datetime
    verb: str
    outcome: Outcome
    release: str | None
    by: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the entry as JSON values."""
        return {
            "time": self.time.isoformat(timespec="seconds"),
            "verb": self.verb,
            "outcome": self.outcome,
            "release": self.release,
            "by": self.by,
            "reason": self.reason,
        }

    def to_text(self) -> str:
        """Return the entry as a line."""
        time = self.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        parts = (time, self.by, self.verb, self.release or "", self.outcome)
        line = "  ".join(part for part in parts if part)
        return f"{line}: {self.reason}" if self.reason else line


def entry_path(time: datetime, verb: str, outcome: Outcome, release: str | None, token: str) -> str:
    """Return the path of a new entry. `token` makes it unique."""
    stamp, word = time.astimezone(UTC).strftime(_TIME), _NO_WORD.sub("-", verb.casefold())
    return f"{FOLDER}/{stamp}.{word}.{outcome}.{release or ''}.{token}.json"


def list_audit(share: Share) -> tuple[tuple[str, AuditEntry], ...]:
    """Return the path of each entry and what its name says, oldest first. Makes one request."""
    named = ((f"{FOLDER}/{entry.name}", _parse_name(entry)) for entry in share.entries(FOLDER))
    return tuple((path, entry) for path, entry in named if entry is not None)


def read_audit(share: Share, newest: int) -> tuple[AuditEntry, ...]:
    """Return the newest entries with their content, oldest first."""
    found = list_audit(share)[-newest:]
    contents = share.read_all([path for path, _ in found])
    return tuple(_with_content(entry, content) for (_, entry), content in zip(found, contents, strict=True))


def proven_releases(entries: tuple[tuple[str, AuditEntry], ...]) -> tuple[str, ...]:
    """Return the releases that were seen to serve, the newest proof first, each once."""
    proofs = (entry for _, entry in reversed(entries) if entry.outcome == "proven")
    return tuple(dict.fromkeys(entry.release for entry in proofs if entry.release is not None))


def prune_audit(share: Share) -> None:
    """Remove the oldest entries, except the newest `KEPT`."""
    for path, _ in list_audit(share)[:-KEPT]:
        share.delete(path)


def _parse_name(entry: ShareEntry) -> AuditEntry | None:
    match = _NAME.fullmatch(entry.name)
    if match is None or match["outcome"] not in get_args(Outcome):
        return None
    time = datetime.strptime(match["time"], _TIME).replace(tzinfo=UTC)
    outcome: Outcome = match["outcome"]  # type: ignore[assignment]  # compared with the literal above
    return AuditEntry(time, match["verb"], outcome, match["release"] or None)


def _with_content(entry: AuditEntry, content: bytes | None) -> AuditEntry:
    try:
        document = load_json(content or b"")
        by, reason = f"{document['holder']['owner']}@{document['holder']['host']}", document.get("reason", "")
    except (ValueError, KeyError, TypeError):
        return entry  # removed meanwhile, or damaged: its name says enough
    return AuditEntry(entry.time, entry.verb, entry.outcome, entry.release, by, str(reason))

"""Parse the records of an app's log streams, and skip those that were shown already. Pure.

Source: Azure Container Apps logstream and eventstream, one JSON object a line: a console record has
TimeStamp and Log; a system record TimeStamp, Type, RevisionName, ReplicaName, Msg, Reason, Count.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from infra.document import Json, as_object, load_json

Kind = Literal["console", "system"]

_SPACED_TIME: Final = re.compile(r"^(\S+) (\S+) ([+-]\d{4})( \S+)?$")
_CONNECTION_NOTICES: Final = ("Connecting to the container '", "Successfully Connected to container: '")
"""Lines that the platform writes to a console stream whenever it is opened."""

_LONG_FRACTION: Final = re.compile(r"(\.\d{6})\d+")


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of a log.

    Attributes:
        time: When it was written, ISO 8601 in UTC; empty if unknown.
        kind: `console` for a line of the server, `system` for an event of the platform.
        replica: The replica that it concerns; empty if it concerns the whole app.
        text: The line.
    """

    time: str
    kind: Kind
    replica: str
    text: str

    def to_json(self) -> dict[str, object]:
        """Return the record as `--json` prints it."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the record as one line for people, with the unique end of the replica's name."""
        source = self.kind if self.kind == "system" else self.replica.rpartition("-")[2]
        return f"{self.time[:19]} {source:>6} | {self.text}"


def parse_record(line: bytes, kind: Kind, replica: str) -> LogRecord | None:
    """Parse one line of a stream; None for an empty one. A line that is not JSON is plain text."""
    text = line.decode("utf-8", errors="replace").rstrip()
    if not text.strip():
        return None
    try:
        document: Json = load_json(text)
    except ValueError:
        return LogRecord("", kind, replica, text)
    record = as_object(document)
    time = format_time(str(record.get("TimeStamp") or ""))
    if kind == "console":
        line_text = str(record.get("Log", text)).rstrip()
        return (
            None if line_text.startswith(_CONNECTION_NOTICES) else LogRecord(time, kind, replica, line_text)
        )
    event = f"{record.get('Reason', '')}: {record.get('Msg', '')}".strip(": ")
    return LogRecord(time, kind, str(record.get("ReplicaName") or ""), event)


def format_time(text: str) -> str:
    """Return a stream's time as ISO 8601 in UTC, so that times compare as text; empty if it is invalid.

    There are two forms: `2023-07-14T05:11:12.34696` (UTC if it has no offset) and
    `2023-06-27 03:58:10 +0000 UTC`.
    """
    spaced = _SPACED_TIME.match(text)
    plain = f"{spaced[1]}T{spaced[2]}{spaced[3]}" if spaced else text
    try:
        moment = datetime.fromisoformat(_LONG_FRACTION.sub(r"\1", plain))
    except ValueError:
        return ""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="microseconds")


class ShownRecords:
    """The records of one stream that were shown, so that a reconnected stream repeats none."""

    def __init__(self) -> None:
        self._time = ""
        self._texts: set[str] = set()

    def is_new(self, record: LogRecord) -> bool:
        """Return whether a record is new, and record it as shown. Records must come in order of time."""
        if not record.time or record.time > self._time:
            self._time, self._texts = record.time or self._time, {record.text}
            return True
        if record.time == self._time and record.text not in self._texts:
            self._texts.add(record.text)
            return True
        return False

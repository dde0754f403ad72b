"""The document store of the local cloud: one private SQLite file.

A document is a JSON object under a kind (`resource`, `deployment`, `revision`...) and a key. Keys are
resource ids; their case is ignored, as on Azure. When `put` returns, the write survives the end of the
process.
"""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS documents (
  kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, key)
)
"""


class Store:
    """Documents by kind and key, for use from one thread."""

    def __init__(self, path: Path) -> None:
        # The file contains secrets: it must be private before the first byte is written.
        path.touch(mode=0o600, exist_ok=True)
        path.chmod(0o600)
        self._database = sqlite3.connect(path, isolation_level=None)
        # Writes survive a killed daemon; only a power failure may lose the last ones.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute(_SCHEMA)

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return a document, or None."""
        query = "SELECT body FROM documents WHERE kind = ? AND key = ?"
        row = self._database.execute(query, (kind, key.lower())).fetchone()
        return None if row is None else _decoded(row[0])

    def put(self, kind: str, key: str, document: dict[str, Any]) -> None:
        """Write a document atomically; one that existed keeps its place in the order."""
        insert = "INSERT INTO documents VALUES (?, ?, ?)"
        statement = f"{insert} ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body"
        self._database.execute(statement, (kind, key.lower(), json.dumps(document)))

    def delete(self, kind: str, key: str) -> bool:
        """Delete a document; return whether it existed."""
        statement = "DELETE FROM documents WHERE kind = ? AND key = ?"
        return self._database.execute(statement, (kind, key.lower())).rowcount > 0

    def under(self, kind: str, prefix: str = "") -> list[dict[str, Any]]:
        """Return the documents whose key begins with `prefix`, oldest first."""
        # substr, not LIKE: a name may contain LIKE's wildcards.
        query = "SELECT body FROM documents WHERE kind = ? AND substr(key, 1, ?) = ? ORDER BY rowid"
        rows = self._database.execute(query, (kind, len(prefix), prefix.lower())).fetchall()
        return [_decoded(row[0]) for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _decoded(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found

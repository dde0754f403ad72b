"""Thumbs on answers, kept on the share as training data. Off by default: prompts and answers are stored.

A line is one answer in the format that TRL's KTO trainer takes, and its SFT trainer for the lines whose label
is true: `prompt` and `completion` are lists of messages, `label` is whether the answer is good.

Source: TRL documentation, "Dataset formats and types", unpaired preference, conversational.
"""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from inference.web.chat.conversation import messages_for

if TYPE_CHECKING:
    from pathlib import Path

    from inference.web.chat.conversation import Answered

FEEDBACK_FOLDER: Final = "feedback"
"""The folder on the share, with a file for each replica: two could not write to the same one."""


class Feedback:
    """The file with the thumbs that this replica was given.

    Args:
        mount: The share.
        replica: The replica's name.
        release: The release that runs.
    """

    def __init__(self, mount: Path, replica: str, release: str) -> None:
        self._path = mount / FEEDBACK_FOLDER / f"{replica or 'replica'}.jsonl"
        self._release = release
        self._lock = threading.Lock()

    def keep(self, answered: Answered, *, is_good: bool | None, at: datetime | None = None) -> None:
        """Keep a thumb, in place of an earlier one on the same answer; None takes it back. For a thread.

        Raises:
            OSError: If the share cannot be written to.
        """
        with self._lock:
            lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
            kept = [line for line in lines if _id_of(line) != answered.id]
            if is_good is not None:
                line = self._line(answered, is_good=is_good, at=at or datetime.now(UTC))
                # In ASCII: some readers end a line at other characters than a line feed, too.
                kept.append(json.dumps(line))
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A reader never sees half a file.
            temporary = self._path.with_suffix(".partial")
            temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(temporary, self._path)  # noqa: PTH105 - atomic, as its documentation says

    def _line(self, answered: Answered, *, is_good: bool, at: datetime) -> dict[str, Any]:
        messages = messages_for(answered.model, answered.turns, answered.settings.system_prompt)
        return {
            "prompt": [{"role": message.role, "content": message.content} for message in messages],
            "completion": [{"role": "assistant", "content": answered.text}],
            "label": is_good,
            "id": answered.id,
            "model": answered.model,
            "settings": answered.settings.model_dump(),
            "release": self._release,
            "at": at.isoformat(timespec="seconds"),
        }


def _id_of(line: str) -> object:
    """Return the id of a line's answer; None where the line is not of this server."""
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document.get("id") if isinstance(document, dict) else None

"""Keep the answers of an evaluation on disk, one JSON object a line, as they arrive.

An evaluation that was interrupted goes on with the answers that it has. An answer belongs to its question as
it was asked: one whose model, address, messages or options have changed is asked again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, fields
from typing import IO, TYPE_CHECKING, Any, Final, Self

from infra.document import load_json
from infra.evaluation.asking import Answer

if TYPE_CHECKING:
    from pathlib import Path

    from infra.evaluation.asking import Options, Question

ANSWERS_FILE: Final = "answers.jsonl"
KEY: Final = "question"

_NAMES: Final = frozenset(field.name for field in fields(Answer))


def question_key(question: Question, options: Options) -> str:
    """Return a digest of all that decides an answer."""
    parts = (
        question.candidate.name, question.candidate.model, question.candidate.endpoint.url,
        question.example.name, list(question.messages), options.to_json(),
    )  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class AnswerStore:
    """The answers in a folder. A context manager, which holds the file open.

    Attributes:
        path: The file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ANSWERS_FILE
        self._answers: dict[str, Answer] = {}
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Read the file, and open it to be continued."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        for line in text.split("\n"):
            self._read(line)
        self._file = self.path.open("a", encoding="utf-8")
        if text and not text.endswith("\n"):
            self._file.write("\n")  # the last line was cut off
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def get(self, key: str) -> Answer | None:
        """Return the answer to a question, or None. One with an error does not count."""
        answer = self._answers.get(key)
        return None if answer is None or answer.error is not None else answer

    def add(self, key: str, answer: Answer) -> None:
        """Write an answer to the file at once."""
        assert self._file is not None  # noqa: S101 - a mistake of the caller
        self._answers[key] = answer
        self._file.write(json.dumps({KEY: key, **asdict(answer)}, ensure_ascii=False) + "\n")
        self._file.flush()

    def _read(self, line: str) -> None:
        try:
            document: Any = load_json(line)
            key = document.pop(KEY)
            if document.keys() == _NAMES:
                self._answers[key] = Answer(**document)
        except (ValueError, AttributeError, KeyError, TypeError):
            return  # an empty line, or one that was cut off while it was written

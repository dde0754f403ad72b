"""Write the log: a line an event to stderr, as text or as JSON, with the request's id where there is one.

Every logger of the process goes through here, uvicorn's too. What is asked and what is answered is logged by
`PromptLog` alone, which is there only when the settings ask for it. Imports the standard library only.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from inference.service.lifecycle import REQUEST_CONTEXT

if TYPE_CHECKING:
    from inference.errors import ApiError
    from inference.service.lifecycle import RequestLifecycle
    from inference.service.requests import Prompt, TextRequest

CHATTY: Final = ("httpx", "uvicorn.error", "ContinuousBatchingLogger", "vllm", "opentelemetry")
"""Libraries that say more than anybody reads; only their warnings pass."""

LOGGER: Final = logging.getLogger("inference.prompts")


def set_up_logging(log_format: str = "text", level: str = "info") -> None:
    """Send every logger's records to stderr.

    Args:
        log_format: `text` or `json`.
        level: From which level on the server's own records pass. Libraries say what they say at `info`, even
            at `debug`: some would quote requests.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    number = getattr(logging, level.upper())
    logging.basicConfig(level=max(number, logging.INFO), handlers=[handler], force=True)
    logging.getLogger("inference").setLevel(number)
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(number, logging.WARNING))


class TextFormatter(logging.Formatter):
    """Format a record for people: time in UTC, level, logger, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime


class JsonFormatter(logging.Formatter):
    """Format a record for machines: one JSON object on one line.

    What a record carries as `fields` (`extra={"fields": {...}}`) becomes members of the object.
    """

    def __init__(self) -> None:
        super().__init__()
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        document: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        context = REQUEST_CONTEXT.get()
        if context is not None:
            document["request_id"] = context.request_id
            if context.trace_id is not None:
                document["trace_id"] = context.trace_id
        document |= getattr(record, "fields", {})
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False, default=str)


class PromptLog:
    """Log what is asked and what is answered. An observer of the service, for who has asked for it."""

    def __init__(self) -> None:
        self._answers: dict[RequestLifecycle, list[str]] = {}

    def on_queued(self, lifecycle: RequestLifecycle) -> None:
        """Begin to listen."""
        self._answers[lifecycle] = []

    def on_admitted(self, lifecycle: RequestLifecycle) -> None:
        """Note nothing."""

    def on_tokens(self, lifecycle: RequestLifecycle, tokens: int, gap_s: float | None, text: str) -> None:
        """Keep what was said."""
        del tokens, gap_s
        self._answers[lifecycle].append(text)

    def on_finished(self, lifecycle: RequestLifecycle) -> None:
        """Log question and answer."""
        request = lifecycle.request
        fields = {
            "request_id": request.request_id,
            "key": request.client,
            "model": request.model,
            "prompt": _readable(request.prompt),
            "answer": "".join(self._answers.pop(lifecycle)),
        }
        LOGGER.info(
            "request %s asked %s and was answered %s",
            request.request_id,
            json.dumps(fields["prompt"], ensure_ascii=False),
            json.dumps(fields["answer"], ensure_ascii=False),
            extra={"fields": fields},
        )

    def on_rejected(self, request: TextRequest, error: ApiError) -> None:
        """Note nothing: the request's own line has it."""


def _readable(prompt: Prompt) -> object:
    """Return a prompt as JSON takes it: turns, a text, or token ids."""
    messages = getattr(prompt, "messages", None)
    if messages is not None:
        return [{"role": message.role, "content": message.content} for message in messages]
    text = getattr(prompt, "text", None)
    return text if text is not None else list(getattr(prompt, "token_ids", ()))

"""Logs: a line per event on stderr, as text or as JSON, with the id of the request that it is about.

All loggers of the process are configured here, including uvicorn's. Prompts and answers are logged by
`PromptLog` only, which is used if the settings ask for it. Imports the standard library only.
"""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from inference.service.lifecycle import REQUEST_CONTEXT

if TYPE_CHECKING:
    from inference.errors import ApiError, SettingsError
    from inference.service.lifecycle import RequestLifecycle
    from inference.service.requests import Prompt, TextRequest

VERBOSE_LOGGERS: Final = ("httpx", "uvicorn.error", "ContinuousBatchingLogger", "vllm", "opentelemetry")
"""The loggers of which only warnings and errors are logged."""

LOGGER: Final = logging.getLogger("inference.prompts")


def set_up_logging(log_format: str = "text", level: str = "info") -> None:
    """Send every logger's records to stderr.

    Args:
        log_format: `text` or `json`.
        level: The lowest level of the server's own records. Libraries log from `info` on even at `debug`,
            because some of them would quote requests.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    number = getattr(logging, level.upper())
    logging.basicConfig(level=max(number, logging.INFO), handlers=[handler], force=True)
    logging.getLogger("inference").setLevel(number)
    for name in VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def log_unusable(logger: logging.Logger, error: SettingsError) -> None:
    """Log everything that is wrong with the settings, without a traceback, which would bury it."""
    for problem in error.problems:
        logger.error("%s", problem)
    logger.error("the settings cannot be used")


class TextFormatter(logging.Formatter):
    """A formatter for people: time in UTC, level, logger, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime


class JsonFormatter(logging.Formatter):
    """A formatter for machines: one JSON object per line.

    A record's `fields` (`extra={"fields": {...}}`) become members of the object.
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
    """An observer of the service that logs prompts and answers."""

    def __init__(self) -> None:
        self._answers: dict[RequestLifecycle, list[str]] = {}

    def on_queued(self, lifecycle: RequestLifecycle) -> None:
        """Begin to collect the answer."""
        self._answers[lifecycle] = []

    def on_admitted(self, lifecycle: RequestLifecycle) -> None:
        """Do nothing."""

    def on_tokens(self, lifecycle: RequestLifecycle, tokens: int, gap_s: float | None, text: str) -> None:
        """Collect a part of the answer."""
        del tokens, gap_s
        self._answers[lifecycle].append(text)

    def on_finished(self, lifecycle: RequestLifecycle) -> None:
        """Log the prompt and the answer."""
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
        """Do nothing: the access log has the error."""


def _readable(prompt: Prompt) -> object:
    """Return a prompt as a JSON value: messages, a text, or token ids."""
    messages = getattr(prompt, "messages", None)
    if messages is not None:
        return [{"role": message.role, "content": message.content} for message in messages]
    text = getattr(prompt, "text", None)
    return text if text is not None else list(getattr(prompt, "token_ids", ()))

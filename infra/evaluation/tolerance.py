"""Ask servers that take other fields than OpenAI's, limit the rate of requests, or fail for a moment.

A field without which the answer is the same, or whose newer name is known, is left out or renamed once a
server has refused it by its name. Everything else that a server refuses is an error.

Source: OpenAI API reference, "Create chat completion" (`max_tokens`, `max_completion_tokens`), "Error codes"
and "Rate limits"; RFC 9110, section 10.2.3 (`Retry-After`).
"""
# ruff: noqa: PLC0415 - importing the client takes most of a second, and only an evaluation needs it

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_RETRIES: Final = 4
"""How often a request is repeated that the server failed to answer."""

MAX_LIMITED_RETRIES: Final = 60
"""How often one is repeated that came too early for the server's limit: an evaluation has time."""

FIRST_WAIT_S: Final = 0.5
MAX_WAIT_S: Final = 30.0
MAX_NAMED_WAIT_S: Final = 120.0
"""The longest wait that a server may ask for."""

RENAMED: Final = {"max_tokens": "max_completion_tokens"}
"""Newer names of fields."""

OPTIONAL: Final = {
    "stream_options": "the numbers of tokens are unknown",
    "seed": "another run may give other answers",
    "temperature": "the answers are sampled as the server likes",
}
"""Fields that can be left out, with what follows from that."""

REFUSAL: Final = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|extra|not (?:allowed|permitted)",
    re.IGNORECASE,
)
TRANSIENT: Final = frozenset({408, 409})
TOO_MANY: Final = 429
SERVER_ERROR: Final = 500
INVALID: Final = frozenset({400, 422})


class Dialect:
    """The fields that one endpoint takes, as far as its errors have named them.

    Args:
        notify: Is called with what follows from a field that is left out.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._refused: set[str] = set()

    def adapt(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request's body in the fields that the endpoint takes."""
        kept = {name: value for name, value in body.items() if name not in self._refused}
        renamed = {RENAMED[name]: body[name] for name in self._refused & RENAMED.keys() & body.keys()}
        return kept | renamed

    def learn(self, error: Exception, body: Mapping[str, Any]) -> bool:
        """Return whether an error refuses a field of a body that can be left out or renamed; it is then."""
        from openai import APIStatusError

        if not isinstance(error, APIStatusError) or error.status_code not in INVALID:
            return False
        # The client's own text leaves out a body of another form than OpenAI's, such as FastAPI's.
        text = f"{error} {error.body}"
        known = [name for name in (*RENAMED, *OPTIONAL) if name in body]
        named = [name for name in known if error.param == name or re.search(rf"\b{name}\b", text)]
        if not named or not REFUSAL.search(text):
            return False
        for name in named:
            # Requests that were sent meanwhile are refused for the same field.
            if name in OPTIONAL and name not in self._refused:
                self._notify(f"takes no '{name}': {OPTIONAL[name]}")
            self._refused.add(name)
        return True


def find_wait_s(error: Exception, failures: int) -> float | None:
    """Return how long to wait before a failed request is repeated, in seconds; None if that cannot help.

    Args:
        error: What the request failed with.
        failures: How often it has failed before.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    named, is_limited = "", False
    if isinstance(error, APIStatusError):
        headers, status = error.response.headers, error.status_code
        is_limited = status == TOO_MANY and error.code != "insufficient_quota"
        if headers.get("x-should-retry") == "false":
            return None
        if not is_limited and status not in TRANSIENT and status < SERVER_ERROR:
            return None
        named = headers.get("retry-after", "")
    elif not isinstance(error, APIConnectionError) or isinstance(error, APITimeoutError):
        return None
    if failures >= (MAX_LIMITED_RETRIES if is_limited else MAX_RETRIES):
        return None
    return _read_seconds(named) or min(FIRST_WAIT_S * 2 ** min(failures, 16), MAX_WAIT_S)


def _read_seconds(named: str) -> float | None:
    """Return the seconds that a `Retry-After` names; None for a date, or anything else."""
    try:
        seconds = float(named)
    except ValueError:
        return None
    return min(seconds, MAX_NAMED_WAIT_S) if math.isfinite(seconds) and seconds > 0 else None

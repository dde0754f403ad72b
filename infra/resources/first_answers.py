"""Ask the models of a stage one question, to show what they answer."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.document import as_object, as_objects, load_json, object_at
from infra.network import open_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from infra.document import Json

_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """A model's answer to the question.

    Attributes:
        model: The model's name in the API.
        answer: The text, without white space around it; it ends in `…` if the limit cut it off.
        seconds: How long it took.
    """

    model: str
    answer: str
    seconds: float


def ask_models(
    endpoint: str, key: str | None, models: Sequence[str], question: str, *, max_tokens: int
) -> Iterator[FirstAnswer]:
    """Ask each model the question, one after the other, with the likeliest token at each step.

    Args:
        endpoint: The address of the server.
        key: An API key; None if the server needs none.
        models: The models' names in the API.
        question: The user's message.
        max_tokens: The limit of an answer.

    Raises:
        OSError: The server cannot be reached, or answered with an error.
        ValueError: It answered with something else than an answer.
    """
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    for model in models:
        message = {"role": "user", "content": question}
        body = {"model": model, "messages": [message], "max_tokens": max_tokens, "temperature": 0}
        started = time.monotonic()
        url, data = f"{endpoint}/v1/chat/completions", json.dumps(body).encode()
        with open_url(url, timeout_s=_TIMEOUT_S, headers=headers, data=data) as response:
            text = _text_of(load_json(response.read()))
        yield FirstAnswer(model, text, round(time.monotonic() - started, 2))


def _text_of(document: Json) -> str:
    choices = as_objects(as_object(document).get("choices"))
    choice = choices[0] if choices else {}
    content = object_at(choice, "message").get("content")
    if not isinstance(content, str):
        raise ValueError("the server answered without a message")  # noqa: TRY004  # a wrong value, not a bug
    return content.strip() + (" …" if choice.get("finish_reason") == "length" else "")

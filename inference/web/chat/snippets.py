"""A request of the page as code that sends it to the API: for curl, Python and JavaScript."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any, Final

from inference.web.chat.conversation import messages_for

if TYPE_CHECKING:
    from inference.web.chat.conversation import Answered

PYTHON: Final = """import os

from openai import OpenAI

client = OpenAI(base_url={url}, api_key=os.environ["OPENAI_API_KEY"])

answer = client.chat.completions.create(
{fields}
)
print(answer.choices[0].message.content)
"""

JAVASCRIPT: Final = """import OpenAI from "openai";

const client = new OpenAI({{ baseURL: {url}, apiKey: process.env.OPENAI_API_KEY }});

const answer = await client.chat.completions.create({body});
console.log(answer.choices[0].message.content);
"""


def make_snippets(answered: Answered, origin: str) -> dict[str, str]:
    """Return the request that led to an answer, as code in each language and as JSON.

    Args:
        answered: The answer.
        origin: The server's address, such as `https://example.com`.
    """
    body = request_body(answered)
    url = f"{origin}/v1"
    return {
        "curl": _curl(url, body),
        "python": _python(url, body),
        "javascript": JAVASCRIPT.format(url=json.dumps(url), body=_dump(body)),
        "json": _dump(body),
    }


def request_body(answered: Answered) -> dict[str, Any]:
    """Return the body of the API's request for the same answer."""
    settings = answered.settings
    messages = messages_for(answered.model, answered.turns, settings.system_prompt)
    body: dict[str, Any] = {
        "model": answered.model,
        "messages": [{"role": message.role, "content": message.content} for message in messages],
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "max_tokens": settings.max_tokens,
    }
    return body if settings.seed is None else body | {"seed": settings.seed}


def _curl(url: str, body: dict[str, Any]) -> str:
    lines = (
        f"curl {shlex.quote(url + '/chat/completions')}",
        '-H "Authorization: Bearer $OPENAI_API_KEY"',
        "-H 'Content-Type: application/json'",
        f"-d {shlex.quote(_dump(body))}",
    )
    return " \\\n  ".join(lines) + "\n"


def _python(url: str, body: dict[str, Any]) -> str:
    # Texts and numbers look the same in JSON and in Python.
    fields = (f"{name}={_dump(value)}".replace("\n", "\n    ") for name, value in body.items())
    return PYTHON.format(url=json.dumps(url), fields="\n".join(f"    {each}," for each in fields))


def _dump(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)

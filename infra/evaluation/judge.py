"""Let another model score answers, from 1 to 5.

The judge sees the conversation, the expected answer if there is one, and the answer; it does not learn which
model answered. It explains before it scores, which makes the scores better.

Source: L. Zheng et al., "Judging LLM-as-a-judge with MT-Bench and Chatbot Arena" (2023), sections 3 and 4.
"""
# ruff: noqa: PLC0415 - importing the client takes most of a second, and only an evaluation needs it

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from infra.document import load_json
from infra.evaluation.asking import Endpoint, describe, make_client

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openai import AsyncOpenAI

    from infra.evaluation.asking import Answer
    from infra.evaluation.examples import Example

BEST: Final = 5
MAX_TOKENS: Final = 1024
INSTRUCTIONS: Final = """\
You judge the answer of an assistant. First explain in a few sentences what is right and what is wrong with \
it, then score it from 1 to 5: 5 is entirely right and helpful, 3 is partly right, 1 is wrong or useless. \
Neither length nor style counts. If there is an expected answer, what matters is whether the answer means \
the same. Reply with JSON alone: {"reason": "...", "score": 1 to 5}"""

SCHEMA: Final = {
    "type": "json_schema",
    "json_schema": {
        "name": "judgement", "strict": True, "schema": {
            "type": "object",
            "properties": {
                "reason": {"type": "string"}, "score": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
            },
            "required": ["reason", "score"], "additionalProperties": False,
        },
    },
}  # fmt: skip

_SCORE: Final = re.compile(r'"?score"?[^\d-]{0,5}([1-5])(?!\d)', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that scores answers.

    Attributes:
        model: Its name at the endpoint.
        endpoint: Where it is.
        instructions: What it is told; it replies with JSON that has `score`.
    """

    model: str
    endpoint: Endpoint
    instructions: str = INSTRUCTIONS


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's opinion of one answer.

    Attributes:
        score: Between 0 and 1; None if the judge gave none.
        reason: The judge's reason, or why there is no score.
    """

    score: float | None
    reason: str


async def judge_all(
    judge: Judge,
    answers: Sequence[tuple[Example, Answer]],
    concurrency: int,
    advance: Callable[[], None],
) -> tuple[Judgement, ...]:
    """Return the judgements of answers, in their order; `advance` is called after each."""
    limit = asyncio.Semaphore(concurrency)
    async with make_client(judge.endpoint) as client:

        async def judge_one(example: Example, answer: Answer) -> Judgement:
            async with limit:
                judgement = await _judge(client, judge, example, answer)
            advance()
            return judgement

        return tuple(await asyncio.gather(*(judge_one(*pair) for pair in answers)))


def write_question(example: Example, answer: Answer) -> str:
    """Return what the judge is asked about an answer."""
    conversation = "\n\n".join(f"{each['role']}: {_text_of(each)}" for each in example.messages)
    expected = "".join(f"<expected>\n{text}\n</expected>\n\n" for text in example.expected)
    return f"<conversation>\n{conversation}\n</conversation>\n\n{expected}<answer>\n{answer.text}\n</answer>"


def read_judgement(text: str) -> Judgement:
    """Read a judge's reply: JSON, or a text in which the score is named."""
    try:
        document = load_json(text[text.index("{") : text.rindex("}") + 1])
        score, reason = document["score"], str(document.get("reason", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        score, reason = None, text
    if score not in range(1, BEST + 1):
        found = _SCORE.search(text)
        if found is None:
            return Judgement(None, f"the judge gave no score: {text[:200]}")
        score = int(found.group(1))
    return Judgement((score - 1) / (BEST - 1), reason)


async def _judge(client: AsyncOpenAI, judge: Judge, example: Example, answer: Answer) -> Judgement:
    import openai

    body: dict[str, Any] = {
        "model": judge.model,
        "messages": [
            {"role": "system", "content": judge.instructions},
            {"role": "user", "content": write_question(example, answer)},
        ],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    try:
        try:
            reply = await client.chat.completions.create(**body | {"response_format": SCHEMA})
        except openai.BadRequestError:  # the server cannot hold an answer to a schema
            reply = await client.chat.completions.create(**body)
        return read_judgement(reply.choices[0].message.content or "")
    except openai.OpenAIError as error:
        return Judgement(None, f"the judge could not be asked: {describe(error)}")
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        # The client takes what the server sends for what it should be.
        return Judgement(None, f"the judge sent what is no answer: {error}")


def _text_of(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)

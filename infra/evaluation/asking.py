"""Get the answers of models to examples, a number of them at once.

The answers are streamed, so that the time to the first token is known. A request that fails is repeated by
the client where that can help; one that goes on to fail is an answer with an error, and the others go on.
"""
# ruff: noqa: PLC0415 - importing the client takes most of a second, and only an evaluation needs it

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from infra.errors import RemoteError, ToolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from openai import AsyncOpenAI

    from infra.evaluation.examples import Example, Message

MAX_RETRIES: Final = 4
TIMEOUT_S: Final = 300.0
MAX_LISTED: Final = 4


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server.

    Attributes:
        url: Its address, with `/v1`.
        api_key: The key; empty if it needs none.
    """

    url: str
    api_key: str = field(default="", repr=False)


def _unchanged(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return messages


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that is evaluated.

    Attributes:
        name: Its name in the results.
        model: Its name at the endpoint.
        endpoint: Where it is.
        prepare: Makes the messages that it gets from those of an example, such as instructions before them.
    """

    name: str
    model: str
    endpoint: Endpoint
    prepare: Callable[[tuple[Message, ...]], tuple[Message, ...]] = _unchanged


@dataclass(frozen=True, slots=True)
class Options:
    """The fields of every request."""

    max_tokens: int = 512
    temperature: float = 0.0
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a request's body."""
        seed = {} if self.seed is None else {"seed": self.seed}
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, **seed}


@dataclass(frozen=True, slots=True)
class Question:
    """One request: an example, as one of the models gets it."""

    candidate: Candidate
    example: Example

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return the messages of the request."""
        return self.candidate.prepare(self.example.messages)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered.

    Attributes:
        candidate: The candidate's name.
        example: The example's name.
        text: The answer, without reasoning.
        finish_reason: Why it ended, such as `stop` or `length`.
        error: Why there is none; None if there is.
        time_to_first_token_s: From the request to the first text; None if there was none.
        duration_s: From the request to the end of the answer.
        prompt_tokens: As the server counted; 0 if it did not.
        completion_tokens: Likewise.
    """

    candidate: str
    example: str
    text: str = ""
    finish_reason: str | None = None
    error: str | None = None
    time_to_first_token_s: float | None = None
    duration_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


async def ask_all(
    questions: Sequence[Question],
    options: Options,
    concurrency: int,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[tuple[Question, Answer]]:
    """Ask all questions, and yield each with its answer as it arrives.

    Args:
        questions: What to ask.
        options: The fields of the requests.
        concurrency: The most requests at once.
        clock: The time, in seconds.
    """
    endpoints = {question.candidate.endpoint for question in questions}
    clients = {endpoint: make_client(endpoint) for endpoint in endpoints}
    queue = iter(questions)
    done: asyncio.Queue[tuple[Question, Answer]] = asyncio.Queue()

    async def work() -> None:
        for question in queue:
            client = clients[question.candidate.endpoint]
            done.put_nowait((question, await _ask(client, question, options, clock)))

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(questions)))]
    try:
        for _ in questions:
            yield await done.get()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for client in clients.values():
            await client.close()


async def list_models(endpoint: Endpoint) -> tuple[str, ...]:
    """Return the models of a server, base models before the adapters on them.

    Raises:
        RemoteError: The server does not list them.
    """
    import openai

    async with make_client(endpoint) as client:
        try:
            models = [model async for model in client.models.list()]
        except openai.OpenAIError as error:
            raise RemoteError(f"{endpoint.url} does not list its models: {describe(error)}") from error
    return tuple(model.id for model in sorted(models, key=lambda each: bool(getattr(each, "parent", None))))


def make_client(endpoint: Endpoint) -> AsyncOpenAI:
    """Return a client for a server.

    Raises:
        ToolError: The client's package is not installed.
    """
    try:
        from openai import AsyncOpenAI
    except ImportError as error:
        raise ToolError(
            "the package openai is not installed", hint="python3 install.py --extra local"
        ) from error
    return AsyncOpenAI(
        base_url=endpoint.url, api_key=endpoint.api_key or "none", max_retries=MAX_RETRIES, timeout=TIMEOUT_S
    )


def describe(error: Exception) -> str:
    """Return an error of the client in one line, with the server's message if there is one."""
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    cause = error.__cause__
    text = str(message or error) + (f" ({cause})" if message is None and cause is not None else "")
    return " ".join(text.split())


async def _ask(
    client: AsyncOpenAI, question: Question, options: Options, clock: Callable[[], float]
) -> Answer:
    import openai

    text: list[str] = []
    first_s: float | None = None
    finish_reason: str | None = None
    usage: Any = None
    error: str | None = None
    body: dict[str, Any] = {
        "model": question.candidate.model, "messages": list(question.messages), **options.to_json(),
    }  # fmt: skip
    started_s = clock()
    try:
        stream: Any = await client.chat.completions.create(
            **body, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices[:1]:
                if first_s is None and _has_text(choice.delta):
                    first_s = clock()
                text.append(choice.delta.content or "")
                finish_reason = choice.finish_reason or finish_reason
    except openai.OpenAIError as failure:
        error = describe(failure)
    return Answer(
        question.candidate.name, question.example.name, "".join(text), finish_reason, error,
        None if first_s is None else first_s - started_s, clock() - started_s,
        usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0,
    )  # fmt: skip


def _has_text(delta: Any) -> bool:  # noqa: ANN401 - servers have fields that the client does not type
    reasoning = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
    return bool(delta.content or reasoning)

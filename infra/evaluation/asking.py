"""Get the answers of models to examples, a number of them at once.

The answers are streamed, so that the time to the first token is known. A request that fails is repeated where
that can help; one that goes on to fail is an answer with an error, and the others go on.
"""
# ruff: noqa: PLC0415 - importing the client takes most of a second, and only an evaluation needs it

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from infra.errors import RemoteError, ToolError, UsageError
from infra.evaluation.tolerance import MAX_RETRIES, Dialect, find_wait_s
from infra.network import is_on_this_machine, tls_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from openai import AsyncOpenAI

    from infra.evaluation.examples import Example, Message

    Sleep = Callable[[float], Awaitable[object]]

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


async def ask_all(  # noqa: PLR0913 - the last three are for the caller's side
    questions: Sequence[Question],
    options: Options,
    concurrency: int,
    clock: Callable[[], float] = time.monotonic,
    *,
    sleep: Sleep = asyncio.sleep,
    notify: Callable[[str], None] = lambda _: None,
) -> AsyncGenerator[tuple[Question, Answer], None]:
    """Ask all questions, and yield each with its answer as it arrives.

    Args:
        questions: What to ask.
        options: The fields of the requests.
        concurrency: The most requests at once.
        clock: The time, in seconds.
        sleep: Waits before a request is repeated.
        notify: Is called with what the user should know of an endpoint.
    """
    endpoints = {question.candidate.endpoint for question in questions}
    askers = {endpoint: _Asker(endpoint, options, clock, sleep, notify) for endpoint in endpoints}
    queue = iter(questions)
    done: asyncio.Queue[tuple[Question, Answer] | Exception] = asyncio.Queue()

    async def work() -> None:
        for question in queue:
            try:
                answer = await askers[question.candidate.endpoint].ask(question)
            except Exception as error:  # noqa: BLE001 - raised where the answers are read
                done.put_nowait(error)
                return
            done.put_nowait((question, answer))

    workers = [asyncio.create_task(work()) for _ in range(min(concurrency, len(questions)))]
    try:
        for _ in questions:
            found = await done.get()
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for asker in askers.values():
            await asker.close()


async def list_models(endpoint: Endpoint) -> tuple[str, ...]:
    """Return the models of a server, base models before the adapters on them, each under one name.

    Raises:
        RemoteError: The server does not list them.
    """
    import openai

    async with make_client(endpoint) as client:
        try:
            models = [model async for model in client.models.list()]
        except openai.OpenAIError as error:
            raise RemoteError(f"{endpoint.url} does not list its models: {describe(error)}") from error
    versions = {model.id: getattr(model, "version", None) for model in models}
    once = (
        # The current version of an adapter is listed under its bare name, too.
        model
        for model in models
        if versions[model.id] is None or versions.get(model.id.rpartition("@")[0]) != versions[model.id]
    )
    return tuple(model.id for model in sorted(once, key=lambda each: bool(getattr(each, "parent", None))))


def make_client(endpoint: Endpoint, max_retries: int = MAX_RETRIES) -> AsyncOpenAI:
    """Return a client for a server.

    Raises:
        ToolError: The client's package is not installed.
        UsageError: The certificates to trust cannot be read.
    """
    try:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    except ImportError as error:
        raise ToolError(
            "the package openai is not installed", hint="python3 install.py --extra local"
        ) from error
    tls, uses_proxies = trusted_certificates(), not is_on_this_machine(endpoint.url)
    return AsyncOpenAI(
        base_url=endpoint.url,
        api_key=endpoint.api_key or "none",
        max_retries=max_retries,
        timeout=TIMEOUT_S,
        http_client=DefaultAsyncHttpxClient(verify=tls, trust_env=uses_proxies),
    )


def trusted_certificates() -> ssl.SSLContext:
    """Return the certificates that clients trust, as for every request of the pipeline.

    Raises:
        UsageError: They cannot be read.
    """
    try:
        return tls_context()
    except OSError as error:
        raise UsageError(str(error), hint="correct REQUESTS_CA_BUNDLE") from error


def describe(error: Exception) -> str:
    """Return an error of the client in one line, with the server's message if there is one."""
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    if message is None and body:
        message = f"{error}: {body}"  # a body of another form than OpenAI's, which the client leaves out
    cause = error.__cause__
    text = str(message or error) + (f" ({cause})" if message is None and cause is not None else "")
    return " ".join(text.split())


class _Asker:
    """Asks one endpoint.

    Args:
        endpoint: The server.
        options: The fields of the requests.
        clock: The time, in seconds.
        sleep: Waits before a request is repeated.
        notify: Is called with what the user should know of the endpoint.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        options: Options,
        clock: Callable[[], float],
        sleep: Sleep,
        notify: Callable[[str], None],
    ) -> None:
        # Requests are repeated here, so that no wait counts as the server's time.
        self._client = make_client(endpoint, max_retries=0)
        self._dialect = Dialect(lambda note: notify(f"{endpoint.url} {note}"))
        self._options = options
        self._clock = clock
        self._sleep = sleep

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, question: Question) -> Answer:
        """Ask a question, as often as that can help. The times are those of the last request."""
        body = {
            "model": question.candidate.model, "messages": list(question.messages), "stream": True,
            "stream_options": {"include_usage": True}, **self._options.to_json(),
        }  # fmt: skip
        failures = 0
        while True:
            sent = self._dialect.adapt(body)
            answer, failure = await self._request(question, sent)
            if failure is None:
                return answer
            if self._dialect.learn(failure, sent):
                continue
            wait_s = find_wait_s(failure, failures)
            if wait_s is None:
                return answer
            failures += 1
            await self._sleep(wait_s)

    async def _request(self, question: Question, body: dict[str, Any]) -> tuple[Answer, Exception | None]:
        """Send one request, and return its answer, with what it failed with."""
        import openai

        read, error, failure = _Stream(self._clock), None, None
        started_s = self._clock()
        try:
            stream: Any = await self._client.chat.completions.create(**body)
            async for chunk in stream:
                read.add(chunk)
            if read.finish_reason is None and not any(read.text):
                error = "the server sent no answer; can it stream?"
        except openai.OpenAIError as caught:
            error, failure = describe(caught), caught
        except (ValueError, TypeError, AttributeError) as caught:
            # The client takes what the server sends for what it should be.
            error = f"the server sent what is no part of an answer: {' '.join(str(caught).split())}"
        answer = Answer(
            question.candidate.name, question.example.name, _whole("".join(read.text)), read.finish_reason,
            None if error is None else _whole(error),
            None if read.first_s is None else read.first_s - started_s, self._clock() - started_s,
            read.count("prompt_tokens"), read.count("completion_tokens"),
        )  # fmt: skip
        return answer, failure


class _Stream:
    """What a stream has brought so far."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.text: list[str] = []
        self.finish_reason: str | None = None
        self.first_s: float | None = None
        self._usage: Any = None
        self._clock = clock

    def add(self, chunk: Any) -> None:  # noqa: ANN401 - the client checks no types
        """Add a chunk."""
        self._usage = chunk.usage or self._usage
        for choice in (chunk.choices or ())[:1]:
            if choice.delta is not None:
                if self.first_s is None and _has_text(choice.delta):
                    self.first_s = self._clock()
                self.text.append(choice.delta.content or "")
            self.finish_reason = choice.finish_reason or self.finish_reason

    def count(self, name: str) -> int:
        """Return a number of tokens as the server counted them; 0 if it did not."""
        found = getattr(self._usage, name, 0)
        return found if isinstance(found, int) else 0


def _whole(text: str) -> str:
    """Return a text that a file can hold: some servers send the two halves of a character one by one."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _has_text(delta: Any) -> bool:  # noqa: ANN401 - servers have fields that the client does not type
    reasoning = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
    return bool(delta.content or reasoning)

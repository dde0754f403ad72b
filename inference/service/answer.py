"""The answer to a request: its choices, generated side by side and read as a stream of text deltas."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Self

from inference.errors import (
    ApiError,
    EngineError,
    GenerationFailedError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RequestRefusedError,
    ScoresError,
    UnavailableError,
)
from inference.service.output import OutputProcessor
from inference.service.requests import TextDelta, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from inference.engines.protocol import Engine, Increment, TokenStream
    from inference.service.admission import Admission
    from inference.service.lifecycle import RequestLifecycle
    from inference.service.preparation import PreparedRequest

LOGGER: Final = logging.getLogger(__name__)


class Answer:
    """An async iterable of `TextDelta`, and a context manager that frees the request's slots."""

    def __init__(self, running: RunningRequest) -> None:
        self._prompt_tokens = running.prepared.prompt_tokens
        self._admission = running.admission
        self._choices = tuple(Choice(index, running) for index in range(len(running.prepared.generations)))
        self._pumps: tuple[asyncio.Task[None], ...] = ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def choices(self) -> int:
        """Return the number of choices."""
        return len(self._choices)

    @property
    def usage(self) -> Usage:
        """Return the token counts so far; final once every choice has a finish reason."""
        return Usage(
            self._prompt_tokens,
            sum(choice.completion_tokens for choice in self._choices),
            sum(choice.reasoning_tokens for choice in self._choices),
        )

    @property
    def queue_position(self) -> int | None:
        """Return the request's place in the queue, from 1; None if it does not wait."""
        return self._admission.position

    def close(self) -> None:
        """Stop generating and free the slots; idempotent. Iteration ends."""
        for choice in self._choices:
            choice.close()

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self._choices[0] if len(self._choices) == 1 else self._merge()

    async def _merge(self) -> AsyncIterator[TextDelta]:
        """Yield the choices' deltas as they arrive. An error in one choice ends all."""
        deltas: asyncio.Queue[TextDelta | Exception | None] = asyncio.Queue()
        self._pumps = tuple(asyncio.create_task(_pump(choice, deltas)) for choice in self._choices)
        running = len(self._pumps)
        while running:
            match await deltas.get():
                case None:
                    running -= 1
                case TextDelta() as delta:
                    yield delta
                case error:
                    self.close()
                    raise error


class RunningRequest:
    """What the choices of a request share while they are generated.

    Args:
        prepared: The request.
        engine: The engine that generates.
        admission: The request's slots; they are freed when its last choice has ended.
        lifecycle: The receiver of its events.
        deadline: The event loop's time at which it times out.
    """

    def __init__(
        self,
        prepared: PreparedRequest,
        engine: Engine,
        admission: Admission,
        lifecycle: RequestLifecycle,
        deadline: float,
    ) -> None:
        self.prepared = prepared
        self.engine = engine
        self.admission = admission
        self.lifecycle = lifecycle
        self.deadline = deadline
        self._open_choices = len(prepared.generations)

    def close_choice(self) -> None:
        """Record that a choice has ended. Called once for each."""
        self._open_choices -= 1
        if self._open_choices == 0:
            self.admission.release()
            self.lifecycle.finish()


class Choice:
    """One text of an answer: an async iterator of `TextDelta`."""

    def __init__(self, index: int, running: RunningRequest) -> None:
        self._index = index
        self._running = running
        self._generation = running.prepared.generations[index]
        self._output = OutputProcessor(index, running.prepared)
        self._stream: TokenStream | None = None
        self._is_over = False

    @property
    def completion_tokens(self) -> int:
        """Return the number of tokens so far."""
        return self._output.tokens

    @property
    def reasoning_tokens(self) -> int:
        """Return how many of them are reasoning."""
        return self._output.reasoning_tokens

    def close(self) -> None:
        """Stop generating; idempotent. Iteration ends."""
        if not self._is_over:
            self._is_over = True
            if self._stream is not None:
                self._stream.cancel()
            self._running.close_choice()

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        while not self._is_over:
            delta = self._process(await self._next_increment())
            if not delta.is_empty:
                return delta
        raise StopAsyncIteration

    async def _next_increment(self) -> Increment:
        try:
            async with asyncio.timeout_at(self._running.deadline):
                if self._stream is None:
                    await self._running.admission.wait()
                    if self._is_over:
                        raise StopAsyncIteration
                    self._running.lifecycle.admit()
                    self._stream = self._running.engine.submit(self._generation)
                return await anext(self._stream)
        except TimeoutError:
            self._fail("request_timeout")
            raise self._timeout_error() from None
        except OverloadedError as error:
            self._fail(error.code)
            raise
        except KeyError:
            self._fail("model_not_found")
            raise NotFoundError(
                f"The adapter {self._generation.model!r} was removed while the request waited.",
                param="model",
                code="model_not_found",
            ) from None
        except EngineError as error:
            api_error = _api_error_of(error)
            self._fail(api_error.code)
            LOGGER.error("request %s: %s", self._generation.request_id, error)  # noqa: TRY400 - the engine has logged where
            raise api_error from error

    def _fail(self, error_code: str | None) -> None:
        """End the request with an error. It is recorded first, since closing records a normal end."""
        self._running.lifecycle.finish("error", error_code)
        self.close()

    def _process(self, increment: Increment) -> TextDelta:
        """Turn tokens into text, record them, and close the choice at its end."""
        lifecycle = self._running.lifecycle
        self._running.admission.add_tokens(len(increment.token_ids))
        text, reason = self._output.decode(increment)
        lifecycle.add_tokens(len(increment.token_ids), text, self._index)
        delta = self._output.to_delta(text, reason)
        if delta.finish_reason is not None:
            lifecycle.finish_choice("length" if delta.finish_reason == "length" else "stop")
            self.close()
        return delta

    def _timeout_error(self) -> ApiError:
        where = "was being answered" if self._stream else "waited in the queue"
        # The official client would retry twice; a request that took too long once would again.
        return UnavailableError(
            f"The request timed out while it {where}, after {self.completion_tokens} tokens."
            " Ask for fewer tokens, or try again when the server is less busy.",
            code="request_timeout",
            headers={"x-should-retry": "false"},
        )


def _api_error_of(error: EngineError) -> ApiError:
    """Return the response to a request that the engine did not complete."""
    sentence = f"{str(error)[:1].upper()}{str(error)[1:]}."
    if isinstance(error, RequestRefusedError):
        return InvalidRequestError(sentence, code="refused_by_engine")
    if isinstance(error, ScoresError):
        # The official client would retry twice, and the model would compute the same.
        return GenerationFailedError(sentence, code="scores_not_finite", headers={"x-should-retry": "false"})
    return UnavailableError("The engine failed before the answer was complete.", code="engine_failed")


async def _pump(choice: Choice, deltas: asyncio.Queue[TextDelta | Exception | None]) -> None:
    """Put a choice's deltas into a queue, and None at its end. Ends when the choice is closed."""
    try:
        async for delta in choice:
            deltas.put_nowait(delta)
    except Exception as error:  # noqa: BLE001 - it is raised where the answer is read
        deltas.put_nowait(error)
    deltas.put_nowait(None)

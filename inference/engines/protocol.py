"""Say what an engine is: tokens in, tokens out.

An engine knows models by name, token ids and sampling; it knows nothing of text, of HTTP or of keys. `Engine`
is the whole of what the rest of the server asks of one, so that an engine is one file. Imports no torch.

All methods are called on the event loop's thread. An engine that works in a thread of its own delivers
through `loop.call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from inference.errors import EngineError
    from inference.text.codec import Codec

ProgressCallback = Callable[[str, int], None]
"""Called with the phase that begins and the percentage of the start-up that is complete."""

FinishReason = Literal["stop", "length"]

Ability = Literal["seed", "penalties", "logit_bias", "logprobs", "grammar"]
"""What an engine may be able to do beyond choosing tokens by temperature, top-p, top-k and min-p."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Say how the next token is chosen.

    Attributes:
        temperature: 0 takes the likeliest token, always.
        top_p: Keep the likeliest tokens that together have this probability, in (0, 1].
        top_k: Keep this many of the likeliest; 0 keeps all.
        min_p: Drop tokens less likely than this share of the likeliest one, in [0, 1].
        presence_penalty: Taken from the score of every token that the answer has already, in [-2, 2].
        frequency_penalty: The same, times how often the answer has it.
        repetition_penalty: Divides the positive scores, and multiplies the negative ones, of the tokens that
            prompt or answer have already; above 0, and 1 changes nothing.
        logit_bias: Pairs of a token id and what is added to its score.
        seed: Makes chance repeatable: the same request gives the same tokens, whatever else is in the batch.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Return whether chance has no part in it."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def has_penalties(self) -> bool:
        """Return whether tokens that came before count against themselves."""
        neutral = (0.0, 0.0, 1.0)
        return (self.presence_penalty, self.frequency_penalty, self.repetition_penalty) != neutral


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Ask an engine for tokens.

    Attributes:
        model: One of the engine's models.
        prompt_token_ids: The whole prompt; not empty.
        max_new_tokens: At least 1. Prompt and new tokens together fit the model's context.
        top_logprobs: Tell each token's log-probability, and those of so many of the likeliest; None tells
            none.
        grammar: What the answer's text must be, in llguidance's form of Lark; None leaves it free. The end of
            turn is allowed where the text may end, and nothing else is where it must.
    """

    request_id: str
    model: str
    prompt_token_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling
    top_logprobs: int | None = None
    grammar: str | None = None

    @property
    def needs(self) -> frozenset[Ability]:
        """Return the abilities that an engine must have for this request."""
        sampling = self.sampling
        wanted: dict[Ability, bool] = {
            "seed": sampling.seed is not None,
            "penalties": sampling.has_penalties,
            "logit_bias": bool(sampling.logit_bias),
            "logprobs": self.top_logprobs is not None,
            "grammar": self.grammar is not None,
        }
        return frozenset(ability for ability, is_wanted in wanted.items() if is_wanted)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Hold the natural logarithms of one step's probabilities, as the model gave them.

    They are those before temperature, penalties, bias and grammar.

    Attributes:
        chosen: That of the token that was taken.
        top: Pairs of token id and logarithm, the likeliest first.
    """

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Increment:
    """Hold the tokens that came since the last increment, and why there will be no more, if so.

    A token that ends a text (the model's own end of turn) is among `token_ids`, with `finish_reason` "stop".

    Attributes:
        logprobs: One for each token, if the request asked for them; else empty.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is served under a name: the base, or one of its adapters.

    Attributes:
        parent: The base's name, if this is an adapter.
        end_token_ids: Tokens that end an answer; they are not part of its text.
        created: Seconds since the epoch, for the list of models.
    """

    name: str
    parent: str | None
    codec: Codec
    end_token_ids: frozenset[int]
    created: int


class Engine(Protocol):
    """Generate tokens for the models that it holds."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """Return what it can do of what not every engine can. A request never needs more."""
        ...

    @property
    def is_alive(self) -> bool:
        """Return whether the engine can still generate. Once false it stays false."""
        ...

    def context_tokens(self, model: str) -> int:
        """Return how many tokens prompt and answer may have together.

        Raises:
            KeyError: If there is no such model.
        """
        ...

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Start a request and return its stream at once.

        The engine does not rely on the ids of requests being different: clients choose them.

        Raises:
            EngineError: If the engine is dead.
            KeyError: If there is no such model.
        """
        ...

    async def close(self) -> None:
        """Stop. Streams still open end with `EngineError`."""
        ...


class TokenStream:
    """Carry one request's increments from the engine to whoever asked. An async iterator of `Increment`.

    Tokens that wait are handed over together, so a slow reader costs no more than a fast one. The reader
    calls `cancel` when it is done, however it is done: it is idempotent, and free once the stream has ended
    by itself.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self._on_cancel = on_cancel
        self._waiting: deque[Increment] = deque()
        self._error: EngineError | None = None
        self._is_over = False
        self._news = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Return whether the engine has nothing more to do for this stream."""
        return self._is_over

    def push(self, increment: Increment) -> None:
        """Deliver tokens. For the engine; ignored once the stream is over."""
        if self._is_over:
            return
        self._is_over = increment.finish_reason is not None
        self._waiting.append(increment)
        self._news.set()

    def fail(self, error: EngineError) -> None:
        """End the stream with an error. For the engine; ignored once the stream is over."""
        if self._is_over:
            return
        self._is_over = True
        self._error = error
        self._news.set()

    def cancel(self) -> None:
        """Tell the engine that nobody reads any more."""
        if not self._is_over:
            self._is_over = True
            self._news.set()
            self._on_cancel()

    def __aiter__(self) -> AsyncIterator[Increment]:
        return self

    async def __anext__(self) -> Increment:
        while not self._waiting:
            if self._error is not None:
                raise self._error
            if self._is_over:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        increments = tuple(self._waiting)
        self._waiting.clear()
        return Increment(
            tuple(itertools.chain.from_iterable(increment.token_ids for increment in increments)),
            increments[-1].finish_reason,
            tuple(itertools.chain.from_iterable(increment.logprobs for increment in increments)),
        )

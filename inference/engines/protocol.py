"""The protocol of engines: tokens in, tokens out.

An engine handles models by name, token ids and sampling parameters; text, HTTP and API keys are outside of
it. `Engine` is the complete interface between an engine and the rest of the server. Imports no torch.

All methods are called on the event loop's thread. An engine with its own thread delivers through
`loop.call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from inference.errors import EngineError
    from inference.text.codec import Codec

ProgressCallback = Callable[[str, int], None]
"""Called with the phase that begins and the percentage of the start-up that is complete."""

FinishReason = Literal["stop", "length"]

Ability = Literal["seed", "penalties", "logit_bias", "logprobs", "grammar", "stopping", "prompt_logprobs"]
"""The optional features of an engine; all engines sample by temperature, top-p, top-k and min-p."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling parameters of a request.

    Attributes:
        temperature: 0 always takes the likeliest token.
        top_p: Keep the likeliest tokens that together have this probability, in (0, 1].
        top_k: Keep this many of the likeliest; 0 keeps all.
        min_p: Drop tokens less likely than this share of the likeliest one, in [0, 1].
        presence_penalty: Subtracted from the score of every token that is already in the answer, in [-2, 2].
        frequency_penalty: The same, multiplied by the token's count in the answer.
        repetition_penalty: Divides the positive scores, and multiplies the negative ones, of the tokens that
            are already in the prompt or the answer; above 0, and 1 changes nothing.
        logit_bias: Pairs of a token id and the number that is added to its score.
        seed: Makes sampling repeatable: the same request gives the same tokens in any batch.
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
        """Return whether the likeliest token is always taken."""
        return self.temperature == 0.0 or self.top_k == 1

    @property
    def is_finite(self) -> bool:
        """Return whether no parameter is NaN or infinite."""
        numbers = (
            self.temperature, self.top_p, self.min_p,
            self.presence_penalty, self.frequency_penalty, self.repetition_penalty,
        )  # fmt: skip
        return all(map(math.isfinite, (*numbers, *(bias for _, bias in self.logit_bias))))

    @property
    def has_penalties(self) -> bool:
        """Return whether any penalty is set."""
        neutral = (0.0, 0.0, 1.0)
        return (self.presence_penalty, self.frequency_penalty, self.repetition_penalty) != neutral


@dataclass(frozen=True, slots=True)
class Stopping:
    """The tokens that end an answer, where they differ from the model's own.

    Attributes:
        min_tokens: No token that ends an answer is sampled before this many tokens.
        ignore_eos: The model's end tokens do not end the answer.
        stop_token_ids: Further tokens that end it.
    """

    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()

    def ends(self, end_token_ids: frozenset[int]) -> frozenset[int]:
        """Return the tokens that end the answer of a model with these end tokens."""
        return frozenset(self.stop_token_ids) | (frozenset() if self.ignore_eos else end_token_ids)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A request for tokens.

    Attributes:
        model: One of the engine's models.
        prompt_token_ids: The whole prompt; not empty.
        max_new_tokens: At least 1. Prompt and new tokens together fit into the model's context.
        top_logprobs: Return each token's log-probability, and those of this many likeliest tokens; None
            returns none.
        grammar: A grammar that the answer's text has to match, in llguidance's Lark syntax; None for any
            text. An end token is allowed where the text may end, and nothing else where it has to.
        stopping: The tokens that end the answer. With a grammar, `min_tokens` is 0 and `ignore_eos` false.
        prompt_logprobs: Return each prompt token's log-probability as well, and those of this many likeliest
            tokens in its place; None returns none.
    """

    request_id: str
    model: str
    prompt_token_ids: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling
    top_logprobs: int | None = None
    grammar: str | None = None
    stopping: Stopping = Stopping()
    prompt_logprobs: int | None = None

    @property
    def needs(self) -> frozenset[Ability]:
        """Return the optional features that an engine must support for this request."""
        sampling = self.sampling
        wanted: dict[Ability, bool] = {
            "seed": sampling.seed is not None,
            "penalties": sampling.has_penalties,
            "logit_bias": bool(sampling.logit_bias),
            "logprobs": self.top_logprobs is not None,
            "grammar": self.grammar is not None,
            "stopping": self.stopping != Stopping(),
            "prompt_logprobs": self.prompt_logprobs is not None,
        }
        return frozenset(ability for ability, is_wanted in wanted.items() if is_wanted)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log-probabilities at one position, before temperature, penalties, bias and grammar.

    Attributes:
        chosen: That of the token that was sampled, or that the prompt has there.
        top: Pairs of token id and log-probability, the likeliest first.
        rank: The place of `chosen` among all tokens, the likeliest first, from 1; None for a token that was
            sampled.
    """

    chosen: float
    top: tuple[tuple[int, float], ...] = ()
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Increment:
    """The tokens since the last increment, with the finish reason if they are the last.

    The end token that ends a text is among `token_ids`, with `finish_reason` "stop".

    Attributes:
        logprobs: One for each token, if the request asked for them; else empty.
        prompt_logprobs: One for each token of the prompt but the first, in the first increment, if the
            request asked for them; else empty.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that is served under a name: the base, or one of its adapters.

    Attributes:
        parent: The base's name, if this is an adapter.
        end_token_ids: Tokens that end an answer; they are not part of its text.
        created: Seconds since the epoch, for the list of models.
        tokenizer: Where the codec's tokenizer is: a folder, or a hub id.
    """

    name: str
    parent: str | None
    codec: Codec
    end_token_ids: frozenset[int]
    created: int
    tokenizer: str = ""


@dataclass(frozen=True, slots=True)
class StartedEngine:
    """An engine that has loaded its models.

    Attributes:
        models: The models that it serves, the base first.
        rejected: Why adapters are not served, by their names.
    """

    engine: Engine
    models: tuple[ServedModel, ...]
    rejected: Mapping[str, str]


class Engine(Protocol):
    """Generates tokens for one or more models."""

    @property
    def abilities(self) -> frozenset[Ability]:
        """Return the optional features that the engine supports. Requests need no others."""
        ...

    @property
    def is_alive(self) -> bool:
        """Return whether the engine can still generate. Once false it stays false."""
        ...

    @property
    def cache_tokens(self) -> int | None:
        """Return how many tokens of all requests together fit a key-value cache; None if that is no limit.

        With more, requests that run have to give their places up, and are computed again.
        """
        ...

    def context_tokens(self, model: str) -> int:
        """Return the maximum number of tokens of prompt and answer together.

        Raises:
            KeyError: If there is no such model.
        """
        ...

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Start a request and return its stream at once.

        Request ids need not be unique: clients choose them.

        Raises:
            EngineError: If the engine is dead.
            RequestRefusedError: If the engine does not take the request's tokens or parameters.
            KeyError: If there is no such model.
        """
        ...

    async def add_adapter(self, name: str, folder: Path) -> ServedModel:
        """Load an adapter while requests run, and serve it from now on.

        An adapter of this name is replaced once the new one is loaded; its running requests end with the
        weights that they began with.

        Args:
            name: The adapter's name.
            folder: Its folder, in which it stays unchanged until this returns.

        Raises:
            LoadError: If it does not fit the base or the engine; what is served has not changed.
            RestartRequiredError: If it would fit once the engine has been started again.
            EngineError: If the engine is dead.
        """
        ...

    async def remove_adapter(self, name: str) -> None:
        """Accept no more requests for an adapter, wait until those that run have ended, and unload it.

        Raises:
            KeyError: If there is no such adapter.
        """
        ...

    async def close(self) -> None:
        """Stop the engine. Open streams end with `EngineError`."""
        ...


class TokenStream:
    """The increments of one request, from the engine to the reader. An async iterator of `Increment`.

    Waiting tokens are delivered together, so a slow reader costs no more than a fast one. The reader always
    calls `cancel` when it has finished: it is idempotent, and has no effect once the stream has ended.

    A reader of many streams sets `on_change` and calls `take`, which needs no task for each of them.

    Attributes:
        on_change: Called when there is something to take; None if the stream is iterated over.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        self.on_change: Callable[[], None] | None = None
        self._on_cancel = on_cancel
        self._waiting: deque[Increment] = deque()
        self._error: EngineError | None = None
        self._is_over = False
        self._changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Return whether the stream has ended or was cancelled."""
        return self._is_over

    def push(self, increment: Increment) -> None:
        """Deliver tokens. Called by the engine; ignored once the stream is over."""
        if self._is_over:
            return
        self._is_over = increment.finish_reason is not None
        self._waiting.append(increment)
        self._notify()

    def fail(self, error: EngineError) -> None:
        """End the stream with an error. Called by the engine; ignored once the stream is over."""
        if self._is_over:
            return
        self._is_over = True
        self._error = error
        self._notify()

    def cancel(self) -> None:
        """End the stream, and have the engine drop the request."""
        if not self._is_over:
            self._is_over = True
            self._changed.set()
            self._on_cancel()

    def take(self) -> Increment | None:
        """Return what has been delivered since the last call; None if that is nothing.

        Raises:
            EngineError: If the stream has failed, once what came before is taken.
        """
        if not self._waiting:
            if self._error is not None:
                raise self._error
            return None
        increments = tuple(self._waiting)
        self._waiting.clear()
        if len(increments) == 1:
            return increments[0]
        return Increment(
            tuple(itertools.chain.from_iterable(increment.token_ids for increment in increments)),
            increments[-1].finish_reason,
            tuple(itertools.chain.from_iterable(increment.logprobs for increment in increments)),
            increments[0].prompt_logprobs,
        )

    def __aiter__(self) -> AsyncIterator[Increment]:
        return self

    async def __anext__(self) -> Increment:
        while (increment := self.take()) is None:
            if self._is_over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return increment

    def _notify(self) -> None:
        self._changed.set()
        if self.on_change is not None:
            self.on_change()

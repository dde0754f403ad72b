"""An engine whose tokens come from a script: the double that tests control.

Each request takes the next script of the queue, or waits until a test adds one. A script is a list of steps:
token ids (in an `Increment` if they have log-probabilities or a finish reason), an error, or an event to wait
for. Nothing here sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from inference.engines.protocol import Ability, GenerationRequest, Increment, ServedModel, TokenStream
from inference.errors import EngineError, LoadError

if TYPE_CHECKING:
    from pathlib import Path

Step = Sequence[int] | Increment | asyncio.Event | EngineError


@dataclass(slots=True)
class ScriptedEngine:
    """An engine that plays scripts to requests, in the order of arrival.

    Attributes:
        contexts: The context length of each model, in tokens.
        end_token_ids: The tokens that end a text with "stop".
        requests: The requests so far, in order.
        cancelled: The ids of requests that were cancelled before their end.
        abilities: The optional features that it reports; it implements stop tokens only.
        cache_tokens: The size of the cache that it reports.
        always: The script of a request if the queue is empty; None lets the request wait for one.
        generated_tokens: The number of tokens of all requests so far.
        offers: What adding an adapter returns or raises, by its name; one that is not there does not fit.
    """

    contexts: dict[str, int]
    end_token_ids: frozenset[int] = frozenset()
    requests: list[GenerationRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    abilities: frozenset[Ability] = frozenset(get_args(Ability))
    is_alive: bool = True
    always: tuple[Step, ...] | None = None
    cache_tokens: int | None = None
    generated_tokens: int = 0
    offers: dict[str, ServedModel | LoadError] = field(default_factory=dict)
    _scripts: asyncio.Queue[tuple[Step, ...]] = field(default_factory=asyncio.Queue)
    _tasks: dict[TokenStream, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def running(self) -> int:
        """Return the number of requests that have not ended."""
        return sum(not stream.is_over for stream in self._tasks)

    def play(self, *steps: Step) -> None:
        """Queue the script of one request.

        A request whose script ends before its `max_new_tokens`, and without an end token, stays open until
        it is cancelled.
        """
        self._scripts.put_nowait(steps)

    def forget_scripts(self) -> None:
        """Drop the scripts that no request has taken."""
        while not self._scripts.empty():
            self._scripts.get_nowait()

    def die(self) -> None:
        """Stop as an engine does when its thread crashes."""
        self.is_alive = False
        for task in self._tasks.values():
            task.cancel()

    def context_tokens(self, model: str) -> int:
        """Return the model's context."""
        return self.contexts[model]

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Start playing the next script."""
        if not self.is_alive:
            raise EngineError("the engine has stopped")
        if request.model not in self.contexts:
            raise KeyError(request.model)
        self.requests.append(request)
        stream = TokenStream(lambda: self._cancel(request, stream))
        # The next script is this request's even if it is cancelled before it begins.
        steps = self.always if self._scripts.empty() else self._scripts.get_nowait()
        task = asyncio.get_running_loop().create_task(self._run(steps, request, stream), name=request.model)
        self._tasks[stream] = task
        task.add_done_callback(lambda _: self._end(stream))
        return stream

    async def add_adapter(self, name: str, folder: Path) -> ServedModel:
        """Return what is offered, with the first model's context."""
        offer = self.offers.get(name, LoadError(f"{folder} does not fit"))
        if isinstance(offer, LoadError):
            raise offer
        self.contexts[name] = next(iter(self.contexts.values()))
        return offer

    async def remove_adapter(self, name: str) -> None:
        """Forget an adapter once its requests have ended."""
        del self.contexts[name]
        running = [task for task in self._tasks.values() if task.get_name() == name]
        await asyncio.gather(*running, return_exceptions=True)

    async def close(self) -> None:
        """Stop playing; open streams end with an error."""
        self.die()

    def _cancel(self, request: GenerationRequest, stream: TokenStream) -> None:
        self.cancelled.append(request.request_id)
        self._tasks[stream].cancel()

    def _end(self, stream: TokenStream) -> None:
        """Forget a script's task. Not in `_run`: a task that is cancelled early never runs."""
        del self._tasks[stream]
        stream.fail(EngineError("the engine stopped before the answer was complete"))

    async def _run(
        self, steps: tuple[Step, ...] | None, request: GenerationRequest, stream: TokenStream
    ) -> None:
        try:
            await self._play(steps or await self._scripts.get(), request, stream)
        except EngineError as error:
            stream.fail(error)

    async def _play(self, steps: tuple[Step, ...], request: GenerationRequest, stream: TokenStream) -> None:
        room = request.max_new_tokens
        for step in steps:
            if isinstance(step, EngineError):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
                continue
            ends = request.stopping.ends(self.end_token_ids)
            increment = _cut(step if isinstance(step, Increment) else Increment(tuple(step)), room, ends)
            room -= len(increment.token_ids)
            self.generated_tokens += len(increment.token_ids)
            stream.push(increment)
            if increment.finish_reason is not None:
                return
            await asyncio.sleep(0)
        await asyncio.Event().wait()


def _cut(step: Increment, room: int, end_token_ids: frozenset[int]) -> Increment:
    token_ids = step.token_ids
    ends = [index + 1 for index, token_id in enumerate(token_ids) if token_id in end_token_ids]
    if ends and ends[0] <= room:
        return Increment(token_ids[: ends[0]], "stop", step.logprobs[: ends[0]], step.prompt_logprobs)
    reason = step.finish_reason if len(token_ids) <= room else None
    if reason is None and len(token_ids) >= room:
        reason = "length"
    return Increment(token_ids[:room], reason, step.logprobs[:room], step.prompt_logprobs)

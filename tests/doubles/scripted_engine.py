"""Be an engine whose tokens come from a script: the double that tests drive by hand.

Each request takes the next script of the queue, or waits until a test puts one there. A script is a list of
steps: token ids (in an `Increment` if they have log-probabilities, or if the script says itself why there are
no more), an error, or an event to wait for. Nothing here sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from inference.engines.protocol import Ability, EngineStats, GenerationRequest, Increment, TokenStream
from inference.errors import EngineError

Step = Sequence[int] | Increment | asyncio.Event | EngineError


@dataclass(slots=True)
class ScriptedEngine:
    """Play scripts to requests, first come first served.

    Attributes:
        contexts: The models, and how many tokens each takes.
        end_token_ids: Tokens that end a text with "stop".
        requests: What was asked so far, in order.
        cancelled: The ids of requests whose reader went away before their end.
        abilities: What it says that it can do; it heeds none of it.
        always: The script of a request that finds none in the queue; None lets it wait for one.
    """

    contexts: Mapping[str, int]
    end_token_ids: frozenset[int] = frozenset()
    requests: list[GenerationRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    abilities: frozenset[Ability] = frozenset(get_args(Ability))
    is_alive: bool = True
    always: tuple[Step, ...] | None = None
    _scripts: asyncio.Queue[tuple[Step, ...]] = field(default_factory=asyncio.Queue)
    _tasks: dict[TokenStream, asyncio.Task[None]] = field(default_factory=dict)
    _generated_tokens: int = 0

    def play(self, *steps: Step) -> None:
        """Queue the script of one request.

        A request whose script ends before its `max_new_tokens`, and without an end token, goes on with
        nothing until it is cancelled.
        """
        self._scripts.put_nowait(steps)

    def die(self) -> None:
        """Break down, as an engine does whose thread has crashed."""
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
        task = asyncio.get_running_loop().create_task(self._run(steps, request, stream))
        self._tasks[stream] = task
        task.add_done_callback(lambda _: self._end(stream))
        return stream

    def stats(self) -> EngineStats:
        """Return how many scripts are being played."""
        return EngineStats(sum(not stream.is_over for stream in self._tasks), self._generated_tokens)

    async def close(self) -> None:
        """Stop playing; open streams end with an error."""
        self.die()

    def _cancel(self, request: GenerationRequest, stream: TokenStream) -> None:
        self.cancelled.append(request.request_id)
        self._tasks[stream].cancel()

    def _end(self, stream: TokenStream) -> None:
        """Note that a script is played no more. Not in `_run`: a task that is cancelled early never runs."""
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
            increment = self._cut(step if isinstance(step, Increment) else Increment(tuple(step)), room)
            room -= len(increment.token_ids)
            self._generated_tokens += len(increment.token_ids)
            stream.push(increment)
            if increment.finish_reason is not None:
                return
            await asyncio.sleep(0)
        await asyncio.Event().wait()

    def _cut(self, step: Increment, room: int) -> Increment:
        token_ids = step.token_ids
        ends = [index + 1 for index, token_id in enumerate(token_ids) if token_id in self.end_token_ids]
        if ends and ends[0] <= room:
            return Increment(token_ids[: ends[0]], "stop", step.logprobs[: ends[0]])
        reason = step.finish_reason if len(token_ids) <= room else None
        if reason is None and len(token_ids) >= room:
            reason = "length"
        return Increment(token_ids[:room], reason, step.logprobs[:room])

"""Put a question to several models at once, and report their answers as they grow.

The models answer side by side, each under the same limits as a request to the API. A report is a document for
the page: what it shows of every answer, from the place in the queue to the reason why the answer ended.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from inference.engines.protocol import Sampling
from inference.errors import ApiError
from inference.service.requests import TextRequest
from inference.web.chat.conversation import prompt_for
from inference.web.chat.markdown import AnswerRenderer, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from inference.service.answer import Answer
    from inference.service.service import Service
    from inference.web.chat.conversation import Question, Settings, Target

FAILED: Final = "The server failed while it answered; its log says why."

REPORT_S: Final = 0.08
"""The time between two reports. More of them take time from the engine, and nobody reads faster."""

QUIET_S: Final = 1.0
"""A report follows after this time if nothing happens, so that the page knows that the connection holds."""


@dataclass(slots=True)
class Progress:
    """One answer while it is generated. Times are of `time.monotonic`.

    Attributes:
        text: With the beginning, if one is continued.
        finish: The API's finish reason, or `error`; None until the end.
        error: Why there is no more, for the user.
        token_ids: The tokens of the answer, without those of its reasoning if the model reasons.
    """

    target: Target
    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    place: int | None = None
    begun_at: float = 0.0
    first_at: float | None = None
    last_at: float | None = None
    renderer: AnswerRenderer = field(default_factory=AnswerRenderer)

    def report(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        is_over = self.finish is not None
        kept_tokens = len(self.target.continues.token_ids) if self.target.continues else 0
        return {
            "state": "done" if is_over else "waiting" if self.first_at is None else "running",
            "place": self.place,
            "text": self.text,
            "reasoning": self.reasoning,
            "blocks": render(self.text) if is_over else self.renderer.render(self.text),
            "finish": self.finish,
            "error": self.error,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "new_tokens": max(0, self.completion_tokens - kept_tokens),
            "first_token_s": None if self.first_at is None else round(self.first_at - self.begun_at, 4),
            "tokens_per_s": self._tokens_per_s(kept_tokens),
            "token_ids": self.token_ids if is_over else [],
        }

    def _tokens_per_s(self, kept_tokens: int) -> float | None:
        """Return the pace after the first token; None while there is none to measure."""
        new = self.completion_tokens - kept_tokens
        if self.first_at is None or self.last_at is None or self.last_at <= self.first_at or new < 2:  # noqa: PLR2004 - a pace is between two
            return None
        return round((new - 1) / (self.last_at - self.first_at), 2)


def refuse(question: Question, reason: str) -> dict[str, Any]:
    """Return the only report on a question that is not put to its models.

    Args:
        question: The question.
        reason: Why, for the user.
    """
    answers = {}
    for target in question.targets:
        kept = "" if target.continues is None else target.continues.text
        answers[target.model] = Progress(target, kept, finish="error", error=reason).report()
    return {"run": question.run, "settings": None, "is_over": True, "elapsed_s": 0.0, "answers": answers}


async def ask(
    service: Service,
    question: Question,
    settings: Settings,
    track: Callable[[Answer], AbstractContextManager[None]] = lambda _: nullcontext(),
    client: str = "chat",
) -> AsyncIterator[dict[str, Any]]:
    """Yield reports on all answers, the last one with all of them complete.

    Args:
        service: Generates the answers.
        question: The conversation, and the models to ask.
        settings: The same for all models.
        track: Returns a context manager that is entered while an answer is read.
        client: The name under which the admission queue counts the user.
    """
    answers = [Progress(target) for target in question.targets]
    changed = asyncio.Event()
    tasks = [
        asyncio.create_task(_generate(service, question, settings, each, changed, track, client))
        for each in answers
    ]
    began = time.monotonic()
    try:
        while True:
            is_over = all(task.done() for task in tasks)
            yield {
                "run": question.run,
                "settings": settings.model_dump(),
                "is_over": is_over,
                "elapsed_s": round(time.monotonic() - began, 2),
                "answers": {each.target.model: each.report() for each in answers},
            }
            if is_over:
                break
            changed.clear()
            await asyncio.sleep(REPORT_S)
            await _wait(changed, tasks)
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _wait(changed: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Return when there is something to report, or after `QUIET_S`."""
    if not changed.is_set() and not all(task.done() for task in tasks):
        try:
            await asyncio.wait_for(changed.wait(), QUIET_S)
        except TimeoutError:
            return


async def _generate(  # noqa: PLR0913, PLR0917 - called in one place
    service: Service,
    question: Question,
    settings: Settings,
    progress: Progress,
    changed: asyncio.Event,
    track: Callable[[Answer], AbstractContextManager[None]],
    client: str,
) -> None:
    """Generate one answer into its progress. An error becomes a part of it; a bug is raised as well."""
    target = progress.target
    progress.begun_at = time.monotonic()
    kept = target.continues
    if kept is not None:
        progress.text, progress.token_ids = kept.text, list(kept.token_ids)
    try:
        request = TextRequest(
            request_id="chat-" + uuid.uuid4().hex,
            model=target.model,
            prompt=prompt_for(
                target.model, question.turns, settings.system_prompt, kept.text if kept else None
            ),
            max_new_tokens=settings.max_tokens,
            sampling=Sampling(settings.temperature, settings.top_p, seed=settings.seed),
            returns_token_ids=True,
            client=client,
        )
        async with await service.begin(request) as reply:
            with track(reply):
                await _read(reply, progress, changed)
        if progress.finish is None:
            # Another page of this session, or the end of the server, has closed it.
            progress.finish = "abort"
    except ApiError as error:
        progress.finish, progress.error = "error", error.message
    except Exception:
        progress.finish, progress.error = "error", FAILED
        raise
    finally:
        progress.place = None
        changed.set()


async def _read(reply: Answer, progress: Progress, changed: asyncio.Event) -> None:
    kept_tokens = len(progress.token_ids)
    watch = asyncio.create_task(_watch_queue(reply, progress, changed))
    try:
        async for delta in reply:
            now = time.monotonic()
            progress.place = None
            progress.first_at = progress.first_at or now
            progress.last_at = now
            progress.text += delta.text
            progress.reasoning += delta.reasoning
            progress.token_ids += delta.token_ids
            progress.prompt_tokens = reply.usage.prompt_tokens
            progress.completion_tokens = kept_tokens + reply.usage.completion_tokens
            if delta.finish_reason is not None:
                progress.finish = delta.finish_reason
            changed.set()
    finally:
        watch.cancel()


async def _watch_queue(reply: Answer, progress: Progress, changed: asyncio.Event) -> None:
    """Keep the place in the queue up to date until the answer is generated."""
    while (place := reply.queue_position) is not None:
        if place != progress.place:
            progress.place = place
            changed.set()
        await asyncio.sleep(QUIET_S / 4)
    progress.place = None
    changed.set()

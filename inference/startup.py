"""Bring an engine to the point at which it serves: find the weights, load them, warm up, measure the speed.

The server does this itself, or the engine process does it in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from inference.engines.catalogue import batch_limit, find_device, find_engine
from inference.engines.registry import import_engine, start_engine
from inference.errors import EngineError, LoadError
from inference.service.capacity import (
    BUDGET_SHARE,
    MIN_BUDGET_S,
    Capacity,
    choose_capacity,
    measure_step_cost,
)
from inference.service.requests import Limits
from inference.service.warm_up import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from inference.engines.protocol import Engine, ProgressCallback, ServedModel, StartedEngine
    from inference.service.capacity import StepCost
    from inference.settings import Settings

T = TypeVar("T")

LOGGER: Final = logging.getLogger(__name__)

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread may hold the interpreter's lock when another waits for it. An engine's step is hundreds
of small operations, each of which acquires the lock again: next to a busy thread, such as the one that
imports Gradio, they took 1.6 times as long with Python's default of 5 ms."""


@dataclass(frozen=True, slots=True)
class ReadyEngine:
    """An engine that serves, in this process or in another.

    Attributes:
        models: The models that it serves, the base first.
        failed_adapters: Why adapters are not served, by their names.
        max_batch: The most answers that it takes into a step.
        step_cost: The measured duration of a step; None if it could not be measured.
    """

    engine: Engine
    models: tuple[ServedModel, ...]
    failed_adapters: Mapping[str, str]
    max_batch: int
    step_cost: StepCost | None


async def prepare_engine(settings: Settings, report: ProgressCallback) -> ReadyEngine:
    """Load the models, warm them up, and measure how long a step takes.

    Args:
        settings: The settings.
        report: Called with the progress, in this thread and in others.

    Raises:
        LoadError: If the models cannot be served.
    """
    started = time.monotonic()
    loaded = await in_thread(lambda: load_engine(settings, report))
    engine, failed = loaded.engine, dict(loaded.rejected)
    for number, model in enumerate(loaded.models):
        report("warming up", 85 + 14 * number // len(loaded.models))
        try:
            await warm_up(engine, model)
        except LoadError as error:
            if model.parent is None or not engine.is_alive:
                raise
            failed[model.name] = str(error)
    models = tuple(model for model in loaded.models if model.name not in failed)
    for reason in failed.values():
        LOGGER.error("an adapter is not served: %s", reason)
    report("measuring the speed", 99)
    budget_s = max(MIN_BUDGET_S, BUDGET_SHARE * (time.monotonic() - started))
    device = find_device(settings.device)
    max_batch = batch_limit(settings.max_concurrent, find_engine(settings.engine, settings.device), device)
    step_cost = await _measure(engine, main_model(models), max_batch, budget_s)
    return ReadyEngine(engine, models, failed, max_batch, step_cost)


def find_capacity(ready: ReadyEngine, settings: Settings) -> Capacity:
    """Return how much an engine can do at once."""
    full_length = min(settings.max_new_tokens, ready.engine.context_tokens(main_model(ready.models).name))
    return choose_capacity(
        ready.step_cost, limits_of(settings), ready.max_batch, full_length, ready.engine.cache_tokens
    )


def main_model(models: Sequence[ServedModel]) -> ServedModel:
    """Return the model that most requests are for: the main adapter, where there is one."""
    return models[min(1, len(models) - 1)]


def load_engine(settings: Settings, report: ProgressCallback) -> StartedEngine:
    """Find the weights, load them and start the engine. Takes seconds; for a thread.

    Raises:
        LoadError: If the weights cannot be served.
    """
    report("looking for weights", 1)
    from inference.models.weights import find_weights  # noqa: PLC0415 - not needed until here

    weights = find_weights(
        settings.mount, settings.base_model, settings.adapter, allows_pickle=settings.allow_pickle
    )
    adapters = ", ".join(adapter.name for adapter in weights.adapters) or "none"
    LOGGER.info("base model: %s, adapter: %s", weights.base.name, adapters)
    report("importing libraries", 5)
    with _paused_garbage_collector():
        import_engine(settings)
    return start_engine(weights, settings, report)


@contextlib.contextmanager
def _paused_garbage_collector() -> Iterator[None]:
    """Disable the garbage collector during an import, then exempt what was created from collection.

    Imported libraries are hundreds of thousands of objects that live as long as the process. Traversing them
    again and again takes a tenth of the start-up time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


async def _measure(engine: Engine, model: ServedModel, max_batch: int, budget_s: float) -> StepCost | None:
    try:
        return await measure_step_cost(engine, model, max_batch, budget_s)
    except EngineError as error:
        raise LoadError(f"{model.name} was loaded and cannot be served: {error}") from error


def limits_of(settings: Settings) -> Limits:
    """Return the limits on every request."""
    return Limits(
        max_concurrent=settings.max_concurrent,
        max_waiting=settings.max_waiting,
        max_new_tokens=settings.max_new_tokens,
        request_timeout_s=settings.request_timeout_s,
        max_per_key=settings.max_per_key,
    )


async def in_thread(work: Callable[[], T]) -> T:
    """Run slow work in a daemon thread, which does not keep the process from exiting."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_result: Callable[[], None]) -> None:
        # When the process is stopping, the loop may be closed or the future cancelled.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if future.done() else set_result())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again where the work is awaited
            reason = error
            settle(lambda: future.set_exception(reason))
        else:
            settle(lambda: future.set_result(result))

    threading.Thread(target=run, daemon=True).start()
    return await future


def set_library_defaults() -> None:
    """Turn off telemetry before libraries are imported. Variables that are set keep their values."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # The tokenizers library warns, and stops using its threads, if the process forks after it used them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def block_torch(settings: Settings) -> None:
    """Keep transformers from importing torch, whose import takes seconds and hundreds of MB.

    transformers then does what it does on a machine without torch: it reads tokenizers. A tokenizer whose
    code is in the model's repository may need torch, so it is not kept from it.

    Source: transformers 5.23, `utils/import_utils.py`, `is_torch_available`; Python's reference, "The import
    system", "The module cache": None in `sys.modules` makes an import fail.
    """
    if not settings.trust_remote_code:
        # It would print that it has found no torch.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # see above

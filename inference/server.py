"""The server's process: serve at once, load the models in the background, drain on SIGTERM, exit.

Run as `python3 -m inference.server`, which `inference.start` does. Exit codes: 0 after a signal, 1 if the
model cannot be loaded (the reason is at the end of the log), 2 if the settings cannot be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import uvicorn

from inference import VERSION
from inference.api_keys import API_KEYS_VARIABLE
from inference.engines.catalogue import batch_limit, find_device, find_engine
from inference.engines.protocol import Engine, GenerationRequest, Sampling, ServedModel, StartedEngine
from inference.engines.registry import import_engine, start_engine
from inference.errors import EngineError, LoadError, SettingsError
from inference.listener import inherit_or_bind
from inference.observability.logs import set_up_logging
from inference.observability.tracing import FLUSH_S, Tracing, make_tracing
from inference.service.capacity import (
    BUDGET_SHARE,
    MIN_BUDGET_S,
    Capacity,
    choose_capacity,
    measure_step_cost,
)
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings, load_settings
from inference.web.access import MAX_HEADER_BYTES
from inference.web.application import ChatPage, Identity, make_application
from inference.web.http_protocol import Protocol
from inference.web.key_changes import KeyChanges
from inference.web.keyring import Keyring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from starlette.types import ASGIApp

    from inference.web.chat import Chat

T = TypeVar("T")

LOGGER: Final = logging.getLogger("inference.server")

CONNECTION_GRACE_S: Final = 2
"""How long connections may stay open after the last answer. In practice only an open chat page's does."""

FORCED_CLOSE_TIMEOUT_S: Final = 0.5
"""How long the engine may take to close after the second signal."""

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread may hold the interpreter's lock when another waits for it. An engine's step is hundreds
of small operations, each of which acquires the lock again: next to a busy thread, such as the one that
imports Gradio, they took 1.6 times as long with Python's default of 5 ms."""

KEEP_ALIVE_S: Final = 75
"""Longer than a proxy keeps an idle connection open: closing it first would race with the next request."""


def main() -> NoReturn:
    """Serve until a signal. Never returns."""
    set_up_logging()
    try:
        settings = load_settings(os.environ)
        # Child processes, such as an engine's workers, do not get the keys.
        os.environ.pop(API_KEYS_VARIABLE, None)
        set_up_logging(settings.log_format, settings.log_level)
        tracing = make_tracing(settings, VERSION)
    except SettingsError as error:
        for problem in error.problems:
            LOGGER.error("%s", problem)  # noqa: TRY400 - a traceback would bury the problems
        LOGGER.error("the settings cannot be used")  # noqa: TRY400 - see above
        sys.exit(error.exit_code)
    set_library_defaults()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    if settings.log_prompts:
        LOGGER.warning("FJARR_LOG_PROMPTS is on: prompts and answers are written to this log")
    exit_code = asyncio.run(ServerProcess(settings, tracing).run())
    logging.shutdown()
    # The processes of an engine that was still starting would outlive this one.
    for process in multiprocessing.active_children():
        process.kill()
    # A loading thread cannot be interrupted: a normal exit would wait for it, or crash in it.
    os._exit(exit_code)


def set_library_defaults() -> None:
    """Turn off telemetry before libraries are imported. Variables that are set keep their values."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # The tokenizers library warns, and stops using its threads, if the process forks after it used them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class ServerProcess:
    """The server, from its socket to its exit code."""

    def __init__(self, settings: Settings, tracing: Tracing | None = None) -> None:
        self._settings = settings
        self._tracing = tracing
        self._service = Service(limits_of(settings))
        self._chat_page = ChatPage(self._service)
        self._keyring = Keyring(settings.api_keys)
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._identity = Identity(settings.release, settings.revision, settings.replica, started_at)
        self._engine: Engine | None = None
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Serve, and return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._handle_signal)
        application = make_application(
            self._service,
            self._settings,
            self._identity,
            self._chat_page,
            self._tracing,
            keyring=self._keyring,
        )
        server = _UvicornServer(configure(application))
        serving = asyncio.create_task(server.serve([inherit_or_bind(self._settings)]))
        work = asyncio.create_task(self._load_and_run_chat())
        changes = KeyChanges(self._settings.mount, self._settings.api_keys, self._keyring)
        following = asyncio.create_task(changes.follow())
        await self._stop.wait()
        await self._drain()
        work.cancel()
        following.cancel()
        # Before the connections: a request that is cut off still sends its client an error.
        await self._close_engine()
        server.should_exit = True
        server.force_exit = self._stop_now.is_set()
        await asyncio.gather(serving, work, following, return_exceptions=True)
        await self._flush_traces()
        if self._exit_code == 0:
            LOGGER.info("stopped")
        return self._exit_code

    def _handle_signal(self) -> None:
        """Drain and stop at the first signal; stop at once at the second."""
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()

    async def _load_and_run_chat(self) -> None:
        """Load the models, then run the chat page until cancelled. An error stops the process."""
        try:
            await self._load()
            await self._run_chat()
        except LoadError as error:
            self._fail(f"cannot serve: {error}", error.exit_code)
        except Exception:
            LOGGER.exception("the server failed to start")
            self._fail("cannot serve: see the traceback above", 1)

    def _fail(self, reason: str, exit_code: int) -> None:
        LOGGER.error("%s", reason)
        self._exit_code = exit_code
        self._stop.set()

    async def _load(self) -> None:
        started = time.monotonic()
        loaded = await _in_thread(lambda: load_engine(self._settings, self._service.report))
        self._engine = engine = loaded.engine
        failed = dict(loaded.rejected)
        for number, model in enumerate(loaded.models):
            self._service.report("warming up", 85 + 14 * number // len(loaded.models))
            try:
                await _warm_up(engine, model)
            except LoadError as error:
                if model.parent is None or not engine.is_alive:
                    raise
                failed[model.name] = str(error)
        models = tuple(model for model in loaded.models if model.name not in failed)
        for reason in failed.values():
            LOGGER.error("an adapter is not served: %s", reason)
        self._service.report("measuring the speed", 99)
        budget_s = max(MIN_BUDGET_S, BUDGET_SHARE * (time.monotonic() - started))
        capacity = await find_capacity(engine, models, self._settings, budget_s)
        LOGGER.info("%s", capacity.reason)
        if capacity.warning is not None:
            LOGGER.warning("%s", capacity.warning)
        self._service.begin_serving(engine, models, capacity, failed)
        names = ", ".join(model.name for model in models)
        LOGGER.info("ready after %.1f s: serving %s", time.monotonic() - started, names)

    async def _run_chat(self) -> None:
        has_sign_in = self._settings.chat_sign_in
        chat = await _in_thread(
            lambda: _make_chat(self._service, self._settings.release, has_sign_in=has_sign_in)
        )
        async with chat.lifespan():
            self._chat_page.application = chat
            LOGGER.info("the chat page is up")
            await asyncio.Event().wait()

    async def _drain(self) -> None:
        self._service.begin_draining()
        queue = self._service.queue
        if queue.slots_in_use or queue.waiting:
            LOGGER.info("stopping: %d requests are in flight, %d wait", queue.slots_in_use, queue.waiting)
        waits = (asyncio.create_task(queue.wait_until_idle()), asyncio.create_task(self._stop_now.wait()))
        await asyncio.wait(waits, timeout=self._settings.drain_grace_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if queue.slots_in_use:
            reason = "a second signal came" if self._stop_now.is_set() else "the grace is over"
            LOGGER.warning("%s: %d requests are cut off", reason, queue.slots_in_use)

    async def _close_engine(self) -> None:
        if self._engine is not None:
            timeout_s = FORCED_CLOSE_TIMEOUT_S if self._stop_now.is_set() else None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._engine.close(), timeout_s)

    async def _flush_traces(self) -> None:
        if self._tracing is not None and not self._stop_now.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_in_thread(self._tracing.close), FLUSH_S)


def configure(application: ASGIApp) -> uvicorn.Config:
    """Return uvicorn's configuration for the application."""
    return uvicorn.Config(
        application,
        lifespan="off",
        log_config=None,
        access_log=False,
        http=Protocol,
        # Nothing here uses WebSockets, which uvicorn enables if a library for them is installed.
        ws="none",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CONNECTION_GRACE_S,
        # TLS ends at the ingress, whose address is not known; the chat needs the browser's scheme.
        forwarded_allow_ips="*",
    )


def load_engine(settings: Settings, report: Callable[[str, int], None]) -> StartedEngine:
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


def _make_chat(service: Service, release: str, *, has_sign_in: bool) -> Chat:
    from inference.web.chat import make_chat  # noqa: PLC0415 - importing Gradio takes seconds; the API is up by now

    return make_chat(service, release, has_sign_in=has_sign_in)


async def _warm_up(engine: Engine, model: ServedModel) -> None:
    """Generate two tokens, so that the first client's request does not include one-time costs."""
    request = GenerationRequest(
        "warm-up-" + model.name, model.name, model.codec.encode("Hello")[:8] or (0,), 2, Sampling(0.0)
    )
    try:
        async for _ in engine.submit(request):
            pass
    except EngineError as error:
        raise LoadError(f"{model.name} was loaded and cannot be served: {error}") from error


async def find_capacity(
    engine: Engine, models: Sequence[ServedModel], settings: Settings, budget_s: float
) -> Capacity:
    """Measure a warm engine, and return how much it can do at once.

    Args:
        engine: The engine.
        models: Its models, the base first.
        settings: The server's settings.
        budget_s: About how long the measurement may take.

    Raises:
        LoadError: If the engine fails.
    """
    device = find_device(settings.device)
    max_batch = batch_limit(settings.max_concurrent, find_engine(settings.engine, settings.device), device)
    # Most requests are for the main adapter, where there is one.
    model = models[min(1, len(models) - 1)]
    try:
        cost = await measure_step_cost(engine, model, max_batch, budget_s)
    except EngineError as error:
        raise LoadError(f"{model.name} was loaded and cannot be served: {error}") from error
    full_length = min(settings.max_new_tokens, engine.context_tokens(model.name))
    return choose_capacity(cost, limits_of(settings), max_batch, full_length, engine.cache_tokens)


def limits_of(settings: Settings) -> Limits:
    """Return the limits on every request."""
    return Limits(
        max_concurrent=settings.max_concurrent,
        max_waiting=settings.max_waiting,
        max_new_tokens=settings.max_new_tokens,
        request_timeout_s=settings.request_timeout_s,
        max_per_key=settings.max_per_key,
    )


async def _in_thread(work: Callable[[], T]) -> T:
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


class _UvicornServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `ServerProcess`, which drains first and exits with 0."""
        yield


if __name__ == "__main__":
    main()

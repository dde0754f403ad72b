"""The server's link to its engine process: connect, follow the start, read the tokenizers, connect again.

Nothing here imports torch: the server's process needs tokenizers only.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from inference.engines.remote.engine import RemoteEngine, connect
from inference.engines.remote.tokenizers import Tokenizers
from inference.service.capacity import StepCost
from inference.startup import ReadyEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from inference.engines.protocol import ProgressCallback, ServedModel
    from inference.engines.remote.handshake import EngineStatus
    from inference.engines.remote.messages import Description
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)

RETRY_S: Final = 0.05
"""How long to wait before the next attempt to connect to an engine process that is not there."""


async def follow_engine(
    path: Path, settings: Settings, report: ProgressCallback
) -> AsyncIterator[ReadyEngine | None]:
    """Yield the engine whenever it, or what it serves, is another; None when it has gone. Never ends.

    Args:
        path: The socket's path.
        settings: The settings.
        report: Called with the progress of the engine's start.

    Raises:
        LoadError: If the engine process is of another release, or a tokenizer cannot be read.
    """
    tokenizers = Tokenizers(settings)
    while True:
        engine = await _connect(path, settings.release, tokenizers, report)
        try:
            while engine.is_alive and not engine.is_draining:
                engine.changed.clear()
                description = engine.description
                models = await engine.read_models()
                yield _ready(engine, description, models)
                await engine.changed.wait()
            report("waiting for the engine process", 0)
            yield None
            while engine.is_alive:
                engine.changed.clear()
                await engine.changed.wait()
        finally:
            await engine.close()
        LOGGER.warning("the engine process has ended")


async def _connect(
    path: Path, release: str, tokenizers: Tokenizers, report: ProgressCallback
) -> RemoteEngine:
    def on_status(status: EngineStatus) -> None:
        if status.state == "failed":
            LOGGER.error("the engine process has failed: %s", status.reason)
        report(status.reason or status.phase, status.percent)

    while True:
        with suppress(OSError):
            return await connect(path, release, tokenizers, on_status)
        report("waiting for the engine process", 0)
        await asyncio.sleep(RETRY_S)


def _ready(engine: RemoteEngine, description: Description, models: tuple[ServedModel, ...]) -> ReadyEngine:
    cost = None if description.step_cost is None else StepCost(*description.step_cost)
    return ReadyEngine(engine, models, description.failed_adapters, description.max_batch, cost)

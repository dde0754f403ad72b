"""A scripted engine behind a Unix socket, in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.engines.protocol import GenerationRequest, Sampling
from inference.engines.remote.engine import RemoteEngine, connect
from inference.engines.remote.host import EngineHost
from inference.engines.remote.messages import Description, ModelDescription, describe_model
from inference.engines.remote.tokenizers import Tokenizers
from inference.settings import Settings
from tests.doubles.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from inference.engines.protocol import Engine, ServedModel

PATIENCE_S = 60.0
END = 0


def description_of(scripted: ScriptedEngine, **changes: Any) -> Description:
    """Return the description of an engine, with changes."""
    values: dict[str, Any] = {
        "engine": "scripted",
        "models": tuple(
            ModelDescription(
                name=name, parent=None if name == "m" else "m", end_token_ids=scripted.end_token_ids,
                context_tokens=context, created=5, tokenizer="/mount/" + name,
            )
            for name, context in scripted.contexts.items()
        ),
        "failed_adapters": {}, "abilities": scripted.abilities, "cache_tokens": 4096, "max_batch": 8,
        "step_cost": (0.01, 0.001),
    }  # fmt: skip
    return Description(**(values | changes))


def make_request(model: str = "m", count: int = 50, **fields: Any) -> GenerationRequest:
    """Return a request for greedy tokens."""
    return GenerationRequest("r", model, (5, 6), count, Sampling(0.0), **fields)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens once sockets are read."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - it lets the sockets be read; no time passes
            await asyncio.sleep(0)


class HostedEngine:
    """A scripted engine behind a socket, and the servers that are connected to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = ScriptedEngine({"m": 100, "n": 200}, frozenset({END}))
        self.host = EngineHost(path, "engine's", stall_limit_s=PATIENCE_S)
        self.servers: list[RemoteEngine] = []
        self.tokenizers = Tokenizers(Settings(auth=False))

    def serve(self, **changes: Any) -> None:
        """Let the engine be ready."""
        self.host.begin_serving(self.engine, description_of(self.engine, **changes))

    async def connect(self) -> RemoteEngine:
        """Connect another server, which waits until the engine is ready."""
        async with asyncio.timeout(PATIENCE_S):
            self.servers.append(await connect(self.path, "server's", self.tokenizers))
        return self.servers[-1]


@contextlib.asynccontextmanager
async def hosted_engine() -> AsyncIterator[HostedEngine]:
    """Open the socket. The engine is not ready yet."""
    # pytest's own folders have names that are too long for a Unix socket.
    with tempfile.TemporaryDirectory() as folder:
        hosted = HostedEngine(Path(folder) / "engine.sock")
        await hosted.host.open()
        yield hosted
        for server in hosted.servers:
            await server.close()
        await hosted.engine.close()
        await hosted.host.close()
        await until(lambda: not hosted.host.connections)


@contextlib.asynccontextmanager
async def through_a_socket(engine: Engine, models: Sequence[ServedModel]) -> AsyncIterator[RemoteEngine]:
    """Put an engine behind a socket, and connect to it. The socket is closed when the engine dies."""
    described = tuple(describe_model(engine, model) for model in models)
    description = Description(
        engine="", models=described, failed_adapters={}, abilities=engine.abilities,
        cache_tokens=engine.cache_tokens, max_batch=8, step_cost=None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        host = EngineHost(Path(folder) / "engine.sock", "")
        await host.open()
        host.begin_serving(engine, description)
        watching = asyncio.create_task(_close_with_engine(host))
        remote = await connect(host.path, "", Tokenizers(Settings(auth=False)))
        yield remote
        watching.cancel()
        await remote.close()
        await host.close()
        await until(lambda: not host.connections)


async def _close_with_engine(host: EngineHost) -> None:
    await host.wait_for_death()
    await host.close()

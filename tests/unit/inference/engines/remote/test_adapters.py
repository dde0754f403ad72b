"""Adapters that are added and removed while requests run, through the socket."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from inference.engines.protocol import Increment, ServedModel
from inference.errors import EngineError, LoadError, RestartRequiredError
from tests.doubles.byte_codec import ByteCodec
from tests.doubles.engine_host import PATIENCE_S, HostedEngine, hosted_engine, make_request, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FOLDER: Final = Path("/mount/models/new")


@pytest.fixture
async def hosted(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HostedEngine]:
    async with hosted_engine() as hosted:
        # The files of its tokenizers do not exist.
        monkeypatch.setattr(hosted.tokenizers, "_read", lambda _model: NoTokenizer())
        hosted.engine.offers["new"] = ServedModel("new", "m", ByteCodec(), frozenset({0}), 9, "/mount/m")
        yield hosted


class NoTokenizer:
    chat_template = "x"


async def test_an_added_adapter_is_served_to_all_servers(hosted: HostedEngine) -> None:
    hosted.serve(failed_adapters={"new": "it did not fit", "other": "it is broken"})
    first, second = await hosted.connect(), await hosted.connect()
    added = await first.add_adapter("new", FOLDER)
    assert (added.name, added.parent, added.created, added.tokenizer) == ("new", "m", 9, "/mount/m")
    await asyncio.wait_for(second.changed.wait(), PATIENCE_S)
    for server in (first, second):
        assert [model.name for model in server.description.models] == ["m", "new", "n"]
        assert server.description.failed_adapters == {"other": "it is broken"}
        hosted.engine.play((0,))
        assert await anext(server.submit(make_request("new"))) == Increment((0,), "stop")
    # A new version of it takes its place.
    hosted.engine.offers["new"] = ServedModel("new", "m", ByteCodec(), frozenset({1}), 10, "/mount/m")
    assert (await second.add_adapter("new", FOLDER)).created == 10
    assert [model.name for model in second.description.models] == ["m", "new", "n"]


@pytest.mark.parametrize("error", [LoadError("rank 900"), RestartRequiredError("no room for another")])
async def test_an_adapter_that_is_refused_is_refused_with_its_reason(
    hosted: HostedEngine, error: LoadError
) -> None:
    hosted.serve()
    server = await hosted.connect()
    before = server.description
    hosted.engine.offers["new"] = error
    with pytest.raises(LoadError) as caught:
        await server.add_adapter("new", FOLDER)
    assert (type(caught.value), str(caught.value)) == (type(error), str(error))
    assert server.description == before


async def test_a_removed_adapter_leaves_when_its_requests_have_ended(hosted: HostedEngine) -> None:
    hosted.serve()
    server, other = await hosted.connect(), await hosted.connect()
    gate = asyncio.Event()
    hosted.engine.play((1,), gate, (0,))
    running = other.submit(make_request("n"))
    await anext(running)
    removing = asyncio.create_task(server.remove_adapter("n"))
    await until(lambda: all(len(each.description.models) == 1 for each in (server, other)))
    with pytest.raises(KeyError):
        other.submit(make_request("n"))
    # The service may still list it.
    assert other.context_tokens("n") == 200
    assert not removing.done()
    gate.set()
    assert await anext(running) == Increment((0,), "stop")
    await asyncio.wait_for(removing, PATIENCE_S)
    with pytest.raises(KeyError, match="n"):
        await server.remove_adapter("n")


async def test_a_change_ends_with_the_engine_s_process(hosted: HostedEngine) -> None:
    hosted.serve()
    server = await hosted.connect()
    hosted.engine.play((1,))
    await anext(server.submit(make_request("n")))
    removing = asyncio.create_task(server.remove_adapter("n"))
    await until(lambda: len(server.description.models) == 1)
    for connection in hosted.host.connections:
        connection._transport.abort()
    with pytest.raises(EngineError, match="the engine process has ended"):
        await removing
    with pytest.raises(EngineError, match="stopped"):
        await server.add_adapter("new", FOLDER)


async def test_the_base_cannot_be_removed(hosted: HostedEngine) -> None:
    hosted.serve()
    server = await hosted.connect()
    before = server.description
    with pytest.raises(KeyError, match="m"):
        await server.remove_adapter("m")
    # Nor by a server that asks all the same.
    with pytest.raises(KeyError, match="m"):
        await server._connection.change_adapter("m", None)
    assert server.description == before
    hosted.engine.play((0,))
    assert await anext(server.submit(make_request("m"))) == Increment((0,), "stop")

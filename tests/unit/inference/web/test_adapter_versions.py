"""Versions of adapters that a server notices on the share, and their names in the API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from inference.api_keys import ApiKey, digest_of
from inference.engines.protocol import ServedModel
from inference.service.adapter_watch import AdapterWatch
from inference.service.adapters import Adapters
from inference.service.requests import Limits
from inference.settings import Settings
from tests.doubles.api_server import BASE, END, ENDED, KEY, TUNED, ApiServer
from tests.doubles.byte_codec import ByteCodec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ADMIN: Any = {"Authorization": "Bearer admin-key"}


class Stage:
    """A server, the share that it watches, and the versions that its engine can load."""

    def __init__(self, mount: Path) -> None:
        keys = (ApiKey("ann", digest_of(KEY)),)
        admin = (ApiKey("default", digest_of("admin-key")),)
        self.mount = mount
        self.server = ApiServer(Limits(), Settings(mount=mount, api_keys=keys, admin_key=admin))
        self.server.engine.always = (ENDED,)
        service = self.server.service
        self.watch = AdapterWatch(mount, None, service, Adapters(service))

    def offer(self, *models: str) -> None:
        """Have the engine load these models."""
        for name in models:
            model = ServedModel(name, BASE, ByteCodec(), frozenset({END}), 1_800_000_000)
            self.server.engine.offers[name] = model

    async def index(self, generation: str, **numbers: int) -> None:
        """Write the index of versions of `mine`, by their names with `_` for `@`, and have it read."""
        adapters = {}
        for key, number in numbers.items():
            folder = f"models/mine/{number}/adapter"
            (self.mount / folder).mkdir(parents=True, exist_ok=True)
            (self.mount / folder / "adapter_config.json").write_text("{}")
            (self.mount / folder).with_name("version.json").write_text("{}")
            listed = {"folder": folder, "version": f"digest {number}", "number": number}
            adapters[key.replace("_", "@")] = listed
        document = {"generation": generation, "adapters": adapters}
        (self.mount / "models" / "index.json").write_text(json.dumps(document))
        await self.watch.poll()

    async def models(self) -> dict[str, int | None]:
        """Return the names in the API, and the version that each means."""
        listed = (await self.server.http.get("/v1/models")).json()["data"]
        return {model["id"]: model.get("version") for model in listed}

    async def version(self) -> dict[str, Any]:
        document: dict[str, Any] = (await self.server.http.get("/version")).json()
        return document


@pytest_asyncio.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.watch.begin()
    stage.offer("mine@1", "mine@2")
    await stage.index("one", mine=1)
    yield stage
    await stage.server.close()


async def test_a_version_has_two_names_and_an_answer_has_the_one_that_was_asked_for(stage: Stage) -> None:
    assert await stage.models() == {BASE: None, "mine": 1, "mine@1": 1, TUNED: None}
    for name in ("mine", "mine@1"):
        assert (await stage.server.chat(model=name)).json()["model"] == name
        assert (await stage.server.http.get(f"/v1/models/{name}")).json()["version"] == 1
    assert (await stage.server.chat(model="mine@2")).status_code == 404


async def test_two_versions_are_served_side_by_side_and_the_bare_name_moves(stage: Stage) -> None:
    await stage.index("two", mine=2, mine_1=1)
    assert await stage.models() == {BASE: None, "mine": 2, "mine@2": 2, "mine@1": 1, TUNED: None}
    document = await stage.version()
    assert document["adapters"] == ["mine", "mine@1", TUNED]
    assert document["adapter_versions"] == [
        {"name": "mine", "version": 2, "digest": "digest 2"},
        {"name": "mine@1", "version": 1, "digest": "digest 1"},
    ]
    stage.server.engine.offers.clear()
    # Nothing is loaded again: only names change.
    await stage.index("three", mine=1, mine_2=2)
    assert (await stage.models())["mine"] == 1
    await stage.index("four", mine=1)
    assert await stage.models() == {BASE: None, "mine": 1, "mine@1": 1, TUNED: None}


async def test_a_version_that_does_not_fit_leaves_the_one_before_until_it_is_taken_back(stage: Stage) -> None:
    await stage.index("bad", mine=3)
    assert (await stage.models())["mine"] == 1
    assert (await stage.server.chat(model="mine")).status_code == 200
    document = await stage.version()
    assert [failed["name"] for failed in document["failed_adapters"]] == ["mine@3"]
    assert document["adapter_versions"] == [{"name": "mine", "version": 1, "digest": "digest 1"}]
    response = await stage.server.chat(model="mine@3")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "adapter_failed")
    await stage.index("one", mine=1)
    assert "failed_adapters" not in await stage.version()
    assert (await stage.models())["mine"] == 1


async def test_a_candidate_has_no_bare_name(stage: Stage) -> None:
    await stage.index("none")
    await stage.index("candidate", mine_2=2)
    assert await stage.models() == {BASE: None, "mine@2": 2, TUNED: None}
    assert (await stage.server.chat(model="mine")).status_code == 404


async def test_versions_are_loaded_and_unloaded_over_http(stage: Stage) -> None:
    await stage.index("two", mine=2)
    stage.offer("old")
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    body: dict[str, Any] = {"lora_name": "old", "lora_path": "models/mine@1"}
    assert (await stage.server.http.post(load, json=body, headers=ADMIN)).status_code == 200
    assert (await stage.models())["old"] is None
    # The bare name is taken, and can be given to something else.
    stage.offer("mine")
    body = {"lora_name": "mine", "lora_path": "models/mine/1"}
    assert (await stage.server.http.post(load, json=body, headers=ADMIN)).status_code == 400
    body["load_inplace"] = True
    assert (await stage.server.http.post(load, json=body, headers=ADMIN)).status_code == 200
    models = await stage.models()
    assert (models["mine"], models["mine@2"]) == (None, 2)
    for name in ("mine", "mine@2"):
        response = await stage.server.http.post(unload, json={"lora_name": name}, headers=ADMIN)
        assert response.status_code == 200
    assert await stage.models() == {BASE: None, "old": None, TUNED: None}


async def test_a_server_that_takes_over_drops_a_version_that_left_the_index_meanwhile(stage: Stage) -> None:
    await stage.index("two", mine=2)
    await stage.index("one again", mine=1, mine_2=2)
    # Another server reads the index first when it has changed already, on an engine that has both.
    service = stage.server.service
    stage.watch = AdapterWatch(stage.mount, None, service, Adapters(service))
    path = stage.mount / "models" / "index.json"
    document = json.loads(path.read_text())
    del document["adapters"]["mine@2"]
    path.write_text(json.dumps({**document, "generation": "three"}))
    await stage.watch.begin()
    await stage.watch.poll()
    assert await stage.models() == {BASE: None, "mine": 1, "mine@1": 1, TUNED: None}

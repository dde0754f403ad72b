"""Adapters that are loaded and unloaded over HTTP, and those that a server notices on the share."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from inference.api_keys import ApiKey, digest_of
from inference.engines.protocol import ServedModel
from inference.errors import LoadError, RestartRequiredError
from inference.models.adapter_index import IndexedAdapter, selects
from inference.service.adapter_watch import AdapterWatch
from inference.service.adapters import Adapters
from inference.service.requests import Limits
from inference.settings import Settings
from tests.doubles.api_server import BASE, END, ENDED, KEY, TUNED, ApiServer
from tests.doubles.byte_codec import ByteCodec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx2 as httpx

ADMIN: Any = {"Authorization": "Bearer admin-key"}
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def settings_of(mount: Path, **fields: Any) -> Settings:
    keys = (ApiKey("ann", digest_of(KEY)),)
    return Settings(mount=mount, api_keys=keys, heartbeat_s=0.05, **fields)


def offer(server: ApiServer, name: str) -> None:
    server.engine.offers[name] = ServedModel(name, BASE, ByteCodec(), frozenset({END}), 1_800_000_000)
    server.engine.always = (ENDED,)


def make_folder(mount: Path, name: str) -> None:
    folder = mount / "models" / name / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ApiServer]:
    """A server with an admin key; it serves a base and the adapter `tickets`."""
    keys = (ApiKey("default", digest_of("admin-key")),)
    server = ApiServer(Limits(), settings_of(tmp_path, admin_key=keys))
    make_folder(tmp_path, "new")
    yield server
    await server.close()


async def load(server: ApiServer, **fields: Any) -> httpx.Response:
    body = {"lora_name": "new", "lora_path": "models/new"} | fields
    return await server.http.post(LOAD, json=body, headers=ADMIN)


async def names(server: ApiServer) -> list[str]:
    return [model["id"] for model in (await server.http.get("/v1/models")).json()["data"]]


async def test_an_adapter_is_loaded_answers_and_is_unloaded(server: ApiServer) -> None:
    offer(server, "new")
    response = await load(server)
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'new' added successfully.")
    assert await names(server) == [BASE, "new", TUNED]
    assert (await server.chat(model="new")).json()["choices"][0]["message"]["content"] == "Hi there"
    response = await server.http.post(UNLOAD, json={"lora_name": "new"}, headers=ADMIN)
    assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'new' removed successfully.")
    assert await names(server) == [BASE, TUNED]
    assert (await server.chat(model="new")).status_code == 404


async def test_an_adapter_is_loaded_twice_only_in_place(server: ApiServer) -> None:
    offer(server, "new")
    await load(server)
    response = await load(server)
    assert response.status_code == 400
    assert "set 'load_inplace' to True" in response.json()["error"]["message"]
    assert (await load(server, load_inplace=True)).status_code == 200
    assert await names(server) == [BASE, "new", TUNED]


async def test_a_request_that_runs_is_completed_after_its_adapter_was_unloaded(server: ApiServer) -> None:
    offer(server, "new")
    await load(server)
    may_end = asyncio.Event()
    server.engine.play(b"Hi", may_end, (*b" there", END))
    running = asyncio.create_task(server.chat(model="new"))
    while not server.engine.running:  # noqa: ASYNC110 - the engine has no event for it
        await asyncio.sleep(0)
    await server.http.post(UNLOAD, json={"lora_name": "new"}, headers=ADMIN)
    assert (await server.chat(model="new")).status_code == 404
    may_end.set()
    assert (await running).json()["choices"][0]["message"]["content"] == "Hi there"


@pytest.mark.parametrize("path", [LOAD, UNLOAD])
async def test_the_admin_key_alone_loads_adapters(server: ApiServer, path: str) -> None:
    body = {"lora_name": TUNED, "lora_path": "models/new"}
    response = await server.http.post(path, json=body)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "admin_key_required")
    response = await server.http.post(path, json=body, headers={"Authorization": "Bearer wrong"})
    assert response.status_code == 401
    assert await names(server) == [BASE, TUNED]
    assert (await server.http.get("/v1/models", headers=ADMIN)).status_code == 401


@pytest.mark.parametrize("auth", [True, False])
async def test_without_an_admin_key_the_way_to_load_is_explained(tmp_path: Path, auth: bool) -> None:  # noqa: FBT001 - a parameter of a test
    server = ApiServer(Limits(), settings_of(tmp_path, auth=auth))
    response = await server.http.post(UNLOAD, json={"lora_name": TUNED})
    assert response.status_code == 403
    assert "set FJARR_ADMIN_KEY" in response.json()["error"]["message"]
    assert await names(server) == [BASE, TUNED]
    await server.close()


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ({"lora_path": "models/nobody"}, 404, "No adapter found for 'models/nobody'"),
        ({"lora_path": "../elsewhere"}, 400, "is not on the share"),
        ({"lora_path": "/etc"}, 400, "is not on the share"),
        ({"lora_name": "other"}, 400, "does not fit"),
        ({"lora_name": ""}, 400, "lora_name"),
    ],
)
async def test_what_cannot_be_loaded_says_why(
    server: ApiServer, fields: dict[str, str], status: int, reason: str
) -> None:
    response = await load(server, **fields)
    assert response.status_code == status
    assert reason in response.json()["error"]["message"]
    assert await names(server) == [BASE, TUNED]


async def test_an_adapter_that_needs_a_restart_is_told_apart(server: ApiServer) -> None:
    server.engine.offers["new"] = RestartRequiredError("the adapter new gets a network of its own")
    assert (await load(server)).json()["error"]["code"] == "needs_restart"
    (failed,) = (await server.http.get("/version")).json()["failed_adapters"]
    assert failed["needs_restart"] is True
    assert failed["reason"] == "the adapter new gets a network of its own"
    models = (await server.http.get("/v1/models")).json()
    assert models["failed_adapters"] == [{"id": "new", "reason": "the adapter new gets a network of its own"}]
    offer(server, "new")
    await load(server)
    assert "failed_adapters" not in (await server.http.get("/v1/models")).json()


async def test_what_is_not_there_or_not_an_adapter_cannot_be_unloaded(server: ApiServer) -> None:
    for name in ("nobody", BASE):
        response = await server.http.post(UNLOAD, json={"lora_name": name}, headers=ADMIN)
        assert response.status_code == 404
    assert await names(server) == [BASE, TUNED]


def write_index(mount: Path, generation: str, **versions: str) -> None:
    adapters = {
        name: {"folder": f"models/{name}/adapter", "version": version} for name, version in versions.items()
    }
    (mount / "models").mkdir(exist_ok=True)
    (mount / "models" / "index.json").write_text(json.dumps({"generation": generation, "adapters": adapters}))


async def watch(server: ApiServer, mount: Path, setting: str | None = None) -> AdapterWatch:
    watcher = AdapterWatch(mount, setting, server.service, Adapters(server.service))
    await watcher.begin()
    return watcher


async def test_a_new_adapter_on_the_share_is_served_and_a_removed_one_is_not(
    server: ApiServer, tmp_path: Path
) -> None:
    write_index(tmp_path, "1", **{TUNED: "a"})
    watcher = await watch(server, tmp_path)
    await watcher.poll()
    assert await names(server) == [BASE, TUNED]
    offer(server, "new")
    write_index(tmp_path, "2", **{TUNED: "a", "new": "b"})
    await watcher.poll()
    assert await names(server) == [BASE, "new", TUNED]
    assert (await server.http.get("/version")).json()["adapter_generation"] == "2"
    write_index(tmp_path, "3", new="b")
    await watcher.poll()
    assert await names(server) == [BASE, "new"]
    assert (await server.chat(model=TUNED)).status_code == 404


async def test_only_what_has_changed_is_loaded_again(server: ApiServer, tmp_path: Path) -> None:
    write_index(tmp_path, "1", **{TUNED: "a"})
    watcher = await watch(server, tmp_path)
    server.engine.offers[TUNED] = LoadError("loaded again")
    write_index(tmp_path, "2", **{TUNED: "a"})
    await watcher.poll()
    assert not server.service.failed_adapters
    write_index(tmp_path, "3", **{TUNED: "b"})
    await watcher.poll()
    assert server.service.failed_adapters == {TUNED: "loaded again"}
    # What was served before still is.
    server.engine.always = (ENDED,)
    assert (await server.chat(model=TUNED)).status_code == 200


async def test_an_adapter_on_the_share_that_does_not_fit_is_reported_once_and_others_are_served(
    server: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = await watch(server, tmp_path)
    offer(server, "new")
    write_index(tmp_path, "1", bad="a", new="b")
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            await watcher.poll()
    assert await names(server) == [BASE, "new", TUNED]
    (record,) = [record for record in caplog.records if "an adapter is not served" in record.message]
    assert str(tmp_path / "models/bad/adapter") in record.message
    response = await server.chat(model="bad")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "adapter_failed")
    write_index(tmp_path, "2", new="b")
    await watcher.poll()
    assert not server.service.failed_adapters


async def test_adapters_that_the_setting_does_not_name_are_left_alone(
    server: ApiServer, tmp_path: Path
) -> None:
    watcher = await watch(server, tmp_path, f"models/{TUNED},models/named/adapter")
    for name in ("new", "named"):
        offer(server, name)
    write_index(tmp_path, "1", new="a", named="b")
    await watcher.poll()
    assert await names(server) == [BASE, "named", TUNED]


async def test_a_share_that_cannot_be_read_changes_nothing_and_is_reported_once(
    server: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = await watch(server, tmp_path)
    write_index(tmp_path, "1", **{TUNED: "a"})
    await watcher.poll()
    (tmp_path / "models" / "index.json").write_text("{")
    for _ in range(3):
        await watcher.poll()
    assert await names(server) == [BASE, TUNED]
    assert caplog.text.count("models/index.json on the share is damaged") == 1


def test_the_setting_selects_adapters_by_their_folders_and_names() -> None:
    unversioned = IndexedAdapter("a", "models/a/adapter", "1")
    assert selects(None, unversioned)
    assert selects("*", unversioned)
    assert selects("models/b, models/a/", unversioned)
    assert not selects("models/b", unversioned)
    second = IndexedAdapter("a@2", "models/a/2/adapter", "1", 2)
    for setting in ("models/a", "models/a/adapter", "models/a/2", "models/a/2/adapter", "models/a@2"):
        assert selects(setting, second)
    assert not selects("models/a/3", second)

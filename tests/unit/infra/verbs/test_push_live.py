"""Pushes that a live server serves without a restart, and adapters that are removed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from inference.models.adapter_index import parse_index
from infra.az.revision import FailedAdapter, VersionResponse
from infra.errors import RemoteError, UsageError
from infra.verbs.models import ModelStatus, list_models
from infra.verbs.push import remove_adapter
from tests.doubles.model_folders import make_adapter, make_base
from tests.doubles.weights_world import World

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A live server that reads the index, and an adapter and its base on the share."""
    make_adapter(tmp_path / "adapter")
    make_base(tmp_path / "base")
    world = World(tmp_path)
    world.push(tmp_path / "adapter", tmp_path / "base")
    world.app.reads_index = True
    world.go_live()
    return world


def index(world: World) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(world.share.files["models/index.json"])
    return document


def test_a_new_adapter_is_served_beside_the_others_without_a_restart(world: World) -> None:
    result = world.push(world.root / "adapter", None, name="other")
    assert (result.is_live, result.is_restarted, world.app.log) == (True, False, [])
    assert result.to_text().endswith("serving   since now, without a restart")
    assert sorted(index(world)["adapters"]) == ["mine", "other"]
    assert "models/mine/1/adapter/adapter_config.json" in world.share.files


def test_the_server_reads_the_index_that_a_push_writes(world: World) -> None:
    world.push(world.root / "adapter", None, name="deep/other")
    read = parse_index(world.share.files["models/index.json"])
    assert read.adapters["deep/other"].folder == "models/deep/other/1/adapter"
    assert read.generation == index(world)["generation"]


def test_only_a_changed_adapter_gets_another_version(world: World) -> None:
    world.push(world.root / "adapter", None, name="other")
    before = index(world)
    make_adapter(world.root / "adapter", text="trained further")
    assert world.push(world.root / "adapter", None).is_live
    after = index(world)
    assert after["generation"] != before["generation"]
    assert after["adapters"]["mine"]["version"] != before["adapters"]["mine"]["version"]
    assert after["adapters"]["other"] == before["adapters"]["other"]


def test_an_adapter_that_fine_tuning_left_on_the_share_is_listed(world: World) -> None:
    folder = "models/qlora/qlora/gpu_model/adapter"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        world.share.files[f"{folder}/{name}"] = b"{}"
    world.push(world.root / "adapter", None, name="other")
    assert index(world)["adapters"]["qlora/qlora/gpu_model"]["folder"] == folder


def test_a_share_without_an_index_gets_one(world: World) -> None:
    del world.share.files["models/index.json"]
    assert world.push(world.root / "adapter", None).is_live
    assert list(index(world)["adapters"]) == ["mine"]
    assert not world.push(world.root / "adapter", None).has_changed


def test_a_server_that_reads_no_index_is_restarted(world: World) -> None:
    world.app.reads_index = False
    result = world.push(world.root / "adapter", None, name="other")
    assert (result.is_live, result.is_restarted, world.app.log) == (False, True, ["restart app--1"])


def test_a_new_base_restarts_the_server(world: World) -> None:
    make_base(world.root / "base", text="BASE")
    result = world.push(world.root / "adapter", world.root / "base")
    assert (result.is_live, result.is_restarted) == (False, True)


def test_an_adapter_that_needs_a_restart_gets_one_and_the_reason_is_printed(world: World) -> None:
    world.app.failed_adapters = (
        FailedAdapter("other", "the adapter other carries embeddings", needs_restart=True),
    )
    result = world.push(world.root / "adapter", None, name="other")
    assert (result.is_live, result.is_restarted) == (False, True)
    assert "a restart is needed: the adapter other carries embeddings" in world.output.getvalue()


def test_an_adapter_that_the_server_rejects_is_an_error_and_nothing_restarts(world: World) -> None:
    world.app.failed_adapters = (FailedAdapter("other", "the adapter other does not fit org/base: no"),)
    with pytest.raises(RemoteError) as caught:
        world.push(world.root / "adapter", None, name="other")
    assert caught.value.message == "the server rejects the adapter other"
    assert caught.value.details == (
        "turned back: other is not live",
        "replica app--1-2: the adapter other does not fit org/base: no",
    )
    assert caught.value.hint == "correct it and push again; invoke models lists what is served"
    assert not [path for path in world.share.files if path.startswith("models/other/")]
    assert "other" not in index(world)["adapters"]
    assert world.app.log == []
    assert ".lock" not in world.share.files


def test_an_adapter_is_removed_from_the_server_before_the_share(world: World) -> None:
    world.push(world.root / "adapter", None, name="other")
    world.share.log.clear()
    result = remove_adapter(world.open(), "mine")
    assert (result.removed, result.is_live, result.is_restarted) == ("models/mine/1/adapter", True, False)
    changes = [change for change in world.share.log if ".lock" not in change]
    assert changes[:2] == ["write models/index.json", "move models/mine/1/version.json.uploading"]
    assert list(index(world)["adapters"]) == ["other"]
    assert not [path for path in world.share.files if path.startswith("models/mine")]
    assert result.to_text().splitlines() == [
        "removed   models/mine/1/adapter",
        "serving   the others, since now, without a restart",
    ]


def test_an_adapter_that_is_not_there_is_not_removed(world: World) -> None:
    with pytest.raises(UsageError) as caught:
        remove_adapter(world.open(), "nobody")
    assert caught.value.message == "there is no adapter 'nobody' on the share"
    assert caught.value.hint == "the share has: mine"


def test_removing_the_last_adapter_warns(world: World) -> None:
    remove_adapter(world.open(), "mine")
    assert "mine is the last adapter" in world.output.getvalue()


def test_models_lists_what_is_served_and_what_is_not() -> None:
    failed = (
        FailedAdapter("bad", "the adapter bad does not fit org/base: no"),
        FailedAdapter("mine", "the adapter mine carries embeddings", needs_restart=True),
    )
    answer = VersionResponse(
        "r", "", "", is_ready=True, failed_adapters=failed, adapters=("mine", "other"), base_model="org/base"
    )
    assert list_models(answer) == (
        ModelStatus("org/base", "", is_served=True),
        ModelStatus(
            "mine",
            "org/base",
            is_served=True,
            detail="the adapter mine carries embeddings",
            needs_restart=True,
        ),
        ModelStatus("other", "org/base", is_served=True),
        ModelStatus("bad", "org/base", is_served=False, detail="the adapter bad does not fit org/base: no"),
    )

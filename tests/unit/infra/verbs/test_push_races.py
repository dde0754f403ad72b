"""Pushes that are interrupted, run beside others, or meet what others left, and what is deleted by halves."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from inference.models.adapter_folders import find_adapters
from infra.az.revision import FailedAdapter
from infra.errors import RemoteError
from infra.models.adapter_index import read_index
from infra.models.records import read_adapters
from infra.models.versions import delete_version, find_version
from infra.release.lock import LOCK_PATH
from infra.release.releases import set_current, set_proven
from infra.verbs.push import PushResult, remove_adapter
from tests.doubles.indexing_app import IndexingApp
from tests.doubles.memory_share import is_killed_at
from tests.doubles.model_folders import make_adapter, tensors
from tests.doubles.weights_world import LIVE, World

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two replicas that serve version 1 of `mine`."""
    world = World(tmp_path)
    push(world, "first")
    world.app = IndexingApp(world.share, world.clock)  # type: ignore[assignment]  # an app, as well
    set_current(world.share, LIVE)
    set_proven(world.share, LIVE)
    for _ in range(2):
        world.app.version()
        world.clock.sleep(10)
    return world


def push(world: World, text: str, *, restarts: bool = True) -> PushResult:
    return world.push(make_adapter(world.root / text, text=text), None, restarts=restarts)


def weights(world: World, number: int) -> bytes:
    return world.share.files[f"models/mine/{number}/adapter/{WEIGHTS}"]


def test_a_push_names_where_it_was_seen_to_serve(world: World) -> None:
    pushed = push(world, "second")
    assert (pushed.proof, pushed.to_json()["proof"]) == ("address", "address")
    assert "proven" not in pushed.to_text()
    assert push(world, "second").proof == ""
    assert remove_adapter(world.open(), "mine@1").proof == ""
    world.push(make_adapter(world.root / "other"), None, name="other")
    assert remove_adapter(world.open(), "other").proof == "address"


def test_of_two_machines_that_push_at_once_each_gets_a_number_and_its_own_files(world: World) -> None:
    others: list[PushResult] = []

    def push_first(change: str) -> None:
        if change == f"create {LOCK_PATH}" and not others:
            others.append(PushResult("", "", has_changed=False))
            others[0] = push(world, "theirs")

    world.share.before_change = push_first
    ours = push(world, "ours")
    assert (others[0].model, ours.model) == ("mine@2", "mine@3")
    assert (weights(world, 2), weights(world, 3)) == (tensors("theirs"), tensors("ours"))
    assert sorted(read_index(world.share).versions["mine"]) == [1, 2, 3]


def test_a_version_that_was_removed_while_the_push_waited_is_uploaded_again(world: World) -> None:
    push(world, "second")
    gone: list[str] = []

    def remove_first(change: str) -> None:
        if change == f"create {LOCK_PATH}" and not gone:
            gone.append("mine@1")
            remove_adapter(world.open(), "mine@1")

    world.share.before_change = remove_first
    again = push(world, "first")
    assert (again.model, again.is_new_version, again.uploaded_files) == ("mine@3", True, 2)


def test_what_an_interrupted_push_left_under_the_number_does_not_stay(world: World) -> None:
    for name in ("version.json.uploading", "adapter/adapter_config.json", "adapter/tokenizer.json"):
        world.share.files[f"models/mine/2/{name}"] = b"{}"
    assert push(world, "second").model == "mine@2"
    names = {path.rpartition("/")[2] for path in world.share.files if path.startswith("models/mine/2/")}
    assert names == {"version.json", "adapter_config.json", WEIGHTS, ".fjarr-manifest.json"}


def test_a_push_that_was_killed_before_its_proof_is_proven_by_the_next(world: World) -> None:
    push(world, "second", restarts=False)
    assert not push(world, "second").has_changed
    app = world.app
    assert isinstance(app, IndexingApp)
    failed = FailedAdapter("mine@3", "the adapter mine@3 is too large")
    app.failures = {"app--1-1": (failed,), "app--1-2": (failed,)}
    push(world, "third", restarts=False)
    world.clock.sleep(10)
    with pytest.raises(RemoteError, match="the server rejects the adapter mine@3"):
        push(world, "third")
    assert LOCK_PATH not in world.share.files


def test_a_removed_adapter_leaves_the_record_of_the_live_release(world: World) -> None:
    world.push(make_adapter(world.root / "other"), None, name="other")
    assert [each.id for each in read_adapters(world.share, [(LIVE, None)])[0] or ()] == ["mine@1", "other@1"]
    remove_adapter(world.open(), "other")
    assert [each.id for each in read_adapters(world.share, [(LIVE, None)])[0] or ()] == ["mine@1"]


def test_a_version_that_is_deleted_by_halves_is_served_by_nobody(world: World, tmp_path: Path) -> None:
    push(world, "second")
    complete = dict(world.share.files)
    for step in count():
        world.share.files = dict(complete)
        was_killed = is_killed_at(
            world.share, step, lambda: delete_version(world.share, find_version(world.share, "mine@1"))
        )
        assert list(read_index(world.share).adapters) == ["mine"]
        mount = tmp_path / f"mount{step}"
        for path, content in world.share.files.items():
            if path.startswith("models/"):
                (mount / path).parent.mkdir(parents=True, exist_ok=True)
                (mount / path).write_bytes(content)
        assert find_adapters(mount) == (mount / "models/mine/2/adapter",)
        (mount / "models/index.json").unlink()
        assert find_adapters(mount) == (mount / "models/mine/2/adapter",)
        assert push(world, "third").model == "mine@3"
        if not was_killed:
            assert step > 3
            return


def test_a_removal_keeps_what_somebody_has_pushed_meanwhile(world: World) -> None:
    world.push(make_adapter(world.root / "other"), None, name="other")
    others: list[str] = []

    def push_first(change: str) -> None:
        if change == f"create {LOCK_PATH}" and not others:
            others.append("theirs")
            push(world, "theirs")

    world.share.before_change = push_first
    remove_adapter(world.open(), "other")
    live = {name: each.number for name, each in read_index(world.share).adapters.items()}
    assert live == {"mine": 2}

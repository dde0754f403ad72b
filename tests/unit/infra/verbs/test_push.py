"""Weights: judged on this machine, brought to the share once, and loaded by a live release."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from infra.errors import RemoteError, UsageError
from infra.models.adapter_index import read_index
from infra.models.hash_cache import HashCache
from infra.models.upload import MANIFEST, find_drafts, load_upload_set, plan_upload
from infra.models.weights import read_base
from tests.doubles.memory_app import Behaviour
from tests.doubles.memory_share import MemoryShare, is_killed_at
from tests.doubles.model_folders import make_adapter, make_base, tensors
from tests.doubles.weights_world import LIVE, World

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    make_adapter(tmp_path / "adapter")
    make_base(tmp_path / "base")
    return World(tmp_path)


def test_weights_travel_base_first_and_are_marked_until_all_are_there(world: World) -> None:
    result = world.push(world.root / "adapter", world.root / "base")
    assert result.has_changed
    assert result.uploaded_files == 5
    assert not result.is_restarted
    changes = [change for change in world.share.log if ".lock" not in change and "audit/" not in change]
    base, adapter = "model-cache/org/base", "models/mine/1/adapter"
    assert changes == [
        f"upload {base}/config.json.uploading",
        f"upload {base}/model.safetensors.uploading",
        f"upload {base}/tokenizer.json.uploading",
        f"delete {base}/{MANIFEST}",
        f"move {base}/model.safetensors",
        f"move {base}/tokenizer.json",
        f"move {base}/config.json",
        f"write {base}/{MANIFEST}",
        "upload models/mine/1/version.json.uploading",
        f"upload {adapter}/adapter_model.safetensors",
        f"write {adapter}/{MANIFEST}",
        f"upload {adapter}/adapter_config.json",
        "move models/mine/1/version.json",
        "write models/index.json",
    ]


def test_the_same_again_travels_not_at_all_and_needs_no_lock(world: World) -> None:
    world.go_live()
    world.push(world.root / "adapter", world.root / "base")
    before = list(world.share.log)
    again = world.push(world.root / "adapter", world.root / "base")
    assert not again.has_changed
    assert world.share.log == before
    assert again.to_text().endswith("uploaded  nothing: the share has it all")


def test_what_the_fine_tuning_step_left_is_the_first_version_and_stays(world: World) -> None:
    left = {"training_args.bin": b"x", "adapter_config.json": b"{}", "adapter_model.safetensors": b"old"}
    world.share.files |= {f"models/mine/adapter/{name}": content for name, content in left.items()}
    result = world.push(world.root / "adapter", None)
    assert (result.model, result.uploaded_files) == ("mine@2", 2)
    for name, content in left.items():
        assert world.share.files[f"models/mine/adapter/{name}"] == content
    assert world.share.files["models/mine/2/adapter/adapter_model.safetensors"] == tensors("adapter")


def test_a_file_that_somebody_removed_or_cut_on_the_share_travels_again(world: World) -> None:
    world.push(world.root / "adapter", world.root / "base")
    del world.share.files["model-cache/org/base/tokenizer.json"]
    world.share.files["model-cache/org/base/model.safetensors"] = b"cut"
    assert world.push(world.root / "adapter", world.root / "base").uploaded_files == 2


def test_a_damaged_manifest_on_the_share_costs_an_upload(world: World) -> None:
    world.push(world.root / "adapter", None)
    world.share.files[f"models/mine/1/adapter/{MANIFEST}"] = b"{"
    assert world.push(world.root / "adapter", None).uploaded_files == 2


def test_an_adapter_that_was_pushed_before_another_becomes_the_newest_again(world: World) -> None:
    make_adapter(world.root / "other", text="other")
    world.push(world.root / "adapter", None)
    world.push(world.root / "other", None, name="other")
    assert read_index(world.share).newest == "other"
    again = world.push(world.root / "adapter", None)
    assert (again.has_changed, again.uploaded_files) == (True, 0)
    assert read_index(world.share).newest == "mine"


def test_a_live_release_is_restarted_and_must_serve(world: World) -> None:
    world.go_live()
    assert world.push(world.root / "adapter", None).is_restarted
    assert world.app.log == ["restart app--1"]
    assert "no outage" in world.output.getvalue()


def test_a_live_release_is_left_alone_if_told_so(world: World) -> None:
    world.go_live()
    result = world.push(world.root / "adapter", None, restarts=False)
    assert (result.has_changed, result.is_restarted, world.app.log) == (True, False, [])


def adapters(world: World) -> dict[str, bytes]:
    return {path: content for path, content in world.share.files.items() if path.startswith("models/")}


def crash_with(world: World, weights: bytes) -> None:
    """Let the server crash while the share has an adapter with these weights."""
    world.app.behaviour = lambda _release: (
        Behaviour.CRASH if weights in world.share.files.values() else Behaviour.SERVE
    )


def test_an_adapter_that_the_live_release_crashes_with_is_turned_back(world: World) -> None:
    world.go_live()
    world.push(world.root / "adapter", world.root / "base")
    served, parsed = adapters(world), read_index(world.share)
    make_adapter(world.root / "adapter", text="trained further")
    crash_with(world, tensors("trained further"))
    with pytest.raises(RemoteError, match=f"release {LIVE} does not serve") as caught:
        world.push(world.root / "adapter", world.root / "base")
    assert caught.value.details[0] == f"turned back: mine@1 is live again, and {LIVE} serves again"
    assert adapters(world).keys() == served.keys()
    assert read_index(world.share).adapters == parsed.adapters
    assert ".lock" not in world.share.files
    world.app.behaviour = lambda _release: Behaviour.SERVE
    assert world.push(world.root / "adapter", world.root / "base").model == "mine@3"


def test_a_new_adapter_that_the_live_release_crashes_with_is_removed_again(world: World) -> None:
    world.go_live()
    crash_with(world, tensors("adapter"))
    with pytest.raises(RemoteError) as caught:
        world.push(world.root / "adapter", None)
    closing = f"turned back: mine is not live, and {LIVE} serves again"
    assert caught.value.details[0] == closing
    assert set(adapters(world)) == {"models/index.json"}


def test_a_release_that_does_not_serve_without_it_either_is_reported(world: World) -> None:
    world.go_live()
    world.app.behaviour = lambda _release: Behaviour.CRASH
    with pytest.raises(RemoteError) as caught:
        world.push(world.root / "adapter", None)
    assert caught.value.details[0].startswith(
        f"turned back: mine is not live, but {LIVE} does not serve: the cont"
    )


def test_cut_short_at_any_step_a_push_can_simply_be_run_again(world: World) -> None:
    world.push(world.root / "adapter", world.root / "base")
    old = dict(world.share.files)
    make_adapter(world.root / "adapter", text="longer than it was")
    make_base(world.root / "base", text="BASE")
    for step in count():
        world.share.files = dict(old)
        was_killed = is_killed_at(
            world.share, step, lambda: world.push(world.root / "adapter", world.root / "base")
        )
        world.push(world.root / "adapter", world.root / "base")
        assert world.share.files["models/mine/2/adapter/adapter_model.safetensors"] == tensors(
            "longer than it was"
        )
        assert read_index(world.share).adapters["mine"].folder == "models/mine/2/adapter"
        assert world.share.files["model-cache/org/base/model.safetensors"] == tensors(
            "BASE", is_adapter=False
        )
        assert not [path for path in world.share.files if path.endswith(".uploading")]
        if not was_killed:
            assert step > 8
            return


def test_a_plan_knows_its_bytes(world: World) -> None:
    weights = read_base(world.root / "base")
    upload_set = load_upload_set("model-cache/org/base", weights, HashCache(world.root / "h", world.clock))
    plan = plan_upload(world.share, upload_set)
    assert plan.upload_bytes == sum(path.stat().st_size for path in weights.files)


def test_what_interrupted_pushes_left_is_removed(world: World) -> None:
    base = "model-cache/org/base"
    world.share.files[f"{base}/old-shard.safetensors.uploading"] = b"half"
    world.push(world.root / "adapter", world.root / "base")
    assert not [path for path in world.share.files if path.endswith(".uploading")]


def test_leftovers_beside_complete_weights_are_removed_too(world: World) -> None:
    world.push(world.root / "adapter", world.root / "base")
    world.share.files["models/mine/1/adapter/old.safetensors.uploading"] = b"half"
    result = world.push(world.root / "adapter", world.root / "base")
    assert (result.has_changed, result.uploaded_files) == (True, 0)
    assert "models/mine/1/adapter/old.safetensors.uploading" not in world.share.files


def test_weights_that_change_while_they_travel_are_not_served(world: World) -> None:
    world.push(world.root / "adapter", world.root / "base")
    served = dict(world.share.files)
    make_adapter(world.root / "adapter", text="trained further")

    def train_on(change: str) -> None:
        if change.startswith("upload models/"):
            make_adapter(world.root / "adapter", text="trained further and further")

    world.share.before_change = train_on
    with pytest.raises(
        UsageError, match=r"adapter_model\.safetensors changed while .*mine/2/adapter were upl"
    ):
        world.push(world.root / "adapter", world.root / "base")
    for path, content in served.items():
        if path.startswith(("models/", "model-cache/")):
            assert world.share.files[path] == content


def test_old_leftovers_everywhere_are_found() -> None:
    share = MemoryShare()
    share.put("models/a/adapter/x.safetensors.uploading", b"")
    share.put("model-cache/org/base/y.safetensors.uploading", b"")
    share.put("models/b/adapter/x.safetensors", b"")
    share.put("models/b/adapter/z.safetensors.uploading", b"")
    assert list(find_drafts(share, "models", 4.0)) == ["models/a/adapter/x.safetensors.uploading"]
    assert len(list(find_drafts(share, "models", 5.0))) == 2

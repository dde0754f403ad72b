"""Weights: judged on this machine, brought to the share once, and loaded by a live release."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

from infra.errors import RemoteError, UsageError
from infra.models.hash_cache import HashCache
from infra.models.upload import MANIFEST, PREVIOUS_SUFFIX, find_drafts, load_upload_set, plan_upload
from infra.models.weights import read_base
from infra.verbs.push import newest_adapter
from tests.doubles.memory_app import Behaviour
from tests.doubles.memory_share import MemoryShare
from tests.doubles.model_folders import make_adapter, make_base, tensors
from tests.doubles.weights_world import LIVE, World

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    make_adapter(tmp_path / "adapter")
    make_base(tmp_path / "base")
    return World(tmp_path)


def test_weights_travel_base_first_and_under_other_names_until_all_are_there(world: World) -> None:
    result = world.push(world.root / "adapter", world.root / "base")
    assert result.has_changed
    assert result.uploaded_files == 5
    assert not result.is_restarted
    changes = [change for change in world.share.log if ".lock" not in change and "audit/" not in change]
    base, adapter = "model-cache/org/base", "models/mine/adapter"
    assert changes == [
        f"upload {base}/config.json.uploading",
        f"upload {base}/model.safetensors.uploading",
        f"upload {base}/tokenizer.json.uploading",
        f"delete {base}/{MANIFEST}",
        f"move {base}/model.safetensors",
        f"move {base}/tokenizer.json",
        f"move {base}/config.json",
        f"write {base}/{MANIFEST}",
        f"upload {adapter}/adapter_config.json.uploading",
        f"upload {adapter}/adapter_model.safetensors.uploading",
        f"delete {adapter}/{MANIFEST}",
        f"move {adapter}/adapter_model.safetensors",
        f"move {adapter}/adapter_config.json",
        f"write {adapter}/{MANIFEST}",
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


def test_only_what_changed_travels_and_what_is_gone_goes(world: World) -> None:
    (world.root / "adapter" / "tokenizer.json").write_text("{}")
    world.push(world.root / "adapter", world.root / "base")
    make_adapter(world.root / "adapter", text="trained further")
    (world.root / "adapter" / "tokenizer.json").unlink()
    result = world.push(world.root / "adapter", world.root / "base")
    assert result.uploaded_files == 1
    assert "models/mine/adapter/tokenizer.json" not in world.share.files
    assert world.share.files["models/mine/adapter/adapter_model.safetensors"] == tensors("trained further")


def test_what_the_fine_tuning_step_left_in_the_folder_stays(world: World) -> None:
    world.share.files["models/mine/adapter/training_args.bin"] = b"x"
    world.share.files["models/mine/adapter/adapter_model.safetensors"] = b"old"
    assert world.push(world.root / "adapter", None).uploaded_files == 2
    assert world.share.files["models/mine/adapter/training_args.bin"] == b"x"
    assert world.share.files["models/mine/adapter/adapter_model.safetensors"] == tensors("adapter")


def test_a_file_that_somebody_removed_or_cut_on_the_share_travels_again(world: World) -> None:
    world.push(world.root / "adapter", world.root / "base")
    del world.share.files["model-cache/org/base/tokenizer.json"]
    world.share.files["model-cache/org/base/model.safetensors"] = b"cut"
    assert world.push(world.root / "adapter", world.root / "base").uploaded_files == 2


def test_a_damaged_manifest_on_the_share_costs_an_upload(world: World) -> None:
    world.push(world.root / "adapter", None)
    world.share.files[f"models/mine/adapter/{MANIFEST}"] = b"{"
    assert world.push(world.root / "adapter", None).uploaded_files == 2


def test_an_adapter_that_was_pushed_before_another_becomes_the_newest_again(world: World) -> None:
    make_adapter(world.root / "other", text="other")
    world.push(world.root / "adapter", None)
    world.push(world.root / "other", None, name="other")
    assert newest_adapter(world.share) == "models/other/adapter"
    again = world.push(world.root / "adapter", None)
    assert again.uploaded_files == 1
    assert newest_adapter(world.share) == "models/mine/adapter"


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
    (world.root / "adapter" / "tokenizer.json").write_text("{}")
    world.push(world.root / "adapter", world.root / "base")
    served = adapters(world)
    make_adapter(world.root / "adapter", text="trained further")
    (world.root / "adapter" / "tokenizer.json").unlink()
    crash_with(world, tensors("trained further"))
    with pytest.raises(RemoteError, match=f"release {LIVE} does not serve") as caught:
        world.push(world.root / "adapter", world.root / "base")
    assert caught.value.details[0] == f"turned back: the adapter before is back, and {LIVE} serves again"
    assert adapters(world) == served
    assert ".lock" not in world.share.files
    world.app.behaviour = lambda _release: Behaviour.SERVE
    assert world.push(world.root / "adapter", world.root / "base").uploaded_files == 1
    assert not [path for path in world.share.files if path.endswith(PREVIOUS_SUFFIX)]


def test_a_new_adapter_that_the_live_release_crashes_with_is_removed_again(world: World) -> None:
    world.go_live()
    crash_with(world, tensors("adapter"))
    with pytest.raises(RemoteError) as caught:
        world.push(world.root / "adapter", None)
    closing = f"turned back: the adapter was removed from the share again, and {LIVE} serves again"
    assert caught.value.details[0] == closing
    assert set(adapters(world)) == {"models/index.json"}


def test_a_release_that_does_not_serve_without_it_either_is_reported(world: World) -> None:
    world.go_live()
    world.app.behaviour = lambda _release: Behaviour.CRASH
    with pytest.raises(RemoteError) as caught:
        world.push(world.root / "adapter", None)
    assert caught.value.details[0].startswith(
        f"turned back: the adapter was removed from the share again, but {LIVE} does not serve: the cont"
    )


class KilledError(BaseException):
    """Stand for the end of the process."""


def test_cut_short_at_any_step_a_push_can_simply_be_run_again(world: World) -> None:
    world.push(world.root / "adapter", world.root / "base")
    old = dict(world.share.files)
    make_adapter(world.root / "adapter", text="longer than it was")
    make_base(world.root / "base", text="BASE")
    for step in count():
        world.share.files = dict(old)
        changes = iter(range(step))

        def die(_change: str) -> None:
            if next(changes, None) is None:  # noqa: B023  # called within this turn of the loop only
                raise KilledError

        world.share.before_change = die
        try:
            world.push(world.root / "adapter", world.root / "base")
        except KilledError:
            was_killed = True
        else:
            was_killed = False
        world.share.before_change = lambda _change: None
        world.push(world.root / "adapter", world.root / "base")
        assert world.share.files["models/mine/adapter/adapter_model.safetensors"] == tensors(
            "longer than it was"
        )
        assert world.share.files["model-cache/org/base/model.safetensors"] == tensors(
            "BASE", is_adapter=False
        )
        assert not [path for path in world.share.files if path.endswith(".uploading")]
        if not was_killed:
            assert step > 8
            return


def test_cut_short_in_the_middle_the_old_weights_travel_again_whatever_the_sizes(world: World) -> None:
    """Between two renames the folder is a mixture; going back to the old files must not trust it."""
    world.push(world.root / "adapter", None)
    make_adapter(world.root / "adapter", text="ADAPTER")

    def die(change: str) -> None:
        if change == "move models/mine/adapter/adapter_config.json":
            raise KilledError

    (world.root / "adapter" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "org/base", "peft_type": "lora", "r": 1}'
    )
    world.share.before_change = die
    with pytest.raises(KilledError):
        world.push(world.root / "adapter", None)
    world.share.before_change = lambda _change: None
    make_adapter(world.root / "adapter")
    world.push(world.root / "adapter", None)
    assert world.share.files["models/mine/adapter/adapter_model.safetensors"] == tensors("adapter")


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
    world.share.files["models/mine/adapter/old.safetensors.uploading"] = b"half"
    result = world.push(world.root / "adapter", world.root / "base")
    assert (result.has_changed, result.uploaded_files) == (True, 0)
    assert "models/mine/adapter/old.safetensors.uploading" not in world.share.files


def test_weights_that_change_while_they_travel_are_not_served(world: World) -> None:
    world.push(world.root / "adapter", world.root / "base")
    served = dict(world.share.files)
    make_adapter(world.root / "adapter", text="trained further")

    def train_on(change: str) -> None:
        if change.startswith("upload models/"):
            make_adapter(world.root / "adapter", text="trained further and further")

    world.share.before_change = train_on
    with pytest.raises(UsageError, match=r"adapter_model\.safetensors changed while .*mine/adapter were upl"):
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

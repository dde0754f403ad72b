"""Weights: judged on this machine, brought to the share once, and loaded by a live release."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

import pytest

from infra.clock import ManualClock
from infra.console import Console
from infra.deploy_context import DeployContext
from infra.errors import RemoteError, UsageError
from infra.models.hash_cache import HashCache
from infra.models.safetensors_header import SafetensorsError, check_safetensors
from infra.models.upload import MANIFEST, load_upload_set, plan_upload
from infra.models.weights import adapter_name_of, base_id_of, read_adapter, read_base
from infra.release.lock import DeployLock, Holder
from infra.release.releases import set_current, set_proven
from infra.release.rollout import at_once
from infra.verbs.push import (
    PushResult,
    Selection,
    load_upload_sets,
    locate_base,
    newest_adapter,
    push_upload_sets,
    select_weights,
)
from tests.doubles.memory_app import Behaviour, MemoryApp
from tests.doubles.memory_share import MemoryShare

if TYPE_CHECKING:
    from pathlib import Path

LIVE = "20260101T120000Z-0123abcd"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def tensors(text: str = "weights") -> bytes:
    data = text.encode()
    tensor = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "t": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + data


def make_adapter(folder: Path, base: str = "org/base", text: str = "adapter") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"base_model_name_or_path": base, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(tensors(text))
    return folder


def make_base(folder: Path, text: str = "base") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(tensors(text))
    return folder


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not safetensors, or is cut off in its header"),
        (b"PK\x03\x04 a pickle of torch", "is not safetensors, or is cut off in its header"),
        (tensors()[:20], "is not safetensors, or is cut off in its header"),
        (tensors()[:-1], "is damaged: it has"),
        (tensors() + b"x", "is damaged: it has"),
        (b"\x02\0\0\0\0\0\0\0{}", "has no tensors"),
        (b"\x02\0\0\0\0\0\0\0[]", "its header cannot be read"),
        (b"\x08\0\0\0\0\0\0\0" + b'{"t": 1}', "its header cannot be read"),
    ],
)
def test_a_damaged_safetensors_file_is_found(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SafetensorsError, match=reason):
        check_safetensors(tmp_path / "x")


def test_a_whole_safetensors_file_is_counted(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(tensors())
    assert check_safetensors(tmp_path / "x") == 1


def test_an_adapter_is_taken_with_what_a_server_loads_and_nothing_else(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "run" / "adapter")
    for name in (
        "tokenizer.json",
        "merges.txt",
        "README.md",
        "training_args.bin",
        "model.py",
        ".hidden.json",
    ):
        (folder / name).write_text("x")
    (folder / "checkpoint-1").mkdir()
    adapter = read_adapter(folder)
    assert [path.name for path in adapter.weights.files] == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "merges.txt",
        "tokenizer.json",
    ]
    assert adapter.weights.left_out == ("training_args.bin",)


def test_all_that_an_adapter_lacks_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(UsageError) as caught:
        read_adapter(tmp_path)
    assert caught.value.message == f"{tmp_path} is not an adapter that can be served"
    assert caught.value.details == ("adapter_config.json is missing", "it has no weights (*.safetensors)")
    assert (
        caught.value.hint == "adapter_model.bin is a pickle, which can run code: save it again as safetensors"
    )


def test_an_adapter_without_a_base_is_refused(tmp_path: Path) -> None:
    make_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError) as caught:
        read_adapter(tmp_path)
    assert caught.value.details == (
        "adapter_config.json does not name its base model (base_model_name_or_path)",
    )


def test_an_adapter_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        read_adapter(tmp_path / "gone")


def test_all_that_a_base_lacks_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").write_bytes(tensors()[:-1])
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError) as caught:
        read_base(tmp_path)
    assert [detail.split(":")[0] for detail in caught.value.details] == [
        "config.json cannot be read",
        "it has no tokenizer (tokenizer.json, tokenizer.model, vocab.json, spiece.model)",
        "model-1.safetensors",
        "model-2.safetensors is missing, which model.safetensors.index.json lists",
    ]


@pytest.mark.parametrize("base", ["org/base", "model-cache/org/base"])
def test_a_base_that_the_server_finds_by_its_name_is_left_as_it_is(tmp_path: Path, base: str) -> None:
    adapter = read_adapter(make_adapter(tmp_path, base))
    assert adapter.config_for("org/base") == (tmp_path / "adapter_config.json").read_bytes()


def test_a_path_of_this_machine_becomes_one_that_is_relative_to_the_mount(tmp_path: Path) -> None:
    adapter = read_adapter(make_adapter(tmp_path, "/home/ida/models/base"))
    config = json.loads(adapter.config_for("local/base"))
    assert config == {"base_model_name_or_path": "model-cache/local/base", "peft_type": "LORA"}


@pytest.mark.parametrize(
    ("folder", "base_id"),
    [
        ("x/model-cache/microsoft/Phi-3", "microsoft/Phi-3"),
        ("hub/models--org--a-name/snapshots/0123abcd", "org/a-name"),
        ("my models/some base!", "local/some-base"),
    ],
)
def test_a_base_is_named_by_its_folder(tmp_path: Path, folder: str, base_id: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert base_id_of(tmp_path / folder) == base_id


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("ticket-triage/adapter", "ticket-triage"),
        ("my run 7", "my-run-7"),
        ("gpu_model/adapter", "gpu_model"),
    ],
)
def test_an_adapter_is_named_by_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    assert adapter_name_of(tmp_path / folder) == name


def test_a_base_is_located_here_by_path_and_elsewhere_by_id(tmp_path: Path) -> None:
    here = make_base(tmp_path / "model-cache" / "org" / "base")
    other = make_base(tmp_path / "other")
    assert locate_base("model-cache/org/base", tmp_path) == ("org/base", here)
    assert locate_base(str(other), tmp_path) == ("local/other", other)
    assert locate_base("org/elsewhere", tmp_path) == ("org/elsewhere", None)
    assert locate_base("/gone/model-cache/org/base", tmp_path) == ("org/base", None)


@pytest.mark.parametrize("reference", ["", "/gone/base", "./gone", "a/b/c", "name"])
def test_a_base_that_is_nowhere_is_refused_with_what_to_say(tmp_path: Path, reference: str) -> None:
    with pytest.raises(UsageError) as caught:
        locate_base(reference, tmp_path)
    assert caught.value.hint == "add --base FOLDER, or --base ORG/NAME"


def test_a_choice_is_judged_before_anything_travels(tmp_path: Path) -> None:
    adapter, base = make_adapter(tmp_path / "mine" / "adapter"), make_base(tmp_path / "base")
    selected = select_weights(tmp_path, adapter, str(base), Console(io.StringIO()))
    assert (selected.name, selected.base_id, selected.base) == ("mine", "local/base", base)
    assert (selected.adapter_target, selected.base_target) == (
        "models/mine/adapter",
        "model-cache/local/base",
    )
    (base / "model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match="is not a base model that can be served"):
        select_weights(tmp_path, adapter, str(base), Console(io.StringIO()))


def test_digests_are_cached_until_the_file_changes(tmp_path: Path) -> None:
    file, memory = tmp_path / "weights", tmp_path / ".fjarr" / "hashes.json"
    file.write_bytes(b"one")
    os.utime(file, (1000, 1000))
    clock = ManualClock(NOW)
    first = HashCache(memory, clock)
    entry = first.entry(file, "w")
    first.save()
    again = HashCache(memory, clock)
    file.write_bytes(b"two")
    os.utime(file, (1000, 1000))
    assert again.entry(file, "w") == entry, "size and time are the same, so the file is not read"
    os.utime(file, (1001, 1001))
    assert again.entry(file, "w") != entry


def test_a_file_that_was_just_written_is_not_cached(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    os.utime(file, (1000, 1000))
    clock = ManualClock(datetime.fromtimestamp(1001, UTC))
    cache = HashCache(tmp_path / "hashes.json", clock)
    entry = cache.entry(file, "w")
    file.write_bytes(b"two")
    os.utime(file, (1000, 1000))
    assert cache.entry(file, "w") != entry


def test_a_damaged_cache_is_empty(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"x": 1}'):
        (tmp_path / "hashes.json").write_text(text)
        cache = HashCache(tmp_path / "hashes.json", ManualClock(NOW))
        (tmp_path / "w").write_bytes(b"one")
        assert cache.entry(tmp_path / "w", "w").size_bytes == 3


@dataclass
class World:
    """A share, an app, and a folder with weights."""

    root: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    share: MemoryShare = field(default_factory=MemoryShare)
    output: io.StringIO = field(default_factory=io.StringIO)
    pushes: int = 0
    app: MemoryApp = field(init=False)

    def __post_init__(self) -> None:
        self.app = MemoryApp(self.share, self.clock)

    def go_live(self) -> None:
        self.share.files[f"releases/{LIVE}/release.json"] = b""
        set_current(self.share, LIVE)
        set_proven(self.share, LIVE)
        self.app.restart("app--1")
        self.clock.sleep(10)
        self.app.version()
        self.app.log.clear()

    def push(
        self, adapter: Path, base: Path | None, name: str = "mine", *, restarts: bool = True
    ) -> PushResult:
        self.pushes += 1
        console = Console(self.output)
        holder = Holder("ida", "laptop", self.pushes, 0.0)
        lock = DeployLock(self.share, self.clock, holder, console.warn, lambda who: who.pid == self.pushes)
        context = DeployContext(self.share, self.app, lock, self.clock, console, at_once, timeout_s=300.0)
        selection = Selection(read_adapter(adapter), name, "org/base", base)
        hashes = HashCache(self.root / "hashes.json", self.clock)
        return push_upload_sets(context, selection, load_upload_sets(selection, hashes), restarts=restarts)


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
    changes = [change for change in world.share.log if ".lock" not in change]
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


def test_a_live_release_that_crashes_with_new_weights_is_an_error(world: World) -> None:
    world.go_live()
    world.app.behaviour = lambda _release: Behaviour.CRASH
    with pytest.raises(RemoteError) as caught:
        world.push(world.root / "adapter", None)
    assert caught.value.details[0] == "the new weights are on the share; push others to replace them"
    assert ".lock" not in world.share.files


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
        assert world.share.files["model-cache/org/base/model.safetensors"] == tensors("BASE")
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
        '{"base_model_name_or_path": "org/base", "peft_type": "lora"}'
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

"""Where the files of a base model are read from: the choice, and what is done about it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inference.errors import LoadError
from inference.models import local_copies
from inference.models.disk import PLATFORM_DISK_BYTES, SPARE_DISK_BYTES, free_disk_bytes, weights_folder
from inference.models.local_copies import (
    SPARE_MEMORY_BYTES,
    Choice,
    Need,
    Situation,
    choose_place,
    list_files,
    local_base,
)
from inference.models.weights import BaseModel
from inference.settings import Settings
from tests.doubles.model_folders import make_base

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 2**30
SHARED = "its files are on a share"
ROOMY = Situation(
    source="network", target="disk", total=5 * GIB, there=0, disk_free=50 * GIB, removable=0, disk_reserved=0,
    memory_free=50 * GIB, memory_reserved=0,
)  # fmt: skip
LITTLE_DISK: dict[str, Any] = {"disk_free": 6 * GIB}
LITTLE_MEMORY: dict[str, Any] = {"memory_free": 6 * GIB - 1}
PLENTY = Need(0, 0, 100 * GIB)


@pytest.mark.parametrize(
    ("changes", "place", "reason"),
    [
        ({}, "disk", SHARED),
        ({"source": "disk"}, "share", "its files are on this machine"),
        ({"source": "memory"}, "share", "its files are on this machine"),
        (LITTLE_DISK, "memory", f"{SHARED}, and 1024 MiB are missing on the local disk"),
        (LITTLE_DISK | {"there": GIB}, "disk", SHARED),
        (LITTLE_DISK | {"removable": GIB}, "disk", SHARED),
        # What is there already needs no room, however full the disk is.
        ({"disk_free": 0, "there": 5 * GIB}, "disk", SHARED),
        ({"disk_reserved": 44 * GIB}, "memory", f"{SHARED}, and 1024 MiB are missing on the local disk"),
        ({"target": "memory"}, "memory", f"{SHARED}, and the folder of the copies is in memory"),
        ({"target": "network"}, "memory", f"{SHARED}, and the folder of the copies is on a share as well"),
        (
            LITTLE_DISK | LITTLE_MEMORY,
            "share",
            "1024 MiB are missing on the local disk, and 1 MiB of memory are missing",
        ),
        (
            LITTLE_DISK | {"memory_reserved": 45 * GIB},
            "share",
            "1024 MiB are missing on the local disk, and 1024 MiB of memory are missing",
        ),
    ],
)  # fmt: skip
def test_what_decides_where_a_base_is_read_from(changes: dict[str, Any], place: str, reason: str) -> None:
    assert choose_place("auto", replace(ROOMY, **changes)) == Choice(place, reason)  # type: ignore[arg-type]  # one of the three


def test_a_copy_leaves_room_for_other_things() -> None:
    fitting = ROOMY.total + SPARE_DISK_BYTES
    assert choose_place("auto", replace(ROOMY, disk_free=fitting)).place == "disk"
    short = replace(ROOMY, disk_free=fitting - 1)
    assert choose_place("auto", short).place == "memory"
    fitting = ROOMY.total + SPARE_MEMORY_BYTES
    assert choose_place("auto", replace(short, memory_free=fitting)).place == "memory"
    assert choose_place("auto", replace(short, memory_free=fitting - 1)).place == "share"


@pytest.mark.parametrize("source", ["disk", "network", "memory"])
def test_a_setting_is_obeyed_whatever_the_files_are_on(source: Any) -> None:
    situation = replace(ROOMY, source=source)
    places = [choose_place(setting, situation).place for setting in ("disk", "memory", "off")]
    assert places == ["disk", "memory", "share"]


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("disk", "1024 MiB are missing on the local disk: leave it at auto, or free some"),
        ("memory", "1 MiB of memory are missing: leave it at auto, or free some"),
    ],
)
def test_a_setting_that_asks_for_what_does_not_fit_is_an_error(setting: str, reason: str) -> None:
    with pytest.raises(LoadError) as caught:
        choose_place(setting, replace(ROOMY, **(LITTLE_DISK | LITTLE_MEMORY)))
    assert str(caught.value) == f"FJARR_LOCAL_WEIGHTS is {setting}, and {reason}"


def test_where_the_system_has_no_files_in_memory_the_share_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    assert choose_place("auto", replace(ROOMY, **LITTLE_DISK)) == Choice(
        "share", "1024 MiB are missing on the local disk, and this system has no files in memory"
    )


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    folder = make_base(tmp_path / "mount/model-cache/org/base")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tools.jinja").write_text("{}")
    for name in ("consolidated.safetensors", "pytorch_model.bin", "model.safetensors.uploading"):
        (folder / name).write_bytes(b"not needed")
    return BaseModel("org/base", str(folder))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(mount=tmp_path / "mount", weights_folder=tmp_path / "copies", merge_folder=tmp_path / "m")


@pytest.fixture
def on_a_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    monkeypatch.setattr(
        local_copies,
        "detect_storage",
        lambda path: "network" if path.is_relative_to(mount) else "disk",
    )


def names(folder: str) -> set[str]:
    paths = Path(folder).rglob("*")
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


COPIED = {"config.json", "tokenizer.json", "model.safetensors", "additional_chat_templates/tools.jinja"}


def bring(base: BaseModel, settings: Settings, need: Need = PLENTY) -> tuple[BaseModel, set[str]]:
    with local_base(base, need, settings, lambda _phase, _percent: None) as local:
        return local, names(local.source)


def test_what_an_engine_reads_is_the_weights_and_all_that_are_none(base: BaseModel) -> None:
    assert {file.name for file in list_files(base)} == COPIED


def test_pickled_weights_are_read_where_there_are_no_others(base: BaseModel, tmp_path: Path) -> None:
    folder = tmp_path / "mount/model-cache/org/base"
    for path in folder.glob("*.safetensors"):
        path.unlink()
    assert {file.name for file in list_files(base)} == COPIED - {"model.safetensors"} | {"pytorch_model.bin"}


def test_a_folder_of_this_machine_is_read_where_it_is(base: BaseModel, settings: Settings) -> None:
    assert bring(base, settings)[0] is base
    assert not weights_folder(settings).exists()


def test_a_base_on_the_hub_is_left_to_the_engine(settings: Settings) -> None:
    hub = BaseModel("org/hub", "org/hub")
    with local_base(hub, PLENTY, settings, lambda _phase, _percent: None) as local:
        assert local is hub


@pytest.mark.usefixtures("on_a_share")
def test_a_base_on_a_share_is_copied_once(
    base: BaseModel, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    local, copied = bring(base, settings)
    assert (local.name, copied) == (base.name, COPIED)
    assert local.source.startswith(str(settings.weights_folder))
    assert any("MB/s" in record.getMessage() for record in caplog.records)
    caplog.clear()
    assert bring(base, settings) == (local, COPIED)
    assert not any("MB/s" in record.getMessage() for record in caplog.records)


@pytest.mark.usefixtures("on_a_share")
def test_where_the_disk_is_short_a_base_is_read_into_memory_and_given_back(
    base: BaseModel, settings: Settings
) -> None:
    local, read = bring(base, settings, replace(PLENTY, disk=2**60))
    assert read == COPIED
    assert names(local.source) == set()
    assert not weights_folder(settings).exists()


@pytest.mark.usefixtures("on_a_share")
def test_where_nothing_fits_a_base_is_read_from_the_share_and_the_log_says_why(
    base: BaseModel, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    assert bring(base, settings, Need(2**60, 0, 0))[0] is base
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "org/base is read where it is, because" in record.getMessage()
    assert "missing on the local disk" in record.getMessage()


@pytest.mark.usefixtures("on_a_share")
def test_another_base_s_copy_is_removed_only_if_the_disk_is_short(
    base: BaseModel, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = BaseModel("org/other", str(make_base(tmp_path / "mount/model-cache/org/other", "other weights")))
    first, _ = bring(other, settings)
    bring(base, settings)
    assert names(first.source)
    (tmp_path / "mount/model-cache/org/base/config.json").write_text('{"changed": true}')
    monkeypatch.setattr(local_copies, "free_disk_bytes", lambda *_: SPARE_DISK_BYTES)
    bring(base, settings)
    assert not names(first.source)


@pytest.mark.usefixtures("on_a_share")
def test_where_the_disk_cannot_be_written_a_base_is_read_into_memory(
    base: BaseModel, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "copies").write_text("a file")
    assert bring(base, settings)[1] == COPIED
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("org/base cannot be copied to disk: ")
    with pytest.raises(LoadError, match=r"org/base cannot be copied from .*FJARR_LOCAL_WEIGHTS=off reads it"):
        bring(base, replace(settings, local_weights="disk"))


@pytest.mark.usefixtures("on_a_share")
def test_a_disk_that_is_full_in_the_middle_is_cleared_and_with_no_memory_the_share_is_left(
    base: BaseModel, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fill(_files: object, target: Path, _reading: object) -> None:
        (target.parent / f"{target.name}.partial").mkdir()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(_name: str) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    nowhere = "the local disk cannot be written, and no memory can be written"
    monkeypatch.setattr(local_copies, "copy_to_disk", fill)
    monkeypatch.setattr(os, "memfd_create", refuse)
    assert bring(base, settings)[0] is base
    assert [path.suffix for path in weights_folder(settings).iterdir()] == [".lock"]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "org/base cannot be copied to disk: [Errno 28] No space left on device",
        "org/base cannot be copied to memory: [Errno 12] Cannot allocate memory",
        f"org/base is read where it is, because {nowhere}",
    ]


@pytest.mark.usefixtures("on_a_share")
def test_the_progress_has_bytes_and_per_cent(base: BaseModel, settings: Settings) -> None:
    phases: list[tuple[str, int]] = []
    ticks = iter(range(1000))
    clock: Callable[[], float] = lambda: float(next(ticks))  # noqa: E731
    with local_base(base, PLENTY, settings, lambda *each: phases.append(each), clock):
        pass
    assert phases[-1] == ("reading the weights: 0.0 of 0.0 GB, 100 %", 29)
    assert [percent for _, percent in phases] == sorted(percent for _, percent in phases)
    assert all(10 <= percent < 30 for _, percent in phases)


def test_on_the_platform_all_copies_together_have_a_limit(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    on_azure = replace(settings, replica="app--1-abc")
    folder = weights_folder(settings)
    assert free_disk_bytes(folder, settings) == 100 * GIB
    assert free_disk_bytes(folder, on_azure) == PLATFORM_DISK_BYTES
    for name in ("copies", "m"):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "file").open("wb") as file:
            file.truncate(3 * GIB)
    assert free_disk_bytes(folder, on_azure) == PLATFORM_DISK_BYTES - 6 * GIB
    # A folder on a mounted volume is not the replica's own disk.
    on_volume = replace(on_azure, weights_folder=tmp_path / "mount/volume")
    assert free_disk_bytes(weights_folder(on_volume), on_volume) == 100 * GIB

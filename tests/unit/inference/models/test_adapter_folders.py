"""Which folders of the share are served: versions that the index lists, and adapters without versions."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from inference.errors import LoadError
from inference.models.adapter_folders import adapter_name, find_adapters, find_named, find_selected

if TYPE_CHECKING:
    from pathlib import Path


def make(mount: Path, name: str, number: int | None = None, *, age_s: int = 0) -> Path:
    root = mount / "models" / name / ("" if number is None else str(number))
    folder = root / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    os.utime(folder / "adapter_config.json", (2_000_000_000 - age_s, 2_000_000_000 - age_s))
    if number is not None:
        (root / "version.json").write_text("{}")
    return folder


def write_index(mount: Path, *adapters: tuple[str, Path, int]) -> None:
    listed = {
        name: {
            "folder": folder.relative_to(mount).as_posix(),
            "version": "digest",
            "number": number,
            "since": f"2026-01-01T00:00:{number:02}+00:00",
        }
        for name, folder, number in adapters
    }
    (mount / "models" / "index.json").write_text(json.dumps({"generation": "g", "adapters": listed}))


def names(mount: Path, folders: tuple[Path, ...]) -> list[str]:
    return [adapter_name(mount, folder) for folder in folders]


def test_only_versions_that_are_live_are_served_the_current_ones_first(tmp_path: Path) -> None:
    make(tmp_path, "mine")
    make(tmp_path, "mine", 2)
    third, fourth = make(tmp_path, "mine", 3), make(tmp_path, "mine", 4)
    make(tmp_path, "dropped", age_s=10**9)
    write_index(tmp_path, ("mine", fourth, 4), ("mine@3", third, 3))
    assert names(tmp_path, find_adapters(tmp_path)) == ["mine@4", "dropped", "mine@3"]


def test_a_version_before_versions_can_be_live_beside_the_current_one(tmp_path: Path) -> None:
    first, second = make(tmp_path, "mine"), make(tmp_path, "mine", 2)
    write_index(tmp_path, ("mine", second, 2), ("mine@1", first, 1))
    assert names(tmp_path, find_adapters(tmp_path)) == ["mine@2", "mine"]


@pytest.mark.parametrize("content", [None, "{"])
def test_without_a_usable_index_the_newest_versions_are_served(tmp_path: Path, content: str | None) -> None:
    make(tmp_path, "mine")
    for number in (2, 10):
        make(tmp_path, "mine", number)
    make(tmp_path, "other", age_s=10)
    if content is not None:
        (tmp_path / "models" / "index.json").write_text(content)
    assert names(tmp_path, find_adapters(tmp_path)) == ["mine@10", "other"]


def test_a_version_that_is_being_uploaded_is_not_served(tmp_path: Path) -> None:
    folder = make(tmp_path, "mine", 1)
    (folder.parent / "version.json").rename(folder.parent / "version.json.uploading")
    assert find_adapters(tmp_path) == ()


def test_an_adapter_may_have_a_number_for_its_name(tmp_path: Path) -> None:
    make(tmp_path, "runs/7")
    assert names(tmp_path, find_adapters(tmp_path)) == ["runs/7"]


def test_a_name_selects_what_is_live_and_a_path_one_version(tmp_path: Path) -> None:
    folders = {number: make(tmp_path, "mine", number) for number in (1, 2, 3)}
    other = make(tmp_path, "other")
    write_index(tmp_path, ("mine", folders[2], 2), ("mine@3", folders[3], 3))
    for path in ("models/mine", "models/mine/adapter"):
        assert find_named(tmp_path, path) == (folders[2], folders[3])
    for path in ("models/mine@1", "models/mine/1", "models/mine/1/adapter"):
        assert find_named(tmp_path, path) == (folders[1],)
    assert find_named(tmp_path, "models/mine@3") == (folders[3],)
    assert find_selected(tmp_path, "models/other, models/mine@1") == (other, folders[1])
    with pytest.raises(LoadError, match=r"FJARR_ADAPTER names 'models/mine@4', but there is no adapter_conf"):
        find_selected(tmp_path, "models/mine@4")

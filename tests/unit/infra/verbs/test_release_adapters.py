"""A release and its adapters are one unit: recorded, listed, brought back and kept together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from infra.az.revision import FailedAdapter
from infra.errors import RemoteError
from infra.models.adapter_index import read_index
from infra.models.hash_cache import HashCache
from infra.models.records import read_adapters
from infra.models.selection import Selection, load_upload_sets
from infra.models.versions import VERSION_DRAFT, delete_version, find_version
from infra.models.weights import read_adapter
from infra.release.manifest import ReleaseAdapter, parse_release, render_release
from infra.release.releases import NOTHING_KNOWN, read_release
from infra.verbs.push import push_upload_sets
from infra.verbs.releases import prune_versions, releases_on
from infra.verbs.rollback import roll_back_to
from tests.doubles.deployed_stage import DeployedStage
from tests.doubles.model_folders import make_adapter

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Stage(DeployedStage):
    """A stage that adapters are pushed to."""

    def push(self, name: str, text: str) -> str:
        """Push an adapter, and return the version."""
        self.clock.sleep(1)
        adapter = read_adapter(make_adapter(self.root / "adapter", text=text))
        selection = Selection(adapter, name, "org/base", None)
        hashes = HashCache(self.root / "hashes.json", self.clock)
        return push_upload_sets(self.context, selection, load_upload_sets(selection, hashes)).model

    def live(self) -> dict[str, int]:
        """Return the number of the version that each name means."""
        return {name: each.number for name, each in read_index(self.share).adapters.items()}

    def recorded(self, release: str) -> list[str]:
        """Return the adapters that a release has by its record."""
        (found,) = read_adapters(self.share, [(release, read_release(self.share, release))])
        return [each.id for each in found or ()]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    stage.app.reads_index = True
    return stage


def test_a_release_has_the_adapters_that_were_live_when_it_was_made_or_since(stage: Stage) -> None:
    stage.push("mine", "first")
    one = stage.deploy("one").release
    assert stage.recorded(one) == ["mine@1"]
    stage.push("mine", "second")
    assert stage.recorded(one) == ["mine@2"]
    two = stage.deploy("two").release
    assert stage.recorded(two) == ["mine@2"]
    released = read_release(stage.share, two)
    assert released is not None
    assert parse_release(render_release(released), "x") == released
    digest = read_index(stage.share).adapters["mine"].version
    assert released.origin.adapters == (ReleaseAdapter("mine", 2, digest),)


def test_a_rollback_brings_the_versions_back_and_leaves_other_adapters(stage: Stage) -> None:
    stage.push("mine", "first")
    one = stage.deploy("one").release
    two = stage.deploy("two").release
    stage.push("mine", "second")
    stage.push("other", "other")
    assert (stage.recorded(one), stage.recorded(two)) == (["mine@1"], ["mine@2", "other@1"])
    result = roll_back_to(stage.context, one)
    assert stage.live() == {"mine": 1, "other": 1}
    assert result.adapters == ("mine@1", "other@1")
    assert "with the adapters that it had: mine@1, other@1" in stage.output.getvalue()
    assert "adapters  mine@1, other@1" in result.to_text()
    roll_back_to(stage.context, two)
    assert stage.live() == {"mine": 2, "other": 1}


def test_a_rollback_to_a_release_that_crashes_leaves_the_adapters(stage: Stage) -> None:
    stage.push("mine", "first")
    one = stage.deploy("one").release
    stage.deploy("two")
    stage.push("mine", "second")
    stage.bad.add("one")
    with pytest.raises(RemoteError, match="does not serve"):
        roll_back_to(stage.context, one)
    assert (stage.served(), stage.live()) == ("two", {"mine": 2})


def test_a_rollback_names_an_adapter_that_is_not_served_with_the_release(stage: Stage) -> None:
    stage.push("mine", "first")
    one = stage.deploy("one").release
    stage.deploy("two")
    stage.push("mine", "second")
    stage.app.failed_adapters = (FailedAdapter("mine", "the adapter mine@1 is too old"),)
    with pytest.raises(RemoteError) as caught:
        roll_back_to(stage.context, one)
    assert caught.value.details[0] == f"{one} is live, with the adapters that were live before"
    assert caught.value.details[1].endswith("the adapter mine@1 is too old")
    assert (stage.served(), stage.live()) == ("one", {"mine": 2})


def test_a_version_that_is_gone_is_named_and_the_live_one_stays(stage: Stage) -> None:
    stage.push("mine", "first")
    one = stage.deploy("one").release
    stage.deploy("two")
    stage.push("mine", "second")
    delete_version(stage.share, find_version(stage.share, "mine@1"))
    roll_back_to(stage.context, one)
    assert stage.live() == {"mine": 2}
    assert "not on the share any more: mine@1; what is live instead stays" in stage.output.getvalue()


def test_releases_lists_the_versions(stage: Stage) -> None:
    stage.push("mine", "first")
    stage.deploy("one")
    stage.push("mine", "second")
    stage.deploy("two")
    rows = releases_on(stage.share, NOTHING_KNOWN).rows
    assert [[each.id for each in row.adapter_versions or ()] for row in rows] == [["mine@2"], ["mine@2"]]
    assert "mine@2" in releases_on(stage.share, NOTHING_KNOWN).to_text().splitlines()[1]


def test_prune_leaves_what_is_live_what_releases_need_and_the_newest_three(stage: Stage) -> None:
    stage.share.files["models/mine/adapter/adapter_config.json"] = b"{}"
    assert stage.push("mine", "2") == "mine@2"
    stage.deploy("one")
    stage.deploy("two")
    for number in range(3, 9):
        stage.push("mine", str(number))
    assert prune_versions(stage.share, NOTHING_KNOWN) == ("mine@3", "mine@4", "mine@5")
    kept = {path.split("/")[2] for path in stage.share.files if path.startswith("models/mine/")}
    assert kept == {"adapter", "2", "6", "7", "8"}
    assert stage.live() == {"mine": 8}


def test_a_push_that_was_interrupted_leaves_no_adapter_of_its_number(stage: Stage) -> None:
    stage.push("mine", "first")
    for name in ("adapter/adapter_config.json", VERSION_DRAFT):
        stage.share.files[f"models/mine/2/{name}"] = b"{}"
    assert stage.live() == {"mine": 1}
    assert stage.push("mine", "second") == "mine@2"

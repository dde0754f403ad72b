"""Versions of adapters: made by pushes, live side by side, proven on every replica, and turned back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.revision import FailedAdapter
from infra.errors import RemoteError, UsageError, WaitTimeoutError
from infra.models.adapter_index import read_index
from infra.models.versions import check_name
from infra.release.releases import set_current, set_proven
from infra.verbs.models import change_version_in, list_stored
from infra.verbs.push import PushResult, remove_adapter
from tests.doubles.indexing_app import IndexingApp
from tests.doubles.memory_share import MemoryShare
from tests.doubles.model_folders import make_adapter, make_base, tensors
from tests.doubles.weights_world import LIVE, World

if TYPE_CHECKING:
    from pathlib import Path

    from infra.share.protocol import ShareEntry
    from infra.verbs.push import Publication

REPLICAS = ("app--1-1", "app--1-2")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two replicas that serve version 1 of `mine`."""
    make_base(tmp_path / "base")
    world = World(tmp_path)
    push(world, "first", world.root / "base")
    world.app = IndexingApp(world.share, world.clock)  # type: ignore[assignment]  # an app, as well
    set_current(world.share, LIVE)
    set_proven(world.share, LIVE)
    for _ in REPLICAS:
        world.app.version()
        world.clock.sleep(10)
    return world


def app(world: World) -> IndexingApp:
    assert isinstance(world.app, IndexingApp)
    return world.app


def push(
    world: World, text: str, base: Path | None = None, publication: Publication = "replace"
) -> PushResult:
    adapter = make_adapter(world.root / "adapter", text=text)
    return world.push(adapter, base, publication=publication)


def live(world: World) -> dict[str, int]:
    """Return the number of the version that each name means, by the index on the share."""
    document: dict[str, Any] = json.loads(world.share.files["models/index.json"])
    return {name: each["number"] for name, each in document["adapters"].items()}


def test_each_push_of_other_files_makes_a_version_and_every_replica_is_seen_to_serve_it(
    world: World,
) -> None:
    result = push(world, "second")
    assert (result.model, result.version, result.is_new_version) == ("mine@2", 2, True)
    assert (result.is_live, result.is_restarted, result.replicas) == (True, False, REPLICAS)
    assert live(world) == {"mine": 2}
    files = world.share.files
    for number, text in ((1, "first"), (2, "second")):
        assert files[f"models/mine/{number}/adapter/adapter_model.safetensors"] == tensors(text)
    version = json.loads(files["models/mine/2/version.json"])
    assert (version["name"], version["version"], version["author"]) == ("mine", 2, "ida@laptop")
    assert read_index(world.share).adapters["mine"].version == version["digest"]


def test_the_same_files_are_the_same_version_and_are_not_sent(world: World) -> None:
    push(world, "second")
    result = push(world, "first")
    assert (result.model, result.is_new_version, result.uploaded_files) == ("mine@1", False, 0)
    assert (result.is_live, live(world)) == (True, {"mine": 1})
    assert push(world, "third").model == "mine@3"


def test_the_version_before_can_stay_live(world: World) -> None:
    result = push(world, "second", publication="keep")
    assert (result.kept, live(world)) == ("mine@1", {"mine": 2, "mine@1": 1})
    assert "kept      mine@1" in result.to_text()
    push(world, "third", publication="keep")
    assert live(world) == {"mine": 3, "mine@1": 1, "mine@2": 2}


def test_versions_are_served_made_current_and_withdrawn(world: World) -> None:
    push(world, "second")
    served = change_version_in(world.open(), "serve", "mine@1")
    assert (served.is_live, served.replicas, live(world)) == (True, REPLICAS, {"mine": 2, "mine@1": 1})
    assert served.to_text() == ("mine@1 is served beside the current version, since now, without a restart")
    change_version_in(world.open(), "current", "mine@1")
    assert live(world) == {"mine": 1}
    change_version_in(world.open(), "serve", "mine@2")
    change_version_in(world.open(), "withdraw", "mine@2")
    assert live(world) == {"mine": 1}
    assert app(world).log == []
    rows = [(each.id, each.names) for each in list_stored(world.share).versions]
    assert rows == [("mine@2", ()), ("mine@1", ("mine",))]
    assert list_stored(world.share).to_text().splitlines()[1].endswith("ida@laptop  live as mine")


@pytest.mark.parametrize(
    ("change", "reference", "message"),
    [
        ("serve", "mine", "'mine' is not a version of an adapter"),
        ("serve", "mine@7", "there is no mine@7 on the share"),
        ("serve", "mine@1", "mine@1 is live already"),
        ("current", "mine@1", "mine@1 is the current version already"),
        ("withdraw", "mine@1", "mine@1 is the current version, which cannot be withdrawn"),
        ("withdraw", "other@1", "there is no other@1 on the share"),
    ],
)
def test_a_change_that_is_impossible_says_why(
    world: World, change: Any, reference: str, message: str
) -> None:
    before = dict(world.share.files)
    with pytest.raises(UsageError) as caught:
        change_version_in(world.open(), change, reference)
    assert caught.value.message == message
    assert caught.value.hint
    assert world.share.files["models/index.json"] == before["models/index.json"]


def test_a_version_that_one_replica_rejects_is_turned_back(world: World) -> None:
    app(world).failures = {"app--1-2": (FailedAdapter("mine@2", "the adapter mine@2 is too large"),)}
    with pytest.raises(RemoteError) as caught:
        push(world, "second")
    assert caught.value.exit_code == 4
    assert caught.value.details[-1] == "replica app--1-2: the adapter mine@2 is too large"
    assert caught.value.details[0].startswith("turned back: mine@1 is live again")
    assert live(world) == {"mine": 1}
    assert not [path for path in world.share.files if path.startswith("models/mine/2/")]
    app(world).failures = {}
    assert push(world, "second").model == "mine@3", "a number is not given twice"


def test_a_replica_that_does_not_serve_it_in_time_is_named_and_all_is_as_before(world: World) -> None:
    app(world).stuck = {"app--1-1"}
    with pytest.raises(WaitTimeoutError) as caught:
        push(world, "second")
    assert caught.value.message == "not every replica serves the adapters within 120 s"
    assert caught.value.details == (
        "turned back: mine@1 is live again",
        "replica app--1-1 still serves what it did: mine",
    )
    assert live(world) == {"mine": 1}
    assert app(world).log == []


def test_a_replica_that_never_answers_is_named(world: World) -> None:
    app(world).silent = {"app--1-1"}
    with pytest.raises(WaitTimeoutError) as caught:
        push(world, "second")
    assert "replica app--1-1 has not answered" in caught.value.details
    assert live(world) == {"mine": 1}


def test_one_version_or_all_can_be_removed(world: World) -> None:
    push(world, "second")
    with pytest.raises(UsageError, match="mine@2 is the current version, and there are others"):
        remove_adapter(world.open(), "mine@2")
    assert remove_adapter(world.open(), "mine@1").removed == "models/mine/1/adapter"
    assert live(world) == {"mine": 2}
    push(world, "third")
    result = remove_adapter(world.open(), "mine")
    assert (result.removed, result.is_live, live(world)) == ("models/mine", True, {})
    assert not [path for path in world.share.files if path.startswith("models/mine")]
    assert push(world, "fourth").model == "mine@4", "a number is not given twice"


def test_an_adapter_from_before_versions_is_the_first_one_and_stays(world: World) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        world.share.files[f"models/old/adapter/{name}"] = (world.root / "adapter" / name).read_bytes()
    make_adapter(world.root / "adapter", text="new")
    result = world.push(world.root / "adapter", None, name="old", publication="keep")
    assert (result.model, result.kept) == ("old@2", "old@1")
    assert live(world) == {"mine": 1, "old": 2, "old@1": 1}
    change_version_in(world.open(), "current", "old@1")
    assert live(world) == {"mine": 1, "old": 1}
    assert "models/old/adapter/adapter_config.json" in world.share.files


def test_an_index_that_is_lost_is_made_again(world: World) -> None:
    push(world, "second")
    del world.share.files["models/index.json"]
    index = read_index(world.share)
    assert (index.adapters["mine"].number, dict(index.numbers)) == (2, {"mine": 2})
    world.share.files["models/mine/2/version.json"] = b"{"
    assert read_index(world.share).adapters["mine"].folder == "models/mine/2/adapter"


@pytest.mark.parametrize("name", ["mine@2", "", "a b", "/a", "a//b", "a/2", "a/adapter", "-a", "a/"])
def test_a_name_that_would_collide_with_a_version_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of an adapter"):
        check_name(name)


@pytest.mark.parametrize("name", ["mine", "team/mine", "2024", "a.b-c_d", "v2"])
def test_other_names_are_usable(name: str) -> None:
    assert check_name(name) == name


class CaselessShare(MemoryShare):
    """A share that finds names whatever their case, as Azure Files does."""

    def read(self, path: str) -> bytes | None:
        return super().read(self._known(path))

    def entries(self, folder: str) -> tuple[ShareEntry, ...]:
        return super().entries(self._known(folder))

    def _known(self, path: str) -> str:
        """Return a path as the share has it."""
        paths = (f"{known}/" for known in self.files)
        folded = f"{path}/".casefold()
        return next((known[: len(path)] for known in paths if known.casefold().startswith(folded)), path)


@pytest.fixture
def caseless(world: World) -> World:
    """The world, with two versions of `mine` and an adapter from before versions, `Old`."""
    push(world, "second", publication="keep")
    share = CaselessShare()
    share.files = world.share.files
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        share.files[f"models/Old/adapter/{name}"] = (world.root / "adapter" / name).read_bytes()
    world.share = share
    return world


@pytest.mark.parametrize(
    ("name", "twin", "hint"),
    [
        ("Mine", "mine", "push it as 'mine', or give it another name with --name"),
        ("old", "Old", "push it as 'Old', or give it another name with --name"),
        ("MINE/b", "mine", "push it as 'mine/b', or give it another name with --name"),
        ("Half", "half", "push it as 'half', or give it another name with --name"),
    ],
)
def test_a_name_that_differs_from_another_in_case_only_is_refused(
    caseless: World, name: str, twin: str, hint: str
) -> None:
    caseless.share.files["models/half/1/version.json.uploading"] = b"{}"
    before = dict(caseless.share.files)
    with pytest.raises(UsageError) as caught:
        caseless.push(make_adapter(caseless.root / "adapter", text="third"), None, name=name)
    own = name.partition("/")[0]
    assert caught.value.message == (
        f"the share has {twin!r}, and {own!r} differs from it in case only, which Azure Files ignores"
    )
    assert caught.value.hint == hint
    assert caseless.share.files == before


@pytest.mark.parametrize("name", ["Mine", "Mine@1", "old", "OLD"])
def test_what_differs_in_case_is_not_what_is_removed(caseless: World, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        remove_adapter(caseless.open(), name)
    assert caught.value.message == f"there is no adapter {name!r} on the share"
    assert caught.value.hint == "the share has: Old, mine, mine@1"
    with pytest.raises(UsageError):
        change_version_in(caseless.open(), "current", f"{name.partition('@')[0]}@1")


def test_names_may_differ_in_more_than_case(caseless: World) -> None:
    adapter = make_adapter(caseless.root / "adapter", text="third")
    assert caseless.push(adapter, None, name="mines").model == "mines@1"
    assert caseless.push(adapter, None, name="team/mine").model == "team/mine@1"

"""What a name in the API means: an adapter's current version, one of its versions, or a model's own name."""

from __future__ import annotations

from inference.engines.protocol import ServedModel
from inference.models.adapter_index import IndexedAdapter, split_name
from inference.service.model_names import ModelNames
from tests.doubles.byte_codec import ByteCodec

BASE = "org/base"
CURRENT = IndexedAdapter("mine", "models/mine/3/adapter", "c", 3)
SECOND = IndexedAdapter("mine@2", "models/mine/2/adapter", "b", 2)
OLD = IndexedAdapter("mine@1", "models/mine/adapter", "a", 1)


def listed(names: ModelNames, *models: str) -> list[tuple[str, str, int | None, bool]]:
    served = [ServedModel(BASE, None, ByteCodec(), frozenset(), 0)]
    served += [ServedModel(name, BASE, ByteCodec(), frozenset(), 0) for name in models]
    found = names.list_models(served)
    return [(each.name, each.model.name, each.version, each.is_second_name) for each in found]


def test_a_bare_name_is_the_current_version_and_each_live_version_has_its_own() -> None:
    names = ModelNames((CURRENT, SECOND, OLD))
    models = {BASE, "mine@3", "mine@2", "mine"}
    assert names.find("mine", models) == "mine@3"
    assert [names.find(f"mine@{number}", models) for number in (1, 2, 3, 4)] == [
        "mine", "mine@2", "mine@3", None,
    ]  # fmt: skip
    assert names.find(BASE, models) == BASE
    assert names.find("other", models) is None
    assert listed(names, "mine@3", "mine@2", "mine") == [
        (BASE, BASE, None, False),
        ("mine", "mine@3", 3, False),
        ("mine@3", "mine@3", 3, True),
        ("mine@2", "mine@2", 2, False),
        ("mine@1", "mine", 1, False),
    ]


def test_an_adapter_without_versions_has_its_name_alone() -> None:
    assert listed(ModelNames(), "mine") == [(BASE, BASE, None, False), ("mine", "mine", None, False)]
    assert ModelNames().find("mine@1", {BASE, "mine"}) is None


def test_without_an_index_the_newest_version_is_the_current_one() -> None:
    assert ModelNames().find("mine", {BASE, "mine@2", "mine@10"}) == "mine@10"
    assert listed(ModelNames(), "mine@2") == [
        (BASE, BASE, None, False),
        ("mine", "mine@2", 2, False),
        ("mine@2", "mine@2", 2, True),
    ]


def test_a_version_beside_nothing_has_no_bare_name() -> None:
    names = ModelNames((SECOND,))
    assert names.find("mine", {BASE, "mine@2"}) is None
    assert listed(names, "mine@2")[1:] == [("mine@2", "mine@2", 2, False)]


def test_a_name_whose_version_is_not_served_means_nothing_else() -> None:
    assert ModelNames((CURRENT,)).find("mine", {BASE, "mine"}) is None
    assert ModelNames((CURRENT,)).without("mine").find("mine", {BASE, "mine"}) == "mine"


def test_only_a_number_after_the_mark_is_a_version() -> None:
    assert split_name("mine@3") == ("mine", 3)
    assert split_name("team/mine@12") == ("team/mine", 12)
    for name in ("mine", "mine@", "mine@x", "@3", "mine@-1"):
        assert split_name(name) == (name, None)

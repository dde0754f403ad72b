"""Values of JSON that may be anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.document import as_list, as_object, as_objects, object_at

if TYPE_CHECKING:
    from infra.document import Json

APP: Json = {"properties": {"template": {"scale": None, "containers": [{"name": "inference"}, 7]}}}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), APP),
        (("properties", "template", "containers"), {}),
        (("properties", "template", "scale"), {}),
        (("properties", "template", "scale", "rules"), {}),
        (("properties", "configuration", "ingress"), {}),
    ],
)
def test_names_lead_to_an_object_or_to_an_empty_one(names: tuple[str, ...], found: Json) -> None:
    assert object_at(APP, *names) == found


@pytest.mark.parametrize("value", [None, True, 1, "text", [1]])
def test_what_is_no_object_has_nothing_below(value: Json) -> None:
    assert object_at(value, "properties") == as_object(value) == {}


def test_lists_keep_their_places() -> None:
    containers = object_at(APP, "properties", "template")["containers"]
    assert as_list(containers) == [{"name": "inference"}, 7]
    assert as_objects(containers) == [{"name": "inference"}, {}]
    assert as_list({"a": 1}) == as_objects("text") == []

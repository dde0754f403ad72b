"""Whether a new revision fits on the nodes of a profile beside the one that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.resources.container_apps_environment import (
    least_replicas,
    profile_max_nodes,
    replaces_revision,
)

if TYPE_CHECKING:
    from infra.document import Json


def app(min_replicas: int | None = 1, profile: str = "GPU") -> dict[str, Json]:
    return {"workloadProfileName": profile, "template": {"scale": {"minReplicas": min_replicas}}}


@pytest.mark.parametrize(
    ("running", "new", "nodes", "replaced"),
    [
        (1, 1, 1, True),
        (1, 1, 2, False),
        (2, 2, 3, True),
        (2, 2, 4, False),
        (None, 1, 1, True),
        (0, 0, 1, True),
        (0, 0, 2, False),
        (1, 1, 0, False),
        (1, 1, None, False),
    ],
)
def test_the_old_revision_ends_first_where_both_do_not_fit(
    *, running: int | None, new: int, nodes: int | None, replaced: bool
) -> None:
    assert replaces_revision(app(running), "gpu", nodes, new) is replaced


def test_an_app_that_moves_to_another_profile_leaves_its_nodes_alone() -> None:
    assert not replaces_revision(app(profile="Consumption"), "GPU", 1, 1)


def test_an_app_that_does_not_tell_runs_one_replica() -> None:
    assert least_replicas({}) == 1
    assert least_replicas(app(3)) == 3


def test_only_dedicated_profiles_have_nodes() -> None:
    profiles: list[Json] = [{"name": "Consumption"}, {"name": "GPU", "maximumCount": 3}]
    environment: dict[str, Json] = {"properties": {"workloadProfiles": profiles}}
    assert profile_max_nodes(environment, "gpu") == 3
    assert profile_max_nodes(environment, "Consumption") is None
    assert profile_max_nodes({}, "GPU") is None

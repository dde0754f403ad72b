"""Whole templates: the evaluator's results equal those of Azure's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from localcloud.template import Deployment

Case = tuple["Path", "Path", dict[str, Any]]


def by_id(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {resource["id"]: resource for resource in resources}
    assert len(found) == len(resources)
    return found


def test_evaluator_equals_the_committed_snapshot(
    snapshot_case: Case, judging: ModuleType, deploy: Callable[..., Deployment]
) -> None:
    snapshot, template, values = snapshot_case
    deployment = deploy(template.read_text(encoding="utf-8"), **values)
    planned = [
        {"id": each.id, "type": each.type, "name": each.name, "apiVersion": each.api_version, **each.body}
        for each in deployment.plan()
    ]
    committed = judging.read(snapshot)
    assert by_id(planned) == by_id(committed["predictedResources"])
    assert deployment.plan_outputs() == committed["outputs"]


def test_plan_is_in_the_order_of_its_dependencies(
    snapshot_case: Case, deploy: Callable[..., Deployment]
) -> None:
    _, template, values = snapshot_case
    seen: set[str] = set()
    for resource in deploy(template.read_text(encoding="utf-8"), **values).plan():
        assert seen.issuperset(resource.depends_on)
        seen.add(resource.id)


@pytest.mark.bicep
def test_committed_snapshot_equals_bicep(snapshot_case: Case, judging: ModuleType, judge: Any) -> None:
    snapshot, template, values = snapshot_case
    assert judge.snapshot(template.read_text(encoding="utf-8"), values) == judging.read(snapshot)

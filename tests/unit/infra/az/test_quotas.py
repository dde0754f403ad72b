"""Whether the quotas are enough for a plan at its peak."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.az.quotas import Need, environment_checks, parse_usages, region_checks

if TYPE_CHECKING:
    from infra.az.checks import Check

REGION = parse_usages(
    [
        {"name": {"value": "ManagedEnvironmentCount"}, "currentValue": 14, "limit": 15},
        {"name": {"value": "SubscriptionNCA100Gpus"}, "usage": 1, "limit": 2},
        {"name": "SubscriptionConsumptionT4Gpus", "currentValue": 0, "limit": 1.0},
        {"name": {"value": "NoLimit"}, "currentValue": 1},
        None,
    ]
)


def states(checks: list[Check]) -> list[tuple[str, str]]:
    return [(check.name, check.state) for check in checks]


@pytest.mark.parametrize(
    ("need", "found"),
    [
        (Need(), []),
        (Need(environments=1), [("quota ManagedEnvironmentCount in x", "ok")]),
        (Need(environments=2), [("quota ManagedEnvironmentCount in x", "blocked")]),
        (Need("NC24-A100", 1), [("quota SubscriptionNCA100Gpus in x", "ok")]),
        (Need("NC48-A100", 2), [("quota SubscriptionNCA100Gpus in x", "blocked")]),
        # What is used is the app's own, which the new revision replaces.
        (Need("NC48-A100", 2, is_running=True), [("quota SubscriptionNCA100Gpus in x", "ok")]),
        (Need("NC96-A100", 4, is_running=True), [("quota SubscriptionNCA100Gpus in x", "blocked")]),
        (Need("Consumption-GPU-NC8as-T4", 1), [("quota SubscriptionConsumptionT4Gpus in x", "ok")]),
        (Need("Consumption-GPU-NC24-A100", 1), [("quota SubscriptionConsumptionNCA100Gpus in x", "unknown")]),
        (Need("NC128-H200", None), [("quota of GPUs in x", "unknown")]),
    ],
)
def test_the_quotas_of_a_region(need: Need, found: list[tuple[str, str]]) -> None:
    assert states(list(region_checks(REGION, need, "x"))) == found


def test_the_quota_of_an_environment_is_for_serverless_gpus_alone() -> None:
    usages = parse_usages(
        {"value": [{"name": {"value": "ManagedEnvironmentConsumptionT4Gpus"}, "currentValue": 1, "limit": 1}]}
    )
    (blocked,) = environment_checks(usages, Need("Consumption-GPU-NC8as-T4", 1), "env")
    assert blocked.to_text() == (
        "BLOCKED quota ManagedEnvironmentConsumptionT4Gpus in env: 1 needed, 1 of 1 used\n"
        "        lower maxReplicas or maximumInstanceCount, or ask for more in the Azure portal: Quotas, "
        "provider Azure Container Apps"
    )
    assert list(environment_checks(usages, Need("NC24-A100", 1), "env")) == []

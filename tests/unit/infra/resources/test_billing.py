"""What Azure bills, by what is deployed and what runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.az.app import is_stopped
from infra.resources.billing import app_bills, find_environment, resource_bill

if TYPE_CHECKING:
    from infra.document import Json

APP: dict[str, Json] = {
    "name": "app",
    "properties": {"workloadProfileName": "GPU", "runningStatus": "Running", "environmentId": "/Env"},
}
CONSUMPTION: dict[str, Json] = {"name": "Consumption", "workloadProfileType": "Consumption"}
DEDICATED: dict[str, Json] = {"name": "GPU", "workloadProfileType": "NC24-A100", "minimumCount": 0}
SERVERLESS: dict[str, Json] = {"name": "GPU", "workloadProfileType": "Consumption-GPU-NC24-A100"}


def environment(*profiles: dict[str, Json]) -> dict[str, Json]:
    return {"id": "/env", "name": "env", "properties": {"workloadProfiles": [CONSUMPTION, *profiles]}}


@pytest.mark.parametrize(
    ("profiles", "replicas", "lines"),
    [
        (
            (DEDICATED,),
            2,
            [
                "app app: 2 replicas on GPU (NC24-A100), by the node while it runs",
                "environment env: the management of dedicated profiles (GPU) in use",
            ],
        ),
        (
            (DEDICATED | {"minimumCount": 1},),
            0,
            [
                "app app: nothing now, no replica runs",
                "environment env: the management of dedicated profiles (GPU) in use",
                "environment env: 1 node of GPU, also without replicas",
            ],
        ),
        ((SERVERLESS,), 1, ["app app: 1 replica on GPU (Consumption-GPU-NC24-A100), by the second"]),
        ((), 1, ["app app: 1 replica on workload profile GPU"]),
    ],
)
def test_the_bill_of_an_app(profiles: tuple[dict[str, Json], ...], replicas: int, lines: list[str]) -> None:
    bills = app_bills(APP, environment(*profiles), replicas, "acct")
    assert [bill.to_text() for bill in bills] == [
        *lines,
        "storage account acct: the stored data and its transactions",
        "workspace of the environment: ingested logs, and their retention",
    ]
    assert bills[0].is_running is bool(replicas)


def test_an_app_without_a_profile_is_on_consumption_whatever_is_known_of_its_environment() -> None:
    bill, *_ = app_bills({"name": "app", "properties": {}}, {}, 1, "acct")
    assert bill.to_text() == "app app: 1 replica on Consumption, by the second"


def test_a_paused_app_is_not_billed() -> None:
    stopped = APP | {"properties": {"workloadProfileName": "GPU", "runningStatus": "Stopped"}}
    assert is_stopped(stopped)
    assert not is_stopped(APP)
    bill, *_ = app_bills(stopped, environment(SERVERLESS), 1, "acct")
    assert (bill.to_text(), bill.is_running) == ("app app: nothing, it is paused", False)


def test_the_environment_is_found_by_its_id_in_any_case() -> None:
    assert find_environment([{"id": "/other"}, environment()], APP) == environment()
    assert find_environment(None, APP) == {}


@pytest.mark.parametrize(
    ("resource_type", "bill"),
    [
        ("Microsoft.Storage/storageAccounts", "the stored data and its transactions"),
        ("Microsoft.ManagedIdentity/userAssignedIdentities", ""),
        ("Contoso.Robots/arms", "depends on its type"),
    ],
)
def test_the_bill_of_any_resource(resource_type: str, bill: str) -> None:
    assert resource_bill(resource_type) == bill

"""The commands that are sent to Resource Manager without a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.az.commands import (
    Group,
    app_patch,
    app_power,
    app_show,
    group_show,
    replica_list,
    revision_activate,
    revision_list,
    revision_restart,
    revision_show,
    storage_connection_string,
)
from infra.az.direct import ArmRequest, find_direct
from infra.process import Command
from infra.share.azure import parse_connection_string

GROUP = Group("sub", "rg")
APP = "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.App/containerApps/app"
ACCOUNT = "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.Storage/storageAccounts/acct"


@pytest.mark.parametrize(
    ("command", "method", "path"),
    [
        (app_show(GROUP, "app"), "GET", APP),
        (revision_list(GROUP, "app"), "GET", f"{APP}/revisions"),
        (revision_show(GROUP, "app", "app--1"), "GET", f"{APP}/revisions/app--1"),
        (revision_restart(GROUP, "app", "app--1"), "POST", f"{APP}/revisions/app--1/restart"),
        (revision_activate(GROUP, "app", "app--1"), "POST", f"{APP}/revisions/app--1/activate"),
        (replica_list(GROUP, "app", "app--1"), "GET", f"{APP}/revisions/app--1/replicas"),
    ],
)
def test_a_command_is_the_request_that_az_makes(command: Command, method: str, path: str) -> None:
    direct = find_direct(command)
    assert direct is not None
    assert direct.subscription == "sub"
    assert direct.requests == (ArmRequest(method, f"{path}?api-version=2025-07-01"),)


@pytest.mark.parametrize(
    "command",
    [
        group_show(GROUP),
        app_patch(GROUP, "app", Path("body.json")),
        Command(("az", "rest", "--method", "put", "--url", APP, "--subscription", "sub", "--output", "json")),
        Command(("az", "rest", "--method", "get", "--url", "https://a.example/", "--subscription", "sub")),
        Command(("az", "containerapp", "show", "--name", "app", "--output", "json")),
        Command(("az", "containerapp", "show", "--yes", "--name", "app", "--output", "json")),
    ],
)
def test_other_commands_are_left_to_az(command: Command) -> None:
    assert find_direct(command) is None


def test_a_call_of_rest_is_sent_as_it_is() -> None:
    direct = find_direct(app_power(GROUP, "app", "stop"))
    assert direct is not None
    assert direct.requests == (ArmRequest("POST", f"{APP}/stop?api-version=2025-07-01"),)


def test_the_replicas_of_the_latest_revision_take_a_second_request() -> None:
    direct = find_direct(replica_list(GROUP, "app"))
    assert direct is not None
    assert direct.follow_up is not None
    assert direct.requests == (ArmRequest("GET", f"{APP}?api-version=2025-07-01"),)
    request = direct.follow_up({"properties": {"latestRevisionName": "app--7"}})
    assert request == ArmRequest("GET", f"{APP}/revisions/app--7/replicas?api-version=2025-07-01")
    assert direct.to_output([{}, {"value": [1]}]) == [1]


def test_only_active_revisions_are_listed_as_az_does() -> None:
    direct = find_direct(revision_list(GROUP, "app"))
    assert direct is not None
    listed: list[Any] = [{"properties": {"active": True}}, {"properties": {"active": False}}]
    assert direct.to_output([{"value": listed}]) == [listed[0]]
    assert direct.to_output([{}]) == []


def test_a_connection_string_has_what_the_share_needs() -> None:
    direct = find_direct(storage_connection_string(GROUP, "acct"))
    assert direct is not None
    assert direct.requests == (
        ArmRequest("POST", f"{ACCOUNT}/listKeys?api-version=2025-08-01"),
        ArmRequest("GET", f"{ACCOUNT}?api-version=2025-08-01"),
    )
    account: Any = {"properties": {"primaryEndpoints": {"file": "https://acct.file.core.windows.net/"}}}
    output = direct.to_output([{"keys": [{"value": "a2V5=="}, {"value": "other"}]}, account])
    assert isinstance(output, dict)
    assert parse_connection_string(str(output["connectionString"])) == {
        "AccountName": "acct",
        "AccountKey": "a2V5==",
        "FileEndpoint": "https://acct.file.core.windows.net/",
    }
    assert direct.to_output([{}, {}]) == {"connectionString": "AccountName=acct"}

"""Which of the needed actions the permissions of an account do not allow."""

from __future__ import annotations

from typing import Any

import pytest

from infra.az.rights import ACTIONS, ENVIRONMENT_ACTIONS, GROUP_ACTION, missing_actions, parse_permissions

ALL = (GROUP_ACTION, *ACTIONS, *ENVIRONMENT_ACTIONS)

# The role definitions, as "List for resource group" returns them: built-in roles of Azure.
CONTRIBUTOR: dict[str, Any] = {
    "actions": ["*"],
    "notActions": ["Microsoft.Authorization/*/Delete", "Microsoft.Authorization/*/Write"],
}
READER: dict[str, Any] = {"actions": ["*/read"], "notActions": []}
STORAGE: dict[str, Any] = {"actions": ["microsoft.storage/storageaccounts/*"], "notActions": []}


@pytest.mark.parametrize(
    ("entries", "missing"),
    [
        ([CONTRIBUTOR], ()),
        ([READER, CONTRIBUTOR], ()),
        ([], ALL),
        ([READER], tuple(action for action in ALL if not action.endswith("/read"))),
        ([READER, STORAGE], tuple(a for a in ALL if "Storage" not in a and not a.endswith("/read"))),
        ([{"actions": ["*"], "notActions": ["Microsoft.App/containerApps/write"]}], (ACTIONS[7],)),
    ],
)
def test_what_is_missing(entries: list[Any], missing: tuple[str, ...]) -> None:
    assert missing_actions(parse_permissions({"value": entries}), ALL) == missing


def test_an_exception_of_one_role_does_not_take_back_what_another_allows() -> None:
    excepted: dict[str, Any] = {"actions": ["*"], "notActions": ["Microsoft.App/*"]}
    app: dict[str, Any] = {"actions": ["Microsoft.App/*"], "notActions": []}
    assert missing_actions(parse_permissions({"value": [excepted, app]}), ALL) == ()


@pytest.mark.parametrize("answer", [None, [], {"value": None}, {"value": [None, {"actions": None}]}])
def test_an_answer_without_permissions_allows_nothing(answer: Any) -> None:
    assert missing_actions(parse_permissions(answer), ("A/b",)) == ("A/b",)

"""What to do about an error of Azure: each hint can be pasted as it is."""

from __future__ import annotations

import re
import shlex

import pytest
from invoke import Collection

import tasks
from infra.az.hints import _HINTS, hint_for

GROUP = "--resource-group my-rg --subscription s"
COMMAND = f"az deployment group create --name inference {GROUP} --template-file t.json"
VERBS = set(Collection.from_module(tasks).task_names)

# Messages as Azure words them; source: "Troubleshoot common Azure deployment errors", and public issues.
NO_RIGHTS = (
    "The client 'ann@contoso.com' with object id '0a1b-2c3d' does not have authorization to perform action "
    "'Microsoft.App/containerApps/write' over scope '/subscriptions/s/resourceGroups/my-rg/providers/"
    "Microsoft.App/containerApps/app' or the scope is invalid."
)
POLICY = (
    "Resource 'acct' was disallowed by policy. Policy identifiers: "
    '\'[{"policyAssignment":{"name":"no keys","id":"/a/nokeys"},"policyDefinition":'
    '{"name":"x","id":"/y"}}]\'.'
)


@pytest.mark.parametrize(
    ("code", "message", "hint"),
    [
        (
            "MissingSubscriptionRegistration",
            "The subscription is not registered to use namespace 'Microsoft.App'.",
            "az provider register --namespace Microsoft.App --subscription s --wait",
        ),
        (
            "AuthorizationFailed",
            NO_RIGHTS,
            (
                "an owner can grant it: az role assignment create --role Contributor --assignee 0a1b-2c3d "
                "--scope /subscriptions/s/resourceGroups/my-rg"
            ),
        ),
        (
            "RequestDisallowedByPolicy",
            POLICY,
            (
                "ask the owner of the policy for an exemption of the resource group: az policy exemption "
                "create --name fjarr --exemption-category Waiver --policy-assignment /a/nokeys "
                f"{GROUP}"
            ),
        ),
        ("ScopeLocked", "locked", f"a lock forbids it: az lock list {GROUP} shows it"),
    ],
)
def test_a_hint_names_what_the_error_is_about(code: str, message: str, hint: str) -> None:
    assert hint_for(code, message, COMMAND) == hint


def test_a_message_that_names_nothing_still_has_a_hint() -> None:
    for code in ("MissingSubscriptionRegistration", "LinkedAuthorizationFailed", "RequestDisallowedByPolicy"):
        assert hint_for(code, "no")
    assert hint_for("SomethingElse", "no") is None


def test_a_command_line_that_cannot_be_parsed_is_no_reason_to_fail() -> None:
    assert hint_for("ScopeLocked", "x", "az 'unclosed") == "a lock forbids it: az lock list shows it"


@pytest.mark.parametrize("code", sorted(_HINTS))
def test_a_hint_has_whole_commands(code: str) -> None:
    hint = hint_for(code, "", COMMAND)
    assert hint is not None
    assert "{" not in hint
    shlex.split(hint)
    assert set(re.findall(r"invoke (\w+)", hint)) <= VERBS


@pytest.mark.parametrize(
    "code",
    [
        "AuthorizationFailed",
        "LinkedAuthorizationFailed",
        "MaxRegionalQuotaExceeded",
        "MissingSubscriptionRegistration",
        "RequestDisallowedByPolicy",
        "SkuNotAvailable",
        "StorageAccountAlreadyTaken",
    ],
)
def test_the_known_refusals_have_a_hint(code: str) -> None:
    assert hint_for(code, "")

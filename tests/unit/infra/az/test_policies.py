"""Which policies stand in the way of the storage account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.az.policies import Obstacle, account_request, find_obstacles

SNAPSHOTS = Path(__file__).parents[3] / "snapshots/inference"
KEYS = {"evaluatedExpressions": [{"path": "properties.allowSharedKeyAccess", "result": "True"}]}
TAGS = {"evaluatedExpressions": [{"path": "tags.owner", "result": "False"}]}


def answer(effect: str, details: dict[str, Any], result: str = "NonCompliant") -> dict[str, Any]:
    # The form of the example of "Policy Restrictions - Check At Resource Group Scope".
    evaluation = {
        "policyInfo": {"policyDefinitionId": "/d", "policyAssignmentId": "/a"},
        "evaluationResult": result,
        "evaluationDetails": details,
        "effectDetails": {"policyEffect": effect},
    }
    return {"fieldRestrictions": [], "contentEvaluationResult": {"policyEvaluations": [evaluation]}}


@pytest.mark.parametrize(
    ("effect", "details", "result", "is_found"),
    [
        ("Deny", KEYS, "NonCompliant", True),
        ("deny", KEYS, "NonCompliant", True),
        ("Deny", KEYS, "Compliant", False),
        ("Deny", TAGS, "NonCompliant", True),
        ("Audit", KEYS, "NonCompliant", False),
        ("Modify", KEYS, "NonCompliant", True),
        ("Modify", TAGS, "NonCompliant", False),
    ],
)
def test_which_policies_are_in_the_way(
    effect: str, details: dict[str, Any], result: str, *, is_found: bool
) -> None:
    found = find_obstacles(answer(effect, details, result))
    assert found == ((Obstacle(effect.capitalize(), "/a"),) if is_found else ())


@pytest.mark.parametrize("nothing", [None, {}, {"contentEvaluationResult": {"policyEvaluations": [None]}}])
def test_an_answer_without_evaluations_has_none(nothing: Any) -> None:
    assert find_obstacles(nothing) == ()


@pytest.mark.parametrize(("case", "is_nfs"), [("defaults", False), ("nfs", True)])
def test_the_request_is_about_the_account_of_the_template(case: str, *, is_nfs: bool) -> None:
    snapshot: Any = json.loads((SNAPSHOTS / f"{case}.snapshot.json").read_text(encoding="utf-8"))
    account = next(
        each for each in snapshot["predictedResources"] if each["type"] == "Microsoft.Storage/storageAccounts"
    )
    details = json.loads(account_request("acct", "westeurope", is_nfs=is_nfs))["resourceDetails"]
    content = details["resourceContent"]
    assert details["apiVersion"] == account["apiVersion"]
    assert (content["sku"], content["kind"]) == (account["sku"], account["kind"])
    assert content["properties"].items() <= account["properties"].items()

"""The online preflight: what it asks az, what it finds, and what it does about it."""

from __future__ import annotations

import io
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.commands import Group
from infra.az.errors import AzureRejectedError, ErrorCause
from infra.az.quotas import Need
from infra.config.stage import load_stage
from infra.console import Console
from infra.errors import FjarrError, RemoteError, UsageError, WaitTimeoutError
from infra.resources.preflight import Subject, check_account, check_plan, require_acceptance
from infra.session import Session
from tests.doubles.accepting_azure import ACCEPTING, REGISTERED
from tests.doubles.azure_stage import SUBSCRIPTION
from tests.doubles.scripted_az import ScriptedAz

if TYPE_CHECKING:
    from infra.az.checks import Check
    from infra.process import Command

REPOSITORY = Path(__file__).resolve().parents[4]
SUBJECT = Subject(
    group=Group(SUBSCRIPTION, "my-rg"),
    has_group=False,
    location="swedencentral",
    account="acct",
    has_account=False,
    environment="env",
    has_environment=False,
    new_profile_type="NC24-A100",
    need=Need("NC24-A100", 1, environments=1),
)
THERE = replace(SUBJECT, has_group=True, has_account=True, has_environment=True, new_profile_type="")
SCOPE = f"/subscriptions/{SUBSCRIPTION}"
NO = AzureRejectedError("Azure rejected the request", ErrorCause("AuthorizationFailed", "no"))


@pytest.fixture
def az(tmp_path: Path) -> ScriptedAz:
    return ScriptedAz(ACCEPTING, tmp_path)


@pytest.fixture
def session(az: ScriptedAz) -> Session:
    stage = load_stage(REPOSITORY, "azure")
    return Session(REPOSITORY, stage, Console(io.StringIO()), az._runner, az, None, None)


def output(session: Session) -> str:
    stream = session.console._rich.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


def by_state(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_when_nothing_is_in_the_way_every_check_is_ok(session: Session, az: ScriptedAz) -> None:
    checks = require_acceptance(session, SUBJECT)
    assert by_state(checks) == {
        "sign-in": "ok",
        "subscription": "ok",
        "resource provider Microsoft.App": "ok",
        "resource provider Microsoft.OperationalInsights": "ok",
        "resource provider Microsoft.Storage": "ok",
        "rights": "ok",
        "region swedencentral": "ok",
        "quota ManagedEnvironmentCount in swedencentral": "ok",
        "quota SubscriptionNCA100Gpus in swedencentral": "ok",
        "name acct": "ok",
        "shared keys": "ok",
    }
    assert len(az.commands) == 7
    assert "check rights, region, quota, names and policies: 11 ok" in output(session)


def test_what_exists_already_is_not_asked_about(session: Session, az: ScriptedAz) -> None:
    checks = check_plan(session, THERE)
    assert "name acct" not in by_state(checks)
    assert not [line for line in az.lines if "check-name" in line or "list-supported" in line]
    (rights,) = [line for line in az.lines if "permissions" in line]
    assert f"/subscriptions/{SUBSCRIPTION}/resourceGroups/my-rg/providers" in rights


def test_the_checks_run_at_the_same_time(session: Session, az: ScriptedAz) -> None:
    together = threading.Barrier(5, timeout=30)

    def meet(command: Command) -> Any:
        together.wait()
        beginning = max((each for each in ACCEPTING if " ".join(command.argv[1:]).startswith(each)), key=len)
        return ACCEPTING[beginning]

    az.answers = dict.fromkeys(ACCEPTING, meet)
    assert set(by_state(check_plan(session, SUBJECT)).values()) == {"ok"}


@pytest.mark.parametrize(
    ("changes", "check", "remedy"),
    [
        (
            {"account show": UsageError("you are not signed in to Azure", hint="az login")},
            "sign-in: you are not signed in to Azure",
            "az login",
        ),
        # The account is cached by az; that its token has expired shows only in a request.
        (
            {"provider list": UsageError("AADSTS700082", hint="az login")},
            "sign-in: AADSTS700082",
            "az login",
        ),
        (
            {"account show": RemoteError("Subscription 'x' not found")},
            "sign-in: Subscription 'x' not found",
            f"az login; az account list shows the subscriptions that you can see, not {SUBSCRIPTION}",
        ),
        (
            {"account show": {**ACCEPTING["account show"], "state": "Disabled"}},
            f"subscription: Mine ({SUBSCRIPTION}) is Disabled",
            "enable it in the Azure portal (Subscriptions), or add --subscription with another one",
        ),
        (
            {"provider list": [{"namespace": "Microsoft.App", "state": "NotRegistered"}, *REGISTERED[1:]]},
            "resource provider Microsoft.App: NotRegistered",
            f"az provider register --namespace Microsoft.App --subscription {SUBSCRIPTION} --wait",
        ),
        (
            {
                "rest --method get": {
                    "value": [{"actions": ["*/read", "Microsoft.App/*", "Microsoft.Storage/*"]}]
                }
            },
            (
                f"rights: not allowed on {SCOPE}: Microsoft.Resources/subscriptions/resourceGroups/write, "
                "Microsoft.Resources/deployments/write, Microsoft.OperationalInsights/workspaces/write and "
                "1 more"
            ),
            f"ask for the role Contributor on {SCOPE}, or sign in with an account that has it: az login",
        ),
        (
            {"containerapp env workload-profile list-supported": [{"name": "D4"}, {"name": "NC48-A100"}]},
            "region swedencentral: NC24-A100 is not offered; GPU profiles: NC48-A100",
            "choose another GPU (--set gpu=NAME), or another region (--location)",
        ),
        (
            {
                "storage account check-name": {
                    "nameAvailable": False,
                    "reason": "AlreadyExists",
                    "message": "The storage account named acct is already taken.",
                }
            },
            "name acct: AlreadyExists: The storage account named acct is already taken.",
            "set storageAccountName in infra/provision/inference.parameters.json",
        ),
        (
            {
                "rest --method post": {
                    "contentEvaluationResult": {
                        "policyEvaluations": [
                            {
                                "policyInfo": {"policyAssignmentId": "/nokeys"},
                                "evaluationResult": "NonCompliant",
                                "effectDetails": {"policyEffect": "Deny"},
                            }
                        ]
                    }
                }
            },
            "shared keys: a policy is in the way: /nokeys (Deny)",
            "ask for an exemption of the resource group, or set shareProtocol to NFS, which needs no key",
        ),
    ],
)
def test_what_is_in_the_way_stops_before_anything_is_created(
    session: Session, az: ScriptedAz, changes: dict[str, Any], check: str, remedy: str
) -> None:
    az.answers |= changes
    with pytest.raises(RemoteError) as caught:
        require_acceptance(session, SUBJECT)
    assert caught.value.message == "something is in the way; nothing was created"
    assert caught.value.details == (f"BLOCKED {check}", f"        {remedy}")
    assert caught.value.hint == remedy
    assert caught.value.exit_code == 4


def test_all_that_is_in_the_way_is_reported_at_once(session: Session, az: ScriptedAz) -> None:
    az.answers |= {
        "containerapp env workload-profile list-supported": [],
        "storage account check-name": {"nameAvailable": False, "reason": "AlreadyExists", "message": "taken"},
    }
    with pytest.raises(RemoteError) as caught:
        require_acceptance(session, SUBJECT)
    assert caught.value.message == "2 things are in the way; nothing was created"
    assert [line for line in caught.value.details if line.startswith("BLOCKED")] == [
        "BLOCKED region swedencentral: NC24-A100 is not offered; GPU profiles: none",
        "BLOCKED name acct: AlreadyExists: taken",
    ]


@pytest.mark.parametrize("error", [NO, WaitTimeoutError("az did not end")])
def test_what_cannot_be_found_out_stops_nothing_and_is_shown(
    session: Session, az: ScriptedAz, error: FjarrError
) -> None:
    az.answers |= dict.fromkeys(
        [each for each in ACCEPTING if each.split()[0] in {"rest", "containerapp", "storage"}], error
    )
    az.answers["provider list"] = NO
    checks = require_acceptance(session, SUBJECT)
    assert [check.state for check in checks].count("unknown") == 6
    assert f"  unknown rights: {error.message}" in output(session)


def test_missing_providers_are_registered_when_that_is_confirmed(session: Session, az: ScriptedAz) -> None:
    az.answers["provider list"] = [
        {"namespace": "Microsoft.App", "state": "NotRegistered"},
        {"namespace": "Microsoft.OperationalInsights", "state": "Unregistered"},
        REGISTERED[2],
    ]
    require_acceptance(session, SUBJECT, is_confirmed=True)
    assert sorted(line for line in az.lines if "register" in line) == [
        f"az provider register --namespace {name} --subscription {SUBSCRIPTION} --wait --output json"
        for name in ("Microsoft.App", "Microsoft.OperationalInsights")
    ]


@pytest.mark.parametrize("is_confirmed", [False, True])
def test_in_a_terminal_registering_is_asked_about(
    session: Session, az: ScriptedAz, monkeypatch: pytest.MonkeyPatch, *, is_confirmed: bool
) -> None:
    az.answers["provider list"] = [{"namespace": "Microsoft.App", "state": "NotRegistered"}, *REGISTERED[1:]]
    monkeypatch.setattr(Console, "is_interactive", True)
    asked = []

    def confirm(_: Console, question: str) -> bool:
        asked.append(question)
        return is_confirmed

    monkeypatch.setattr(Console, "confirm", confirm)
    if is_confirmed:
        require_acceptance(session, SUBJECT)
    else:
        with pytest.raises(RemoteError, match="something is in the way"):
            require_acceptance(session, SUBJECT)
    assert asked == ["Microsoft.App must be registered, which takes minutes and costs nothing. Do it?"]
    assert any("provider register" in line for line in az.lines) is is_confirmed


def test_a_local_stage_has_nothing_to_check(session: Session, az: ScriptedAz) -> None:
    local = replace(session, stage=load_stage(REPOSITORY, "local"))
    assert require_acceptance(local, SUBJECT) == ()
    assert az.commands == []


def test_a_subscription_in_an_unusual_state_is_unknown(session: Session, az: ScriptedAz) -> None:
    az.answers["account show"] = {**ACCEPTING["account show"], "state": "PastDue"}
    assert by_state(check_account(session, SUBSCRIPTION))["subscription"] == "unknown"


def test_the_policy_request_is_valid_json(session: Session, az: ScriptedAz) -> None:
    check_plan(session, SUBJECT)
    (command,) = [each for each in az.commands if "post" in each.argv]
    body = json.loads(command.argv[command.argv.index("--body") + 1])
    assert body["resourceDetails"]["resourceContent"]["name"] == "acct"

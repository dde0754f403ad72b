"""Provision with the real az on a real local cloud beside a fine-tuning step, and into a new group."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from infra.az import commands as az
from infra.az.commands import Group
from infra.az.names import resource_suffix
from infra.az.quotas import Need
from infra.config.settings import Flags, Settings
from infra.provisioning.deployed import read_deployed
from infra.resources.preflight import Subject, check_account, check_plan
from infra.session import cloud_state
from infra.verbs.deploy import deploy
from infra.verbs.doctor import _mount_key
from infra.verbs.provision import plan_provision, provision
from infra.verbs.status import find_status
from tests.doubles.local_place import ASLEEP, Place, local_place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.session import Session
    from infra.verbs.status import Status

pytestmark = pytest.mark.az

# What the original's fine-tuning step makes, as far as inference shares it.
TUNING = {
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "contentVersion": "1.0.0.0",
    "variables": {"suffix": "[take(uniqueString(resourceGroup().id), 5)]"},
    "resources": [
        {
            "type": "Microsoft.Storage/storageAccounts",
            "apiVersion": "2025-08-01",
            "name": "[format('aistorage{0}', variables('suffix'))]",
            "location": "[resourceGroup().location]",
            "tags": {"owner": "tuning"},
            "sku": {"name": "Standard_LRS"},
            "kind": "StorageV2",
        },
        {
            "type": "Microsoft.App/managedEnvironments",
            "apiVersion": "2026-01-01",
            "name": "tuning-env",
            "location": "[resourceGroup().location]",
            "tags": {"owner": "tuning"},
            "properties": {
                "workloadProfiles": [
                    {"name": "Consumption", "workloadProfileType": "Consumption"},
                    {
                        "name": "tuning",
                        "workloadProfileType": "NC24-A100",
                        "minimumCount": 0,
                        "maximumCount": 3,
                    },
                ]
            },
        },
    ],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with local_place(tmp_path_factory.mktemp("project")) as made:
        yield made


def test_beside_a_fine_tuning_step(place: Place) -> None:
    place.forget_flags()
    session = place.open()
    assert session.local_cloud is not None
    group = Group(session.local_cloud.subscription_id, "tuning-rg")
    template, parameters = place.root / "tuning.json", place.root / "none.json"
    template.write_text(json.dumps(TUNING))
    parameters.write_text('{"parameters": {}}')
    session.az.run(az.group_create(group, "swedencentral"))
    session.az.run(az.deployment_create(group, "finetuning", template, parameters))
    before = environment(session, group)
    hand_over(place.root, group)

    flags = Flags(
        resource_group="tuning-rg",
        parameters=(
            *ASLEEP,
            "workloadProfileName=GPU",
            "mountPath=" + str(place.root / ".fjarr/local/tuned"),
        ),
    )
    config = provision(session, flags).config
    assert config.file_share_name == "tuned-share"
    after = environment(session, group)
    added = {"name": "GPU", "workloadProfileType": "NC24-A100", "minimumCount": 0, "maximumCount": 1}
    assert after["properties"]["workloadProfiles"] == [*before["properties"]["workloadProfiles"], added]
    assert after["tags"] == {"owner": "tuning"}
    for name in ("appLogsConfiguration", "defaultDomain", "vnetConfiguration"):
        assert after["properties"].get(name) == before["properties"].get(name)
    show = ("storage", "account", "show", "--name", config.storage_account_name)
    account: Any = session.az.run(az.az(*show, *group.flags))
    assert account["tags"]["owner"] == "tuning"
    assert not provision(place.open()).is_changed


def environment(session: Session, group: Group) -> dict[str, Any]:
    shown = session.az.run(az.environment_show(group, "tuning-env"))
    assert isinstance(shown, dict)
    return shown


def hand_over(root: Path, group: Group) -> None:
    config = {
        "SUBSCRIPTION_ID": group.subscription,
        "RESOURCE_GROUP_NAME": group.name,
        "STORAGE_ACCOUNT_NAME": f"aistorage{resource_suffix(group)}",
        "FILE_SHARE_NAME": "tuned-share",
        "ACA_JOB_NAME": "job",
    }
    (root / "infra/finetuning.config.json").write_text(json.dumps(config))
    parameters = {"parameters": {"acaEnvironmentName": {"value": "tuning-env"}}}
    (root / "infra/provision/finetuning.parameters.json").write_text(json.dumps(parameters))


# A server of the standard library that serves at once, and reports its release as the real one does.
SERVER = """
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        version = {
            "release": os.environ["FJARR_RELEASE"],
            "replica": os.environ["CONTAINER_APP_REPLICA_NAME"],
            "started_at": str(os.getpid()),
            "ready": True,
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(version).encode())

http.server.HTTPServer(("127.0.0.1", int(os.environ["CONTAINER_APP_PORT"])), Handler).serve_forever()
"""


def test_an_app_with_nothing_deployed_is_healthy_and_the_first_deploy_goes_live(place: Place) -> None:
    place.forget_flags()
    session = place.open()
    (place.root / "infra/finetuning.config.json").unlink(missing_ok=True)
    (place.root / "infra/provision/finetuning.parameters.json").unlink(missing_ok=True)
    mount = f"mountPath={place.root}/.fjarr/local/first"
    provision(session, Flags(resource_group="first-rg", location="swedencentral", parameters=(mount,)))
    before = wait_until_ready(session)
    assert before.state.startswith("Running")
    assert not before.ready
    assert before.detail == "the endpoint answers with HTTP 503: nothing deployed yet: run invoke deploy"

    (place.root / "inference").mkdir()
    (place.root / "inference/start.py").write_text(SERVER)
    deployed = deploy(session, timeout_s=120)
    after = find_status(session)
    assert (after.ready, after.release) == (True, deployed.release)
    # Neither the waiting container nor the release was ever started again.
    assert [replica.restarts for replica in (*before.replicas, *after.replicas)] == [0, 0]


def wait_until_ready(session: Session) -> Status:
    """Return the status once the platform calls the only replica ready."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = find_status(session)
        if [replica.ready for replica in status.replicas] == [True]:
            return status
    pytest.fail(f"no replica became ready: {status}")


def test_what_has_come_apart_is_seen_and_mended(place: Place) -> None:
    session = place.open()
    config, group = session.config(), session.group()
    account = ("--account-name", config.storage_account_name)
    names = Settings().names(group)
    where = ("--name", names.environment, *group.flags)
    storage = ("--storage-name", names.environment_storage, "--yes")
    share = ("--storage-account", config.storage_account_name, "--name", config.file_share_name, "--yes")
    session.az.run(az.az("storage", "account", "keys", "renew", *account, "--key", "primary", *group.flags))
    session.az.run(az.az("containerapp", "env", "storage", "remove", *where, *storage))
    session.az.run(az.az("storage", "share-rm", "delete", *share, *group.flags))

    done = provision(place.open(), is_confirmed=True)
    assert sorted(done.plan.repairs) == [
        f"the environment storage {names.environment_storage} is gone",
        f"the file share {names.file_share} is gone",
        "the storage account's key was rotated, and the share is mounted with the old one",
    ]
    assert not plan_provision(place.open()).has_changes
    assert diagnose_key(place) == "ok"


def diagnose_key(place: Place) -> str:
    """Return what the doctor says about the key that the share is mounted with."""
    session = place.open()
    group = session.group()
    return _mount_key(session, read_deployed(session, group, Settings().names(group)))[0].state


def test_the_online_checks_on_the_local_cloud(place: Place) -> None:
    session = place.open()
    group = session.group()
    subject = Subject(
        group=group,
        has_group=True,
        location="swedencentral",
        account="contoso",
        has_account=False,
        environment=Settings().names(group).environment,
        has_environment=True,
        new_profile_type="Consumption-GPU-NC8as-T4",
        need=Need("Consumption-GPU-NC8as-T4", 1),
    )
    assert {check.state for check in check_account(session, group.subscription)} == {"ok"}
    assert {check.state for check in check_plan(session, subject)} == {"ok"}

    keys = {
        "name": "no-shared-keys",
        "type": "Microsoft.Storage/storageAccounts",
        "property": "properties.allowSharedKeyAccess",
        "allowed": [False],
    }
    rules = {
        "quotas": {"SubscriptionConsumptionT4Gpus": 0, "ManagedEnvironmentConsumptionT4Gpus": 0},
        "policies": [keys],
        "takenAccountNames": ["contoso"],
        "deniedActions": ["Microsoft.App/containerApps/write"],
    }
    path = cloud_state(place.root, session.stage) / "subscription.json"
    path.write_text(json.dumps(rules))
    try:
        checks = check_plan(session, subject)
    finally:
        path.unlink()
    environment_name = subject.environment
    assert {check.name: check.state for check in checks} == {
        "rights": "blocked",
        "region swedencentral": "ok",
        "quota SubscriptionConsumptionT4Gpus in swedencentral": "blocked",
        f"quota ManagedEnvironmentConsumptionT4Gpus in {environment_name}": "blocked",
        "name contoso": "blocked",
        "shared keys": "blocked",
    }


@pytest.mark.usefixtures("place")
def test_the_users_home_was_not_touched(own_home: Path) -> None:
    assert not (own_home / ".azure").exists()

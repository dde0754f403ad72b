"""Provision with the real az on a real local cloud: from nothing, again, and beside a fine-tuning step."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from infra.az import commands as az
from infra.az.commands import Group
from infra.az.names import resource_suffix
from infra.az.quotas import Need
from infra.config.endpoint import read_config
from infra.config.settings import Flags, Settings
from infra.errors import RemoteError, UsageError
from infra.provisioning.changes import APP_KIND
from infra.provisioning.deployed import read_deployed
from infra.resources.api_keys import KEYS_FILE
from infra.resources.app_secrets import read_secrets
from infra.resources.file_share import open_share
from infra.resources.preflight import Subject, check_account, check_plan
from infra.session import cloud_state
from infra.verbs.deploy import deploy
from infra.verbs.doctor import _mount_key
from infra.verbs.key import change_key, find_keys, find_names
from infra.verbs.logs import read_logs
from infra.verbs.provision import plan_provision, provision
from infra.verbs.secret import list_secrets, remove_secret, set_secret
from infra.verbs.status import find_status
from tests.doubles.local_place import ASLEEP, Place, local_place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.provisioning.plan import ProvisionPlan
    from infra.session import Session
    from infra.verbs.status import Status

pytestmark = pytest.mark.az

# A container that only prints and sleeps: what is provisioned is what matters here.
THEIRS = (
    "secret set --secrets mine=s3cret",
    "update --set-env-vars THEIRS=1 SECRET=secretref:mine",
    "identity assign --system-assigned",
    "registry set --server r.azurecr.io --username u --password p4ssw0rd",
    "ingress cors enable --allowed-origins https://a.example.org",
    "ingress access-restriction set --rule-name office --ip-address 203.0.113.0/24 --action Allow",
)
"""What others do with az."""

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


def test_from_nothing_and_again(place: Place) -> None:
    session = place.open()
    first = provision(session, Flags(parameters=ASLEEP))
    assert first.is_changed
    config = read_config(place.root / ".fjarr/local/inference.config.json")
    assert first.config == config
    assert config.aca_app_endpoint.startswith("http://127.0.0.1:")
    assert config.resource_group_name == "fjarr-local"
    key = find_keys(session).to_text()

    again = provision(place.open())
    assert again.config == config
    assert not again.is_changed

    changed = provision(place.open(), Flags(parameters=("terminationGracePeriodSeconds=5",)))
    assert texts(changed.plan) == ["template.terminationGracePeriodSeconds: 60 -> 5"]
    assert changed.config == config
    assert find_keys(session).to_text() == key


def test_flags_are_kept_and_taken_back(place: Place) -> None:
    stages = place.root / "infra/stages.toml"
    assert "terminationGracePeriodSeconds = 5" in stages.read_text()
    assert not provision(place.open()).is_changed
    plan = plan_provision(place.open(), Flags(unset=("terminationGracePeriodSeconds",)))
    assert texts(plan) == ["template.terminationGracePeriodSeconds: 5 -> 60"]
    assert not plan.is_destructive
    assert "terminationGracePeriodSeconds = 5" in stages.read_text(), "a plan changes nothing"


def test_what_others_set_survives_an_unrelated_change(place: Place) -> None:
    session = place.open()
    config, group = session.config(), session.group()
    where = ("--name", config.aca_app_name, *group.flags)
    for line in THEIRS:
        session.az.run(az.az("containerapp", *line.split(), *where))
    tags = {**shown_app(session)["tags"], "x": "y"}
    session.az.run(az.az("containerapp", "update", *where, "--tags", *(f"{k}={v}" for k, v in tags.items())))
    before = shown_app(session)

    provision(session, Flags(parameters=("shareQuotaGib=77",)))

    after = shown_app(session)
    for part in ("registries", "secrets", "ingress"):
        assert after["properties"]["configuration"][part] == before["properties"]["configuration"][part]
    for part in ("containers", "scale", "volumes"):
        assert after["properties"]["template"][part] == before["properties"]["template"][part]
    assert (after["tags"]["x"], after["identity"]) == ("y", before["identity"])
    assert read_secrets(session.az, group, config.aca_app_name)["mine"] == {"value": "s3cret"}
    assert not plan_provision(place.open()).has_changes


def test_a_value_of_ours_that_others_changed_is_asked_about(place: Place) -> None:
    session = place.open()
    where = ("--name", session.config().aca_app_name, *session.group().flags)
    changes = ("--max-replicas", "3", "--set-env-vars", "FJARR_ADAPTER=models/theirs")
    session.az.run(az.az("containerapp", "update", *where, *changes))
    session.az.run(az.az("containerapp", "ingress", "sticky-sessions", "set", *where, "--affinity", "sticky"))
    with pytest.raises(UsageError) as caught:
        provision(session, Flags(parameters=("shareQuotaGib=78",)))
    assert "template.scale.maxReplicas: 3 -> 1   (set by others)" in str(caught.value)
    assert "to keep it: --set environmentVariables.FJARR_ADAPTER=models/theirs" in str(caught.value)
    assert shown_app(session)["properties"]["template"]["scale"]["maxReplicas"] == 3

    flags = Flags(parameters=("maxReplicas=3", "stickySessions=true"))
    kept = provision(session, flags, is_confirmed=True)
    assert texts(kept.plan) == [
        'template.containers[inference].env[FJARR_ADAPTER].value: "models/theirs" -> ""'
    ]
    assert shown_app(session)["properties"]["template"]["scale"]["maxReplicas"] == 3


def test_keys_and_secrets_are_changed_and_survive_a_provision(place: Place) -> None:
    session = place.open()
    config, group = session.config(), session.group()
    revision = shown_app(session)["properties"]["latestRevisionName"]
    added = change_key(session, "add", "bob")
    assert not added.is_proven, "nothing listens in this container"
    assert find_names(session).names == ("default", "bob")
    assert shown_app(session)["properties"]["latestRevisionName"] == revision
    with open_share(session) as share:
        document = json.loads(share.read(KEYS_FILE) or b"{}")
    assert set(document["keys"]) == {"default", "bob"}
    assert added.key.value not in json.dumps(document)

    assert set_secret(session, "HF_TOKEN", "one").effect == "new revision"
    assert set_secret(session, "HF_TOKEN", "two").effect == "with the next deploy"
    assert list_secrets(session).names == ("HF_TOKEN", "SECRET")

    provision(session, Flags(parameters=("shareQuotaGib=79",)), is_confirmed=True)
    secrets = read_secrets(session.az, group, config.aca_app_name)
    assert secrets["hf-token"] == {"value": "two"}
    assert find_keys(session).to_json()["keys"]["bob"] == added.key.value  # type: ignore[index]
    assert list_secrets(session).names == ("HF_TOKEN", "SECRET")
    assert remove_secret(session, "HF_TOKEN").effect == "new revision"
    change_key(session, "remove", "bob")
    assert set(read_secrets(session.az, group, config.aca_app_name)) == {*secrets} - {"hf-token"}


def test_what_was_provisioned_has_a_status_and_logs(place: Place) -> None:
    session = place.open()
    status = find_status(session)
    assert status.revision is not None
    assert [replica.name.startswith(status.revision) for replica in status.replicas] == [True]
    assert not status.ready
    texts = [record.text for record in read_logs(session, tail=300, kinds=("console", "system"))]
    assert "it sleeps" in texts
    assert any(text.startswith("ContainerStarted: ") for text in texts)


def test_a_refusal_of_azure_is_its_innermost_reason(place: Place) -> None:
    with pytest.raises(RemoteError) as caught:
        provision(place.open(), Flags(location="norwayeast"))
    assert caught.value.message.startswith(
        "deployment 'inference' failed: InvalidResourceLocation: The resource "
    )
    assert caught.value.command is not None
    assert caught.value.command.startswith("az deployment group what-if --name inference ")
    assert "norwayeast" not in (place.root / "infra/stages.toml").read_text()


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
    account: Any = session.az.run(az.storage_account_show(group, config.storage_account_name))
    assert account["tags"]["owner"] == "tuning"
    assert not provision(place.open()).is_changed


def texts(plan: ProvisionPlan) -> list[str]:
    """Return the changes of the app, without their marks."""
    properties = [each for change in plan.changes if change.kind == APP_KIND for each in change.properties]
    return [each.to_text()[2:].partition("   (")[0] for each in properties]


def shown_app(session: Session) -> dict[str, Any]:
    shown: Any = without_empty(session.az.run(az.app_show(session.group(), session.config().aca_app_name)))
    assert isinstance(shown, dict)
    return shown


def without_empty(value: Any) -> Any:
    """Return JSON without nulls and empty texts: az leaves some behind, which mean the same as nothing."""
    if isinstance(value, dict):
        return {name: without_empty(each) for name, each in value.items() if each not in (None, "")}
    return [without_empty(each) for each in value] if isinstance(value, list) else value


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
    deadline = time.monotonic() + 60
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

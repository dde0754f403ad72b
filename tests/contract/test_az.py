"""The real az against a real daemon: every command that the pipeline uses, and its output on errors.

The whole module shares one daemon and one deployment of the compiled template; tests run in order.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.commands import login

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.az

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "infra" / "provision" / "inference.json"
GROUP = ("-g", "fjarr-az")
# A server whose files satisfy the template's probes.
SERVER = [
    "echo hello from $CONTAINER_APP_REPLICA_NAME with $FJARR_API_KEYS",
    "touch healthz readyz",
    "exec python3 -m http.server $CONTAINER_APP_PORT --bind 127.0.0.1",
]
RESTRICTION = ("--rule-name", "r", "--action", "Allow", "--ip-address", "127.0.0.0/8")
READY_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Az:
    """The real az with a separate configuration, signed in to one local cloud."""

    environment: dict[str, str]
    cloud: dict[str, Any]
    parameters: Path

    def run(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "az"), *arguments]
        found = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert found.returncode == code, f"{' '.join(arguments)}: {found.returncode}\n{found.stderr}"
        return found

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "-o", "json").stdout)

    def deploy(self, verb: str, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        base = ("deployment", "group", verb, *GROUP, "-n", "inference", "-f", str(TEMPLATE))
        return self.run(*base, "-p", f"@{self.parameters}", *more, "-o", "json", code=code)


def local_cloud(state: Path, verb: str, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "localcloud", verb, "--state", str(state)]
    found = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    document = json.loads(found.stdout)
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def az(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Az]:
    home = tmp_path_factory.mktemp("az")
    state = home / "cloud"
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    environment = {**kept, "HOME": str(home), "AZURE_CONFIG_DIR": str(home / "azure")}
    cloud = local_cloud(state, "start", environment)
    environment |= {
        "REQUESTS_CA_BUNDLE": cloud["ca_bundle"],
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        "AZURE_CORE_NO_COLOR": "true",
    }
    values = {
        "maximumInstanceCount": None,
        "workloadProfileName": "Consumption",
        "containerCpu": "0.5",
        "containerMemory": "1Gi",
        "mountPath": str(home / "mount"),
        "allowInsecure": True,
        "apiKey": "default=k3y",
        "defaultCommands": SERVER,
        "terminationGracePeriodSeconds": 1,
        "acaAppName": "app",
        "acaEnvironmentName": "env",
        "storageAccountName": "acct",
        "fileShareName": "share",
        "acaEnvironmentStorageName": "envshare",
    }
    parameters = home / "parameters.json"
    schema = "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#"
    wrapped = {name: {"value": value} for name, value in values.items()}
    document = {"$schema": schema, "contentVersion": "1.0.0.0", "parameters": wrapped}
    parameters.write_text(json.dumps(document))
    found = Az(environment, cloud, parameters)
    try:
        found.run(
            "cloud", "register", "-n", "Local", "--endpoint-resource-manager", cloud["resource_manager"]
        )
        found.run("cloud", "set", "-n", "Local")
        yield found
    finally:
        local_cloud(state, "stop", environment)


@pytest.fixture(scope="module")
def signed_in(az: Az, tmp_path_factory: pytest.TempPathFactory) -> Az:
    secret = tmp_path_factory.mktemp("a folder") / "secret"
    sign_in = login(az.cloud["client_id"], secret, az.cloud["tenant_id"]).argv[1:]
    secret.write_text("-wrong")  # with a hyphen first, as random secrets may have
    wrong = az.run(*sign_in, code=1)
    assert "AADSTS7000215: Invalid client secret provided." in wrong.stderr
    secret.write_text(az.cloud["client_secret"])
    (subscription,) = json.loads(az.run(*sign_in).stdout)
    assert subscription["id"] == az.cloud["subscription_id"]
    return az


@pytest.fixture(scope="module")
def deployed(signed_in: Az) -> Az:
    assert signed_in.run("group", "exists", "-n", "fjarr-az").stdout.strip() == "false"
    group = signed_in.json("group", "create", "-n", "fjarr-az", "-l", "swedencentral")
    assert group["properties"]["provisioningState"] == "Succeeded"
    changes = json.loads(signed_in.deploy("what-if", "--no-pretty-print").stdout)["changes"]
    assert {change["changeType"] for change in changes} == {"Create"}
    document = json.loads(signed_in.deploy("create").stdout)
    outputs = {name: found["value"] for name, found in document["properties"]["outputs"].items()}
    assert outputs.pop("ACA_APP_ENDPOINT").startswith("127.0.0.1:")
    assert outputs == {
        "SUBSCRIPTION_ID": signed_in.cloud["subscription_id"],
        "RESOURCE_GROUP_NAME": "fjarr-az",
        "STORAGE_ACCOUNT_NAME": "acct",
        "FILE_SHARE_NAME": "share",
        "ACA_APP_NAME": "app",
    }
    return signed_in


def test_sign_in_and_groups(signed_in: Az) -> None:
    missing = signed_in.run("group", "show", "-n", "none", code=3)
    assert "(ResourceGroupNotFound) Resource group 'none' could not be found." in missing.stderr
    assert signed_in.json("account", "show")["tenantId"] == signed_in.cloud["tenant_id"]


def test_a_rejected_deployment_is_reported_without_a_traceback(deployed: Az) -> None:
    refused = deployed.deploy("create", "-p", "workloadProfileName=None", code=1)
    assert '"code": "WorkloadProfileNotFound"' in refused.stderr
    assert "Traceback" not in refused.stderr
    compared = deployed.deploy("what-if", "--no-pretty-print", "-p", "workloadProfileName=None", code=1)
    assert "InvalidTemplateDeployment" in compared.stderr
    assert "Traceback" not in compared.stderr


def test_a_deployment_is_shown_and_a_second_one_changes_nothing(deployed: Az) -> None:
    shown = deployed.json("deployment", "group", "show", *GROUP, "-n", "inference")
    assert shown["properties"]["provisioningState"] == "Succeeded"
    assert shown["properties"]["parameters"]["apiKey"] == {"type": "SecureString"}
    assert json.loads(deployed.deploy("validate").stdout)["properties"]["error"] is None
    changes = json.loads(deployed.deploy("what-if", "--no-pretty-print", "-p", "shareQuotaGib=9").stdout)[
        "changes"
    ]
    changed = [change["delta"] for change in changes if change["changeType"] != "NoChange"]
    assert [(entry["path"], entry["after"]) for (entry,) in changed] == [("properties.shareQuota", 9)]
    operations = deployed.json("deployment", "operation", "group", "list", *GROUP, "-n", "inference")
    assert {found["properties"]["provisioningState"] for found in operations} == {"Succeeded"}


def test_the_app_answers_and_is_shown(deployed: Az) -> None:
    app = deployed.json("containerapp", "show", *GROUP, "-n", "app")
    wait_until_ready(deployed)
    host = app["properties"]["configuration"]["ingress"]["fqdn"]
    with urllib.request.urlopen(f"http://{host}/healthz", timeout=60) as answer:
        assert answer.status == 200
    assert [found["name"] for found in deployed.json("containerapp", "list", *GROUP)] == ["app"]
    secret = deployed.json("containerapp", "secret", "show", *GROUP, "-n", "app", "--secret-name", "api-key")
    assert secret["value"] == "default=k3y"


def test_logs_are_shown(deployed: Az) -> None:
    console = deployed.run("containerapp", "logs", "show", *GROUP, "-n", "app", "--tail", "50").stdout
    assert "Successfully Connected to container: 'inference'" in console
    assert "with default=k3y" in console
    events = deployed.run("containerapp", "logs", "show", *GROUP, "-n", "app", "--type", "system").stdout
    assert '"Reason": "ContainerStarted"' in events


def test_a_restart_replaces_the_replicas(deployed: Az) -> None:
    (revision,) = deployed.json("containerapp", "revision", "list", *GROUP, "-n", "app")
    assert (revision["properties"]["active"], revision["properties"]["trafficWeight"]) == (True, 100)
    (before,) = replicas(deployed)
    deployed.run("containerapp", "revision", "restart", *GROUP, "-n", "app", "--revision", revision["name"])
    deadline = time.monotonic() + READY_TIMEOUT_S
    while before["name"] in [found["name"] for found in replicas(deployed)]:
        assert time.monotonic() < deadline, "the replica was not replaced"
    (after,) = replicas(deployed)
    assert after["properties"]["createdTime"] > before["properties"]["createdTime"]
    one = deployed.json("containerapp", "replica", "show", *GROUP, "-n", "app", "--replica", after["name"])
    assert one["properties"]["containers"][0]["name"] == "inference"


def test_secrets_and_updates(deployed: Az) -> None:
    deployed.run("containerapp", "secret", "set", *GROUP, "-n", "app", "--secrets", "more=x")
    names = [found["name"] for found in deployed.json("containerapp", "secret", "list", *GROUP, "-n", "app")]
    assert names == ["api-key", "more"]
    update = ("containerapp", "update", *GROUP, "-n", "app")
    app = deployed.json(*update, "--set-env-vars", "A=b")
    assert app["properties"]["latestRevisionName"] == "app--0000001"
    refused = deployed.run(*update, "--cpu", "0.3", code=1)
    assert "(ContainerAppInvalidResourceTotal)" in refused.stderr
    wait_until_ready(deployed)
    revisions = deployed.json("containerapp", "revision", "list", *GROUP, "-n", "app")
    assert [found["name"] for found in revisions] == ["app--0000001"]


def test_the_environment_and_its_storage_are_shown(deployed: Az) -> None:
    environment = deployed.json("containerapp", "env", "show", *GROUP, "-n", "env")
    profiles = [found["name"] for found in environment["properties"]["workloadProfiles"]]
    assert profiles == ["Consumption", "GPU"]
    (storage,) = deployed.json("containerapp", "env", "storage", "list", *GROUP, "-n", "env")
    assert storage["properties"]["azureFile"]["shareName"] == "share"
    where = ("containerapp", "env", "workload-profile", "list-supported", "-l", "swedencentral")
    assert "NC24-A100" in [found["name"] for found in deployed.json(*where)]


def test_storage_accounts_and_their_keys(deployed: Az) -> None:
    account = deployed.json("storage", "account", "show", *GROUP, "-n", "acct")
    assert account["primaryEndpoints"]["file"] == f"{deployed.cloud['resource_manager']}acct/"
    keys = deployed.json("storage", "account", "keys", "list", *GROUP, "-n", "acct")
    assert [key["keyName"] for key in keys] == ["key1", "key2"]


def test_what_others_set_by_hand_is_kept(deployed: Az) -> None:
    """The commands that users change an app with, beside the pipeline."""
    app = (*GROUP, "-n", "app")
    ingress = ("containerapp", "ingress")
    for command in (
        ("containerapp", "identity", "assign", *app, "--system-assigned"),
        ("containerapp", "registry", "set", *app, "--server", "x.azurecr.io", "--identity", "system"),
        (*ingress, "cors", "enable", *app, "--allowed-origins", "https://a.example"),
        (*ingress, "sticky-sessions", "set", *app, "--affinity", "sticky"),
        (*ingress, "access-restriction", "set", *app, *RESTRICTION),
        ("containerapp", "update", *app, "--set-env-vars", "B=c", "--max-replicas", "3"),
        ("containerapp", "secret", "remove", *app, "--secret-names", "more"),
    ):
        deployed.run(*command)
    shown = deployed.json("containerapp", "show", *app)
    configuration, template = shown["properties"]["configuration"], shown["properties"]["template"]
    assert shown["identity"]["type"] == "SystemAssigned"
    assert [found["server"] for found in configuration["registries"]] == ["x.azurecr.io"]
    assert configuration["ingress"]["corsPolicy"]["allowedOrigins"] == ["https://a.example"]
    assert configuration["ingress"]["stickySessions"] == {"affinity": "sticky"}
    assert [found["name"] for found in configuration["ingress"]["ipSecurityRestrictions"]] == ["r"]
    assert [found["name"] for found in configuration["secrets"]] == ["api-key"]
    assert template["scale"]["maxReplicas"] == 3
    assert {"name": "B", "value": "c"} in template["containers"][0]["env"]


def test_a_revision_is_deactivated_and_activated(deployed: Az) -> None:
    revision = ("-g", GROUP[1], "-n", "app", "--revision", "app--0000002")
    wait_until_ready(deployed)
    deployed.run("containerapp", "revision", "deactivate", *revision)
    shown = deployed.json("containerapp", "revision", "show", *revision)
    assert shown["properties"]["active"] is False
    deployed.run("containerapp", "revision", "activate", *revision)
    wait_until_ready(deployed)


def test_usages_show_what_counts(deployed: Az) -> None:
    rows = deployed.json("containerapp", "env", "list-usages", *GROUP, "-n", "env")["value"]
    assert {"ManagedEnvironmentConsumptionT4Gpus"} <= {row["name"]["value"] for row in rows}
    rows = deployed.json("containerapp", "list-usages", "-l", "swedencentral")["value"]
    used = {row["name"]["value"]: row["currentValue"] for row in rows}
    assert (used["ManagedEnvironmentCount"], used["SubscriptionNCA100Gpus"]) == (1, 1)


def test_a_new_key_and_forbidden_keys_close_the_share(deployed: Az) -> None:
    account = (*GROUP, "-n", "acct")
    (old, _) = deployed.json("storage", "account", "keys", "list", *account)
    (new, _) = deployed.json("storage", "account", "keys", "renew", *account, "--key", "primary")
    assert old["value"] != new["value"]
    share = ("storage", "share", "exists", "-n", "share")
    endpoint = f"{deployed.cloud['resource_manager']}acct/"

    def connection(key: str) -> tuple[str, str]:
        parts = f"AccountName=acct;AccountKey={key};FileEndpoint={endpoint}"
        return "--connection-string", f"DefaultEndpointsProtocol=https;{parts}"

    assert deployed.json(*share, *connection(new["value"])) == {"exists": True}
    assert "AuthenticationFailed" in deployed.run(*share, *connection(old["value"]), code=1).stderr
    deployed.run("storage", "account", "update", *account, "--allow-shared-key-access", "false")
    closed = deployed.run(*share, *connection(new["value"]), code=1)
    assert "KeyBasedAuthenticationNotPermitted" in closed.stderr


def test_the_group_goes_with_everything_in_it(deployed: Az) -> None:
    fqdn = deployed.json("containerapp", "show", *GROUP, "-n", "app")["properties"]["configuration"][
        "ingress"
    ]
    deployed.run("group", "delete", "-n", "fjarr-az", "-y")
    assert deployed.run("group", "exists", "-n", "fjarr-az").stdout.strip() == "false"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{fqdn['fqdn']}/healthz", timeout=60)


def test_a_provider_is_unregistered_and_registered(deployed: Az) -> None:
    deployed.run("provider", "unregister", "-n", "Microsoft.App")
    assert deployed.json("provider", "show", "-n", "Microsoft.App")["registrationState"] == "NotRegistered"
    deployed.run("provider", "register", "-n", "Microsoft.App", "--wait")
    assert deployed.json("provider", "show", "-n", "Microsoft.App")["registrationState"] == "Registered"


def replicas(az: Az) -> list[dict[str, Any]]:
    found = az.json("containerapp", "replica", "list", *GROUP, "-n", "app")
    assert isinstance(found, list)
    return found


def wait_until_ready(az: Az) -> None:
    """Poll with az, which takes a second each time, until the latest revision is ready."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        properties = az.json("containerapp", "show", *GROUP, "-n", "app")["properties"]
        if properties["latestReadyRevisionName"] == properties["latestRevisionName"]:
            return
        assert time.monotonic() < deadline, "the app did not become ready"

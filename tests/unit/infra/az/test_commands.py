"""Every az command line, whole, as a person would paste it into a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.az import commands as az
from infra.az.commands import Group
from infra.process import Command, redact

GROUP = Group("00000000-0000-0000-0000-000000000001", "my-rg")
IN_GROUP = "--resource-group my-rg --subscription 00000000-0000-0000-0000-000000000001"
NAMED = "--name my-rg --subscription 00000000-0000-0000-0000-000000000001"

LINES = {
    "az version": az.version(),
    "az account show": az.account_show(),
    "az account show --subscription s": az.account_show("s"),
    "az account get-access-token --subscription s": az.access_token("s"),
    "az account list": az.account_list(),
    "az provider list --query '[].{namespace:namespace,state:registrationState}' --subscription s": (
        az.provider_list("s")
    ),
    "az provider register --namespace Microsoft.App --subscription s --wait": az.provider_register(
        "Microsoft.App", "s"
    ),
    "az rest --method get --url "
    "'/subscriptions/s/providers/Microsoft.Authorization/permissions?api-version=2022-04-01' "
    "--subscription s": az.permission_list("/subscriptions/s", "s"),
    "az rest --method post --url "
    "'/subscriptions/s/providers/Microsoft.PolicyInsights/checkPolicyRestrictions?api-version=2024-10-01' "
    "--body '{}' --subscription s": az.policy_check("/subscriptions/s", "{}", "s"),
    "az storage account check-name --name acct --subscription s": az.storage_name_check("acct", "s"),
    f"az storage account keys list --account-name acct {IN_GROUP}": az.storage_key_list(GROUP, "acct"),
    f"az containerapp env list-usages --name env {IN_GROUP}": az.environment_usages(GROUP, "env"),
    "az cloud register --name Here --endpoint-resource-manager https://localhost:1/": az.cloud_register(
        "Here", "https://localhost:1/"
    ),
    "az cloud set --name Here": az.cloud_set("Here"),
    "az login --service-principal --username me --password=@/x/secret --tenant home": az.login(
        "me", Path("/x/secret"), "home"
    ),
    "az group list --subscription s": az.group_list("s"),
    f"az group show {NAMED}": az.group_show(GROUP),
    "az group create --name my-rg --location swedencentral "
    "--subscription 00000000-0000-0000-0000-000000000001 --tags a=b": az.group_create(
        GROUP, "swedencentral", ("a=b",)
    ),
    f"az group delete {NAMED} --yes": az.group_delete(GROUP),
    f"az resource list {IN_GROUP}": az.resource_list(GROUP),
    "az resource show --ids /subscriptions/s/x": az.resource_show("/subscriptions/s/x"),
    "az rest --method get --url "
    f"'{GROUP.id}/providers/Microsoft.Storage/storageAccounts/acct/fileServices/default/shares"
    "?api-version=2025-08-01' --subscription 00000000-0000-0000-0000-000000000001": az.storage_list(
        GROUP, "acct", "fileServices/default/shares"
    ),
    "az rest --method post --url "
    f"'{GROUP.id}/providers/Microsoft.App/containerApps/app/stop?api-version=2025-07-01' "
    "--subscription 00000000-0000-0000-0000-000000000001": az.app_power(GROUP, "app", "stop"),
    f"az containerapp env list {IN_GROUP}": az.environment_list(GROUP),
    f"az containerapp delete --name x {IN_GROUP} --yes": az.resource_delete(
        GROUP, "Microsoft.App/containerApps", "x"
    ),
    f"az containerapp env delete --name x {IN_GROUP} --yes": az.resource_delete(
        GROUP, "Microsoft.App/managedEnvironments", "x"
    ),
    f"az monitor log-analytics workspace delete --workspace-name x {IN_GROUP} --yes": az.resource_delete(
        GROUP, "Microsoft.OperationalInsights/workspaces", "x"
    ),
    f"az storage account delete --name x {IN_GROUP} --yes": az.resource_delete(
        GROUP, "Microsoft.Storage/storageAccounts", "x"
    ),
    f"az deployment group create --name inference {IN_GROUP} --template-file t.bicep "
    "--parameters @/x/p.json --no-prompt": az.deployment_create(
        GROUP, "inference", Path("t.bicep"), Path("/x/p.json")
    ),
    f"az deployment group what-if --name inference {IN_GROUP} --template-file t.json --parameters @/x/p.json "
    "--no-prompt --no-pretty-print --result-format FullResourcePayloads": az.deployment_what_if(
        GROUP, "inference", Path("t.json"), Path("/x/p.json")
    ),
    f"az deployment group show --name inference {IN_GROUP}": az.deployment_show(GROUP, "inference"),
    "az bicep build --file a.bicep --outfile b.json": az.bicep_build(Path("a.bicep"), Path("b.json")),
    f"az deployment group cancel --name inference {IN_GROUP}": az.deployment_cancel(GROUP, "inference"),
    f"az deployment operation group list --name inference {IN_GROUP}": az.deployment_operations(
        GROUP, "inference"
    ),
    f"az containerapp exec --name app --command bash {IN_GROUP}": az.app_exec(GROUP, "app", "bash"),
    f"az containerapp exec --name app --command sh --replica r {IN_GROUP}": az.app_exec(
        GROUP, "app", "sh", "r"
    ),
    f"az storage account show-connection-string --name acct {IN_GROUP}": az.storage_connection_string(
        GROUP, "acct"
    ),
    f"az containerapp env show --name env {IN_GROUP}": az.environment_show(GROUP, "env"),
    f"az containerapp env workload-profile add --name env {IN_GROUP} --workload-profile-name GPU "
    "--workload-profile-type NC24-A100 --min-nodes 0 --max-nodes 2": az.workload_profile_add(
        GROUP, "env", "GPU", "NC24-A100", 2
    ),
    f"az containerapp env workload-profile add --name env {IN_GROUP} --workload-profile-name GPU "
    "--workload-profile-type Consumption-GPU-NC24-A100": az.workload_profile_add(
        GROUP, "env", "GPU", "Consumption-GPU-NC24-A100", None
    ),
    f"az containerapp env workload-profile update --name env {IN_GROUP} --workload-profile-name GPU "
    "--min-nodes 0 --max-nodes 3": az.workload_profile_update(GROUP, "env", "GPU", 3),
    "az containerapp env workload-profile list-supported --location swedencentral --subscription s": (
        az.workload_profiles_supported("s", "swedencentral")
    ),
    "az containerapp list-usages --location swedencentral --subscription s": az.location_usages(
        "s", "swedencentral"
    ),
    f"az containerapp show --name app {IN_GROUP}": az.app_show(GROUP, "app"),
    f"az resource patch --ids {GROUP.id}/providers/Microsoft.App/containerApps/app --api-version 2025-07-01 "
    "--is-full-object --properties @/x/app.json": az.app_patch(GROUP, "app", Path("/x/app.json")),
    f"az containerapp secret list --name app --show-values {IN_GROUP}": az.app_secret_list(GROUP, "app"),
    f"az containerapp revision deactivate --name app --revision app--1 {IN_GROUP}": az.revision_deactivate(
        GROUP, "app", "app--1"
    ),
    f"az containerapp revision list --name app {IN_GROUP}": az.revision_list(GROUP, "app"),
    f"az containerapp revision show --name app --revision r {IN_GROUP}": az.revision_show(GROUP, "app", "r"),
    f"az containerapp revision restart --name app --revision r {IN_GROUP}": az.revision_restart(
        GROUP, "app", "r"
    ),
    f"az containerapp revision activate --name app --revision r {IN_GROUP}": az.revision_activate(
        GROUP, "app", "r"
    ),
    f"az containerapp replica list --name app {IN_GROUP}": az.replica_list(GROUP, "app"),
    f"az containerapp replica list --name app --revision r {IN_GROUP}": az.replica_list(GROUP, "app", "r"),
    "az rest --method post --url '/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/my-rg"
    "/providers/Microsoft.App/containerApps/app/getAuthtoken?api-version=2025-07-01' "
    "--subscription 00000000-0000-0000-0000-000000000001": az.app_log_token(GROUP, "app"),
}


@pytest.mark.parametrize("line", LINES)
def test_the_whole_command_line(line: str) -> None:
    assert LINES[line].line == f"{line} --output json"


def test_every_command_has_its_golden_line() -> None:
    makers = {
        name
        for name, value in vars(az).items()
        if getattr(value, "__annotations__", {}).get("return") == "Command" and name != "az"
    }
    source = Path(__file__).read_text(encoding="utf-8")
    assert makers
    assert {name for name in makers if f"az.{name}(" not in source} == set()


def test_a_declared_secret_does_not_show_in_the_line() -> None:
    command = Command(
        ("az", "login", "--password", "hunter22", "--note", "it is hunter22!"), secrets=("hunter22",)
    )
    assert command.line == "az login --password '***' --note 'it is ***!'"
    assert "hunter22" in command.argv


def test_of_two_secrets_one_within_the_other_nothing_shows() -> None:
    assert redact("key=abcdef and abc", ("abc", "abcdef", "")) == "key=*** and ***"


def test_an_argument_with_spaces_is_quoted() -> None:
    assert Command(("az", "group", "show", "--name", "my group")).line == "az group show --name 'my group'"

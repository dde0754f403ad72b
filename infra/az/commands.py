"""Every `az` command line that the pipeline can run, as a value.

Each function takes plain values and returns a `Command`, without starting or reading anything;
`infra.az.client` runs it. So each command line has one golden test, and the test of a verb needs no mock.

A value that must not be shown is declared in `Command.secrets`; to print a command, print `Command.line`.
Secrets are never on a command line: they are passed in files that only the user can read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from infra.process import Command

if TYPE_CHECKING:
    from pathlib import Path

MINIMUM_VERSION: Final = (2, 75, 0)
"""The oldest version of az that is accepted. Developed and tested with 2.91."""

APP_API_VERSION: Final = "2025-07-01"
"""The api-version for calls to Microsoft.App that az has no command for: the one that az 2.91 uses."""

STORAGE_API_VERSION: Final = "2025-08-01"
PERMISSION_API_VERSION: Final = "2022-04-01"
POLICY_API_VERSION: Final = "2024-10-01"

_DELETIONS: Final = {
    "Microsoft.App/containerApps": ("containerapp", "delete", "--name"),
    "Microsoft.App/managedEnvironments": ("containerapp", "env", "delete", "--name"),
    "Microsoft.OperationalInsights/workspaces": (
        "monitor", "log-analytics", "workspace", "delete", "--workspace-name",
    ),
    "Microsoft.Storage/storageAccounts": ("storage", "account", "delete", "--name"),
}  # fmt: skip

INSTALL_HINT: Final = "pip install azure-cli, into the environment that invoke runs in"


@dataclass(frozen=True, slots=True)
class Group:
    """A resource group and its subscription."""

    subscription: str
    name: str

    @property
    def id(self) -> str:
        """Return the resource id: the value of `resourceGroup().id` in a template."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.name}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Return the flags that apply an az command to this group."""
        return ("--resource-group", self.name, "--subscription", self.subscription)


def az(
    *arguments: str, secrets: tuple[str, ...] = (), timeout_s: float = 300.0, goes_on: bool = False
) -> Command:
    """Return an az command that prints JSON; `goes_on` as for `Command`."""
    argv = ("az", *arguments, "--output", "json")
    return Command(argv, secrets, timeout_s, install_hint=INSTALL_HINT, module="azure.cli", goes_on=goes_on)


# The tool itself, and the signed-in account.


def bicep_build(source: Path, compiled: Path) -> Command:
    """Compile a Bicep file. az downloads the Bicep CLI if it is not installed."""
    return az("bicep", "build", "--file", str(source), "--outfile", str(compiled), timeout_s=300)


def version() -> Command:
    """Show the version of az."""
    return az("version")


def account_show(subscription: str | None = None) -> Command:
    """Show the signed-in account and a subscription, by default the current one. Needs no network."""
    return az("account", "show", *(("--subscription", subscription) if subscription else ()))


def access_token(subscription: str) -> Command:
    """Return a token for Resource Manager, valid for about an hour. The output is secret."""
    return az("account", "get-access-token", "--subscription", subscription)


def account_list() -> Command:
    """List the subscriptions that the user can see. Needs no network."""
    return az("account", "list")


def cloud_register(name: str, resource_manager: str) -> Command:
    """Register a cloud by the address of its resource manager."""
    return az("cloud", "register", "--name", name, "--endpoint-resource-manager", resource_manager)


def cloud_set(name: str) -> Command:
    """Make a registered cloud the active one."""
    return az("cloud", "set", "--name", name)


def login(client_id: str, secret_file: Path, tenant_id: str) -> Command:
    """Sign in as a service principal. az reads the secret from a file."""
    # In one argument: az puts the text in place of the file, and one with a hyphen first would be an option.
    principal = ("--username", client_id, f"--password=@{secret_file}", "--tenant", tenant_id)
    return az("login", "--service-principal", *principal)


# What a subscription allows, for the checks before a deployment.


def provider_list(subscription: str) -> Command:
    """List a subscription's resource providers, each with its `namespace` and `state` of registration."""
    query = "[].{namespace:namespace,state:registrationState}"
    return az("provider", "list", "--query", query, "--subscription", subscription)


def provider_register(namespace: str, subscription: str) -> Command:
    """Register a resource provider and wait until it is registered, which takes minutes."""
    where = ("--namespace", namespace, "--subscription", subscription)
    return az("provider", "register", *where, "--wait", timeout_s=1200, goes_on=True)


def permission_list(scope: str, subscription: str) -> Command:
    """List the actions that the signed-in account may perform at a scope: a subscription or a group.

    Source: Microsoft.Authorization, "Permissions - List For Resource Group"; az has no command for it.
    """
    address = f"{scope}/providers/Microsoft.Authorization/permissions?api-version={PERMISSION_API_VERSION}"
    return az("rest", "--method", "get", "--url", address, "--subscription", subscription)


def policy_check(scope: str, resource: str, subscription: str) -> Command:
    """Compute which policies apply to a resource that does not exist yet; see `infra.az.policies`.

    Args:
        scope: The subscription or the group to create it in.
        resource: The request's body, as JSON.
        subscription: The id of the subscription.
    """
    path = "providers/Microsoft.PolicyInsights/checkPolicyRestrictions"
    address = f"{scope}/{path}?api-version={POLICY_API_VERSION}"
    where = ("--method", "post", "--url", address, "--body", resource)
    return az("rest", *where, "--subscription", subscription)


def storage_name_check(account: str, subscription: str) -> Command:
    """Return whether a storage account can have a name, which is unique in all of Azure."""
    return az("storage", "account", "check-name", "--name", account, "--subscription", subscription)


# Resource groups and their content.


def group_list(subscription: str) -> Command:
    """List a subscription's resource groups."""
    return az("group", "list", "--subscription", subscription)


def group_show(group: Group) -> Command:
    """Show a resource group."""
    return az("group", "show", "--name", group.name, "--subscription", group.subscription)


def group_create(group: Group, location: str, tags: tuple[str, ...] = ()) -> Command:
    """Create a resource group; `tags` are `name=value` entries."""
    where = ("--name", group.name, "--location", location, "--subscription", group.subscription)
    return az("group", "create", *where, *(("--tags", *tags) if tags else ()))


def group_delete(group: Group) -> Command:
    """Delete a resource group with everything in it, and wait until it is gone."""
    where = ("--name", group.name, "--subscription", group.subscription)
    return az("group", "delete", *where, "--yes", timeout_s=1800, goes_on=True)


def resource_list(group: Group) -> Command:
    """List every resource of a group."""
    return az("resource", "list", *group.flags)


def resource_show(resource_id: str) -> Command:
    """Show one resource by its id, with its properties."""
    return az("resource", "show", "--ids", resource_id)


def resource_delete(group: Group, resource_type: str, name: str) -> Command:
    """Delete one of the template's resources and wait until it is gone.

    Each type has its own command: `az resource delete` does not print why a deletion failed.
    """
    return az(*_DELETIONS[resource_type], name, *group.flags, "--yes", timeout_s=1800, goes_on=True)


def deployment_create(
    group: Group, name: str, template: Path, parameters: Path, secrets: tuple[str, ...] = ()
) -> Command:
    """Deploy a template (Bicep or JSON) with the parameters in a file, and wait until it ends.

    `secrets` are values in that file that az could print in an error.
    """
    target = ("--name", name, *group.flags)
    files = ("--template-file", str(template), "--parameters", f"@{parameters}", "--no-prompt")
    return az("deployment", "group", "create", *target, *files, secrets=secrets, timeout_s=3600)


def deployment_what_if(
    group: Group, name: str, template: Path, parameters: Path, secrets: tuple[str, ...] = ()
) -> Command:
    """Compute what a deployment would change, without changing anything; see `deployment_create`."""
    target = ("--name", name, *group.flags)
    files = ("--template-file", str(template), "--parameters", f"@{parameters}", "--no-prompt")
    plain = ("--no-pretty-print", "--result-format", "FullResourcePayloads")
    return az("deployment", "group", "what-if", *target, *files, *plain, secrets=secrets, timeout_s=600)


def deployment_show(group: Group, name: str) -> Command:
    """Show a deployment, with its parameters except for the secret ones."""
    return az("deployment", "group", "show", "--name", name, *group.flags)


def deployment_cancel(group: Group, name: str) -> Command:
    """Cancel a running deployment: no further resource is created, and those that were made stay."""
    return az("deployment", "group", "cancel", "--name", name, *group.flags)


def deployment_operations(group: Group, name: str) -> Command:
    """List the operations of a deployment, one for each resource."""
    return az("deployment", "operation", "group", "list", "--name", name, *group.flags)


# Storage.


def storage_connection_string(group: Group, account: str) -> Command:
    """Show an account's connection string, with its file endpoint and a key. The output is secret."""
    return az("storage", "account", "show-connection-string", "--name", account, *group.flags)


def storage_key_list(group: Group, account: str) -> Command:
    """List the two keys of a storage account. The output is secret."""
    return az("storage", "account", "keys", "list", "--account-name", account, *group.flags)


def storage_list(group: Group, account: str, service: str) -> Command:
    """List what a storage account has of one service, without its keys.

    Source: Microsoft.Storage, "List" of file shares, blob containers, queues and tables; az has no commands
    without a key for the last two.

    Args:
        group: The account's resource group.
        account: The account.
        service: A service with its collection, such as `fileServices/default/shares`.
    """
    path = f"{group.id}/providers/Microsoft.Storage/storageAccounts/{account}/{service}"
    address = f"{path}?api-version={STORAGE_API_VERSION}"
    return az("rest", "--method", "get", "--url", address, "--subscription", group.subscription)


# The Container Apps environment.


def environment_show(group: Group, environment: str) -> Command:
    """Show a Container Apps environment, with its workload profiles."""
    return az("containerapp", "env", "show", "--name", environment, *group.flags)


def environment_list(group: Group) -> Command:
    """List the Container Apps environments of a group, with their workload profiles."""
    return az("containerapp", "env", "list", *group.flags)


def workload_profile_add(
    group: Group, environment: str, profile: str, profile_type: str, maximum_count: int | None
) -> Command:
    """Add a workload profile to an environment without changing the others.

    `maximum_count` is None for a serverless profile, which has no node counts.
    """
    kind = ("--workload-profile-name", profile, "--workload-profile-type", profile_type)
    nodes = () if maximum_count is None else ("--min-nodes", "0", "--max-nodes", str(maximum_count))
    where = ("--name", environment, *group.flags)
    return az(
        "containerapp", "env", "workload-profile", "add", *where, *kind, *nodes, timeout_s=1800, goes_on=True
    )


def workload_profile_update(group: Group, environment: str, profile: str, maximum_count: int) -> Command:
    """Change the maximum number of nodes of a workload profile."""
    where = ("--name", environment, *group.flags, "--workload-profile-name", profile)
    nodes = ("--min-nodes", "0", "--max-nodes", str(maximum_count))
    return az(
        "containerapp", "env", "workload-profile", "update", *where, *nodes, timeout_s=1800, goes_on=True
    )


def workload_profiles_supported(subscription: str, location: str) -> Command:
    """List the workload profile types that a region offers."""
    where = ("--location", location, "--subscription", subscription)
    return az("containerapp", "env", "workload-profile", "list-supported", *where)


def location_usages(subscription: str, location: str) -> Command:
    """List the quotas of a subscription in a region, with their usage."""
    return az("containerapp", "list-usages", "--location", location, "--subscription", subscription)


def environment_usages(group: Group, environment: str) -> Command:
    """List the quotas of an environment, with their usage."""
    return az("containerapp", "env", "list-usages", "--name", environment, *group.flags)


# The app.


def app_show(group: Group, app: str) -> Command:
    """Show a container app."""
    return az("containerapp", "show", "--name", app, *group.flags)


def app_power(group: Group, app: str, action: Literal["start", "stop"]) -> Command:
    """Stop all replicas of an app, or start them again. Returns before it is done.

    Source: POST start and stop of Microsoft.App/containerApps; az has no command for them.
    """
    path = f"{group.id}/providers/Microsoft.App/containerApps/{app}/{action}"
    address = f"{path}?api-version={APP_API_VERSION}"
    return az("rest", "--method", "post", "--url", address, "--subscription", group.subscription)


def app_secret_list(group: Group, app: str) -> Command:
    """List an app's secrets with their values. The output is secret."""
    return az("containerapp", "secret", "list", "--name", app, "--show-values", *group.flags)


def app_patch(group: Group, app: str, body: Path) -> Command:
    """Merge a JSON document, in a file, into a container app, and wait until Azure has changed it.

    az's own commands for secrets take their values on the command line, where every process can read them.
    """
    resource = f"{group.id}/providers/Microsoft.App/containerApps/{app}"
    how = ("--api-version", APP_API_VERSION, "--is-full-object", "--properties", f"@{body}")
    return az("resource", "patch", "--ids", resource, *how, goes_on=True)


def revision_list(group: Group, app: str) -> Command:
    """List an app's active revisions."""
    return az("containerapp", "revision", "list", "--name", app, *group.flags)


def revision_show(group: Group, app: str, revision: str) -> Command:
    """Show one revision of an app."""
    return az("containerapp", "revision", "show", "--name", app, "--revision", revision, *group.flags)


def revision_restart(group: Group, app: str, revision: str) -> Command:
    """Request new replicas of a revision. Returns before anything has restarted."""
    return az("containerapp", "revision", "restart", "--name", app, "--revision", revision, *group.flags)


def revision_activate(group: Group, app: str, revision: str) -> Command:
    """Make an inactive revision active again."""
    return az("containerapp", "revision", "activate", "--name", app, "--revision", revision, *group.flags)


def revision_deactivate(group: Group, app: str, revision: str) -> Command:
    """Stop a revision and its replicas, which gives up their capacity."""
    return az("containerapp", "revision", "deactivate", "--name", app, "--revision", revision, *group.flags)


def replica_list(group: Group, app: str, revision: str | None = None) -> Command:
    """List the replicas of a revision, or of the app's latest one."""
    which = () if revision is None else ("--revision", revision)
    return az("containerapp", "replica", "list", "--name", app, *which, *group.flags)


def app_exec(group: Group, app: str, program: str, replica: str | None = None) -> Command:
    """Open a shell, or another program, in a replica's container, on the user's terminal."""
    which = () if replica is None else ("--replica", replica)
    return az("containerapp", "exec", "--name", app, "--command", program, *which, *group.flags)


def app_log_token(group: Group, app: str) -> Command:
    """Request a token for an app's log streams. The output is secret, and is valid for about an hour.

    Source: POST getAuthtoken of Microsoft.App/containerApps; az has no command for it.
    """
    path = f"{group.id}/providers/Microsoft.App/containerApps/{app}/getAuthtoken"
    address = f"{path}?api-version={APP_API_VERSION}"
    return az("rest", "--method", "post", "--url", address, "--subscription", group.subscription)

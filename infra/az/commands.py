"""Say, as values, every `az` command line that the pipeline can run.

A function here takes plain values and returns a `Command`; nothing is started and nothing is read.
`infra.az.client` performs them. So each command line has one golden test, and a test of what a verb would do
needs no mock.

A value that must not be shown is declared in `Command.secrets`; whoever prints a command prints
`Command.line`. No secret of ours stands on a command line at all: what is secret travels in files that only
the user can read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.process import Command

if TYPE_CHECKING:
    from pathlib import Path

MINIMUM_VERSION = (2, 75, 0)
"""The oldest az that is let pass. Developed and tested on 2.91; what is older than this was never tried."""

APP_API_VERSION = "2025-07-01"
"""The api-version for the calls to Microsoft.App that az has no command for: the one az 2.91 itself uses."""

INSTALL_HINT = "pip install azure-cli, into the environment that invoke runs in"


@dataclass(frozen=True, slots=True)
class Group:
    """Name a resource group together with the subscription that it is in."""

    subscription: str
    name: str

    @property
    def id(self) -> str:
        """Return the resource id, which is what `resourceGroup().id` gives in a template."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.name}"

    @property
    def flags(self) -> tuple[str, ...]:
        """Return the two flags that put an az command into this group."""
        return ("--resource-group", self.name, "--subscription", self.subscription)


def az(*arguments: str, secrets: tuple[str, ...] = (), timeout_s: float = 120.0) -> Command:
    """Return an az command that answers with JSON."""
    argv = ("az", *arguments, "--output", "json")
    return Command(argv, secrets=secrets, timeout_s=timeout_s, install_hint=INSTALL_HINT)


# The tool itself, and who is signed in.


def version() -> Command:
    """Ask az for its version."""
    return az("version")


def account_show() -> Command:
    """Ask who is signed in, and for which subscription. Needs no network."""
    return az("account", "show")


def account_list() -> Command:
    """List the subscriptions that the user can see. Needs no network."""
    return az("account", "list")


def cloud_register(name: str, resource_manager: str) -> Command:
    """Make another Azure known to az by the address of its resource manager."""
    return az("cloud", "register", "--name", name, "--endpoint-resource-manager", resource_manager)


def cloud_set(name: str) -> Command:
    """Make a registered cloud the one that az talks to."""
    return az("cloud", "set", "--name", name)


def login(client_id: str, secret_file: Path, tenant_id: str) -> Command:
    """Sign in as a service principal whose secret is read from a file by az itself."""
    principal = ("--username", client_id, "--password", f"@{secret_file}", "--tenant", tenant_id)
    return az("login", "--service-principal", *principal)


# Resource groups and what is in them.


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
    """Delete a resource group and all that is in it, and wait until it is gone."""
    where = ("--name", group.name, "--subscription", group.subscription)
    return az("group", "delete", *where, "--yes", timeout_s=1800)


def resource_list(group: Group) -> Command:
    """List every resource of a group."""
    return az("resource", "list", *group.flags)


def resource_delete(resource_id: str) -> Command:
    """Delete one resource by its id and wait until it is gone."""
    return az("resource", "delete", "--ids", resource_id, timeout_s=1800)


def deployment_create(
    group: Group, name: str, template: Path, parameters: Path, secrets: tuple[str, ...] = ()
) -> Command:
    """Deploy a template (Bicep or JSON) with the parameters in a file, and wait for the end.

    `secrets` are values in that file that az could repeat in an error.
    """
    target = ("--name", name, *group.flags)
    files = ("--template-file", str(template), "--parameters", f"@{parameters}", "--no-prompt")
    return az("deployment", "group", "create", *target, *files, secrets=secrets, timeout_s=3600)


def deployment_operations(group: Group, name: str) -> Command:
    """List what a deployment did, resource by resource."""
    return az("deployment", "operation", "group", "list", "--name", name, *group.flags)


# Storage.


def storage_account_show(group: Group, account: str) -> Command:
    """Show a storage account; its `primaryEndpoints.file` is where its shares are reached."""
    return az("storage", "account", "show", "--name", account, *group.flags)


def storage_connection_string(group: Group, account: str) -> Command:
    """Ask for an account's connection string: its file endpoint and a key in one. The answer is secret."""
    return az("storage", "account", "show-connection-string", "--name", account, *group.flags)


# The environment that the app runs in.


def environment_show(group: Group, environment: str) -> Command:
    """Show a Container Apps environment, with its workload profiles."""
    return az("containerapp", "env", "show", "--name", environment, *group.flags)


def workload_profile_add(
    group: Group, environment: str, profile: str, profile_type: str, maximum_count: int | None
) -> Command:
    """Add a workload profile to an environment and leave the others as they are.

    `maximum_count` is None for a serverless profile, which takes no node counts.
    """
    kind = ("--workload-profile-name", profile, "--workload-profile-type", profile_type)
    nodes = () if maximum_count is None else ("--min-nodes", "0", "--max-nodes", str(maximum_count))
    where = ("--name", environment, *group.flags)
    return az("containerapp", "env", "workload-profile", "add", *where, *kind, *nodes, timeout_s=1800)


def workload_profile_update(group: Group, environment: str, profile: str, maximum_count: int) -> Command:
    """Change how many nodes one workload profile may have."""
    where = ("--name", environment, *group.flags, "--workload-profile-name", profile)
    nodes = ("--min-nodes", "0", "--max-nodes", str(maximum_count))
    return az("containerapp", "env", "workload-profile", "update", *where, *nodes, timeout_s=1800)


def workload_profiles_supported(subscription: str, location: str) -> Command:
    """List the workload profile types that a region offers."""
    where = ("--location", location, "--subscription", subscription)
    return az("containerapp", "env", "workload-profile", "list-supported", *where)


def location_usages(subscription: str, location: str) -> Command:
    """List the quotas of a subscription in a region, and how much is in use."""
    return az("containerapp", "list-usages", "--location", location, "--subscription", subscription)


# The app.


def app_show(group: Group, app: str) -> Command:
    """Show a container app."""
    return az("containerapp", "show", "--name", app, *group.flags)


def app_secret_show(group: Group, app: str, secret: str) -> Command:
    """Read one of an app's secrets. The answer is secret."""
    return az("containerapp", "secret", "show", "--name", app, "--secret-name", secret, *group.flags)


def revision_list(group: Group, app: str) -> Command:
    """List an app's active revisions."""
    return az("containerapp", "revision", "list", "--name", app, *group.flags)


def revision_show(group: Group, app: str, revision: str) -> Command:
    """Show one revision of an app."""
    return az("containerapp", "revision", "show", "--name", app, "--revision", revision, *group.flags)


def revision_restart(group: Group, app: str, revision: str) -> Command:
    """Ask for new replicas of a revision. Answers at once; nothing has restarted yet."""
    return az("containerapp", "revision", "restart", "--name", app, "--revision", revision, *group.flags)


def revision_activate(group: Group, app: str, revision: str) -> Command:
    """Make an inactive revision active again."""
    return az("containerapp", "revision", "activate", "--name", app, "--revision", revision, *group.flags)


def replica_list(group: Group, app: str, revision: str | None = None) -> Command:
    """List the replicas of a revision, or of the app's latest one."""
    which = () if revision is None else ("--revision", revision)
    return az("containerapp", "replica", "list", "--name", app, *which, *group.flags)


def app_log_token(group: Group, app: str) -> Command:
    """Ask for a token that opens an app's log streams. The answer is secret, and is good for about an hour.

    Source: POST getAuthtoken of Microsoft.App/containerApps; az has no command that prints it.
    """
    path = f"{group.id}/providers/Microsoft.App/containerApps/{app}/getAuthtoken"
    address = f"{path}?api-version={APP_API_VERSION}"
    return az("rest", "--method", "post", "--url", address, "--subscription", group.subscription)

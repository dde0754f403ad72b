"""Print what a shell needs to use az and the Azure SDKs with a stage's embedded Azure."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import UsageError
from infra.session import local_environment
from infra.wording import did_you_mean

if TYPE_CHECKING:
    from infra.session import Session


@dataclass(frozen=True, slots=True)
class CloudEnvironment:
    """Environment variables for the embedded Azure. One of them is secret."""

    variables: dict[str, str]

    def to_json(self) -> dict[str, object]:
        """Return the document that `--json` prints."""
        return dict(self.variables)

    def to_text(self) -> str:
        """Return lines for a shell to evaluate."""
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in self.variables.items())


def check_action(action: str) -> None:
    """Check an action of this verb.

    Raises:
        UsageError: There is no such action.
    """
    if action != "env":
        what = f"{action!r} is no action of invoke cloud{did_you_mean(action, ['env'])}"
        raise UsageError(what, hint="invoke cloud env --stage local")


def find_environment(session: Session) -> CloudEnvironment:
    """Return the variables for a stage's embedded Azure: those of az, and those of the SDKs' credentials.

    Source: azure-identity, "Environment variables"; azure-cli, "Azure CLI configuration".

    Raises:
        UsageError: The stage is on Azure, or its embedded Azure is stopped.
    """
    if not session.stage.is_local:
        what = f"stage {session.stage.name} is on Azure itself, which az uses by default"
        raise UsageError(what, hint="invoke cloud env --stage local")
    session.require_cloud()
    cloud = session.local_cloud
    assert cloud is not None  # noqa: S101  # of a local stage that is connected
    config_dir = session.stage.state_dir / "azure"
    prepared = local_environment({}, config_dir, cloud.ca_bundle)
    names = (
        "AZURE_CONFIG_DIR",
        "AZURE_CORE_INSTANCE_DISCOVERY",
        "REQUESTS_CA_BUNDLE",
        "NO_PROXY",
        "no_proxy",
    )
    address = cloud.resource_manager.rstrip("/")
    return CloudEnvironment(
        {name: prepared[name] for name in names}
        | {
            "SSL_CERT_FILE": str(cloud.ca_bundle),
            "AZURE_AUTHORITY_HOST": address,
            "AZURE_TENANT_ID": cloud.tenant_id,
            "AZURE_CLIENT_ID": cloud.client_id,
            "AZURE_CLIENT_SECRET": cloud.client_secret,
            "AZURE_SUBSCRIPTION_ID": cloud.subscription_id,
            "ARM_ENDPOINT": address,
        }
    )

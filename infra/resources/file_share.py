"""Open the file share of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.az.commands import storage_connection_string
from infra.clock import Clock, SystemClock
from infra.errors import RemoteError
from infra.share.azure import connect, parse_connection_string
from infra.share.errors import ShareAddress
from infra.share.mounted import open_mounted

if TYPE_CHECKING:
    from infra.session import Session
    from infra.share.azure import AzureShare
    from infra.share.mounted import MountedShare


def open_share(session: Session, clock: Clock | None = None) -> AzureShare | MountedShare:
    """Open a stage's share: the folder where it is mounted, if the stage names one, else over the network.

    Over the network, the storage account's key is used, which az returns and which is stored nowhere. az runs
    once for a process: `invoke up` opens the share twice, and az takes a second to answer.

    Raises:
        UsageError: The stage is not provisioned, or its share is not mounted.
        RemoteError: Azure does not return the key.
    """
    config = session.config()
    if session.stage.mount is not None:
        return open_mounted(session.stage.mount, session.runner)
    command = storage_connection_string(session.group(), config.storage_account_name)
    answer = session.az.run_once(command)
    text = answer.get("connectionString") if isinstance(answer, dict) else None
    parts = parse_connection_string(str(text))
    if not {"FileEndpoint", "AccountKey"} <= parts.keys():
        what = f"the storage account {config.storage_account_name!r} has no file endpoint"
        raise RemoteError(what, command=command.line, hint="invoke provision makes one that has")
    place = ShareAddress(
        config.storage_account_name, config.file_share_name, parts["FileEndpoint"].rstrip("/")
    )
    return connect(place, parts["AccountKey"], session.ca_bundle, clock or SystemClock())

"""Open the file share of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.az.commands import storage_connection_string
from infra.clock import Clock, SystemClock
from infra.errors import RemoteError
from infra.share.azure import connect, parse_connection_string
from infra.share.errors import ShareAddress

if TYPE_CHECKING:
    from infra.session import Session
    from infra.share.azure import AzureShare


def open_share(session: Session, clock: Clock | None = None) -> AzureShare:
    """Open a stage's share with the storage account's key, which az returns and which is stored nowhere.

    az runs once for a process: `invoke up` opens the share twice, and az takes a second to answer.

    Raises:
        UsageError: The stage is not provisioned.
        RemoteError: Azure does not return the key.
    """
    config = session.config()
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

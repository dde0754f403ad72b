"""The directories behind the volumes of apps and jobs: the shares that an environment's storages name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from localcloud.container_apps.resource_types import STORAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from localcloud.arm.resource_kinds import Resource
    from localcloud.arm.resources import Resources
    from localcloud.files import FileService


class Volumes:
    """The volumes of every environment.

    Args:
        resources: Where storages are looked up.
        files: The shares.
        account_keys: Returns the keys of a storage account that may be used, None without the account.
    """

    def __init__(
        self,
        resources: Resources,
        files: FileService,
        account_keys: Callable[[str], tuple[str, ...] | None],
    ) -> None:
        self._resources = resources
        self._files = files
        self._account_keys = account_keys

    def of(self, environment: Resource) -> Callable[[str], Path]:
        """Return a function from the name of an environment's storage to the directory of its share."""

        def directory(name: str) -> Path:
            return self._directory(f"{environment.id}/{STORAGES.rpartition('/')[2]}/{name}")

        return directory

    def _directory(self, storage_id: str) -> Path:
        storage = self._resources.get(storage_id)
        azure_file = storage.properties["azureFile"]
        account, share = azure_file["accountName"], azure_file["shareName"]
        keys = self._account_keys(account)
        if keys is None:
            return _unmountable(f"storage account '{account}' was not found")
        if not keys:
            return _unmountable(
                f"permission denied: key based authentication is not permitted on storage account '{account}'"
            )
        if storage.private["account_key"] not in keys:
            return _unmountable(f"permission denied: the key is none of storage account '{account}'")
        try:
            return self._files.share_path(account, share)
        except KeyError:
            return _unmountable(f"share '{share}' of storage account '{account}' was not found")


def _unmountable(reason: str) -> Path:
    """Return a path that is not a directory: the runtime fails the mount and logs the path for the app."""
    return Path("/dev/null") / reason

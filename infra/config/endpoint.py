"""Read and write `inference.config.json`: where a stage was provisioned.

`invoke provision` writes the file. Users may also write it by hand, with the same six keys.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from infra.config.templates import validate
from infra.document import read_object, write_atomic
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KEYS: Final = (
    "SUBSCRIPTION_ID",
    "RESOURCE_GROUP_NAME",
    "STORAGE_ACCOUNT_NAME",
    "FILE_SHARE_NAME",
    "ACA_APP_NAME",
    "ACA_APP_ENDPOINT",
)


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    """The values that a deployment needs.

    Attributes:
        aca_app_endpoint: The app's address as in the file: a bare host, or with its scheme.
    """

    subscription_id: str
    resource_group_name: str
    storage_account_name: str
    file_share_name: str
    aca_app_name: str
    aca_app_endpoint: str

    @property
    def endpoint_url(self) -> str:
        """Return the app's full address without a trailing slash; a bare host means https."""
        endpoint = self.aca_app_endpoint.rstrip("/")
        return endpoint if "://" in endpoint else f"https://{endpoint}"

    @classmethod
    def from_values(cls, values: Mapping[str, str]) -> Self:
        """Return a config from a mapping with the six keys."""
        return cls(**{key.lower(): values[key] for key in KEYS})

    def to_values(self) -> dict[str, str]:
        """Return the six keys of the file with their values."""
        return {key: getattr(self, key.lower()) for key in KEYS}


def read_config(path: Path) -> InferenceConfig:
    """Read a config file.

    Raises:
        UsageError: It is missing, is not JSON, or does not contain exactly the six keys with text for each.
    """
    remedy = "provision the stage first (invoke provision), or write the file by hand, with " + ", ".join(
        KEYS
    )
    document = read_object(path, hint=remedy)
    problems = tuple(str(problem) for problem in validate("inference.config", document))
    if problems:
        hint = "it must contain exactly: " + ", ".join(KEYS)
        raise UsageError(f"{path} cannot be used", details=problems, hint=hint)
    return InferenceConfig.from_values({key: str(value) for key, value in document.items()})


def write_config(path: Path, config: InferenceConfig) -> None:
    """Write a config file in one step: readers see the old one or the new one, never a part."""
    write_atomic(path, json.dumps(config.to_values(), indent=2) + "\n")

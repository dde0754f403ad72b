"""Read and write the secrets of a stage's container app.

Azure replaces an app's secrets as a whole, so a change sends all of them. Apart from the app, they are only
in a private file while az runs; they are never on a command line, in a log, or in the output of a verb.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from infra.az.commands import app_patch, app_secret_list
from infra.document import Json, as_objects, object_at, private_file

if TYPE_CHECKING:
    from infra.az.client import Az
    from infra.az.commands import Group
    from infra.session import Session

Secrets: TypeAlias = Mapping[str, Mapping[str, Json]]
"""Secrets by name: each has a `value`, or a `keyVaultUrl` with the `identity` that may read it."""


def has_secrets(app: Mapping[str, Json]) -> bool:
    """Return whether an app, as az shows it, has secrets."""
    return bool(object_at(app, "properties", "configuration").get("secrets"))


def read_secrets(az: Az, group: Group, app: str) -> dict[str, dict[str, Json]]:
    """Read the secrets of an app with their values.

    Raises:
        RemoteError: Azure rejects the request; `NotFoundError` if there is no such app.
    """
    entries = as_objects(az.run(app_secret_list(group, app)))
    return {
        str(entry.get("name")): {key: value for key, value in entry.items() if key != "name" and value}
        for entry in entries
    }


def write_secrets(
    session: Session, group: Group, app: str, secrets: Secrets, template: Mapping[str, Json] | None = None
) -> None:
    """Replace the secrets of an app. This alone makes no revision, and running replicas keep what they have.

    Args:
        session: The opened stage.
        group: The app's resource group.
        app: The app's name.
        secrets: All of its secrets.
        template: Parts of the app's template to change at the same time, which makes a revision.

    Raises:
        RemoteError: Azure rejects the change; nothing was changed.
    """
    properties: dict[str, Json] = {
        "configuration": {"secrets": [{"name": name, **secret} for name, secret in secrets.items()]}
    }
    if template is not None:
        properties["template"] = dict(template)
    path = session.stage.state_dir / "app.json"
    with private_file(path, json.dumps({"properties": properties})):
        session.az.run(app_patch(group, app, path))

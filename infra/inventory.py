"""Know which of a group's resources are ours: made by provision, and not there before it.

`down` deletes only those. The app's tag remembers them; a note under `.fjarr/` remembers those of a run
that failed before there was an app. What was there before our first run is never ours, whatever its name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.az import resource_list
from infra.document import Json, as_object, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.az import Group
    from infra.names import Names
    from infra.session import Session

MADE_TAG = "fjarr-made"
APP, ENVIRONMENT, WORKSPACE, ACCOUNT = "containerApps", "managedEnvironments", "workspaces", "storageAccounts"
KINDS = (APP, ENVIRONMENT, WORKSPACE, ACCOUNT)
"""The kinds of resource that the template makes, in the order in which they can be deleted."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Hold what a group has of the template's resources, and what else is in it.

    Attributes:
        resources: The resources with our names, by kind, as az lists them.
        others: `name (type)` of everything else.
    """

    resources: dict[str, dict[str, Json]]
    others: tuple[str, ...]

    def tags(self, kind: str) -> dict[str, Json]:
        """Return the tags of our resource of a kind; none if it is not there."""
        return as_object(self.resources.get(kind, {}).get("tags"))


def take_inventory(session: Session, group: Group, names: Names) -> Inventory:
    """List a group and find the template's resources in it by kind and name."""
    listed = session.az.run(resource_list(group))
    return sort_out(listed, names)


def sort_out(listed: Json, names: Names) -> Inventory:
    """Tell the template's resources from others, in what az lists."""
    named = {
        APP: names.app,
        ENVIRONMENT: names.environment,
        WORKSPACE: names.workspace,
        ACCOUNT: names.storage_account,
    }
    ours = {(kind.casefold(), name.casefold()): kind for kind, name in named.items()}
    resources: dict[str, dict[str, Json]] = {}
    others = []
    for resource in map(as_object, listed if isinstance(listed, list) else []):
        full_type, name = str(resource.get("type")), str(resource.get("name"))
        kind = ours.get((full_type.rpartition("/")[2].casefold(), name.casefold()))
        if kind is None:
            others.append(f"{name} ({full_type})")
        else:
            resources[kind] = resource
    return Inventory(resources, tuple(sorted(others)))


def made_kinds(session: Session, group: Group, app: Mapping[str, Json]) -> tuple[str, ...]:
    """Return the kinds that earlier runs of ours made in a group.

    Args:
        session: The opened stage.
        group: The group.
        app: The app as az shows it; empty if there is none.
    """
    tagged = str(as_object(app.get("tags")).get(MADE_TAG, "")).split()
    noted = _notes(session).get(group.id.casefold())
    remembered = {*tagged, *(noted if isinstance(noted, list) else [])}
    return tuple(kind for kind in KINDS if kind in remembered)


def note_made(session: Session, group: Group, kinds: tuple[str, ...]) -> None:
    """Remember what is being made in a group, in case that fails before there is an app to bear a tag."""
    notes = {**_notes(session), group.id.casefold(): list(kinds)}
    write_whole(session.stage.state_dir / "made.json", json.dumps(notes, indent=2) + "\n")


def _notes(session: Session) -> dict[str, Json]:
    path = session.stage.state_dir / "made.json"
    return as_object(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

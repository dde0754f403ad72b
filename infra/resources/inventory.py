"""Know which of a group's resources are ours: made by provision, and not there before it.

`down` deletes only those. The app's tag remembers them; a note under `.fjarr/` remembers those of a run
that failed before there was an app. What was there before our first run is never ours, whatever its name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.az.commands import resource_list
from infra.document import Json, as_object, write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.az.commands import Group
    from infra.az.names import Names
    from infra.session import Session

MANAGED_TAG = "fjarr-made"
APP, ENVIRONMENT, WORKSPACE, ACCOUNT = "app", "environment", "workspace", "account"
TYPES = {
    APP: "Microsoft.App/containerApps",
    ENVIRONMENT: "Microsoft.App/managedEnvironments",
    WORKSPACE: "Microsoft.OperationalInsights/workspaces",
    ACCOUNT: "Microsoft.Storage/storageAccounts",
}
"""The resources that the template makes, by what we call them, in the order in which they can be deleted."""


@dataclass(frozen=True, slots=True)
class ManagedResource:
    """Name one resource that a run of ours made, or is about to make."""

    kind: str
    name: str

    def is_of(self, resource: Mapping[str, Json]) -> bool:
        """Say whether a resource that az lists is this one; the case of names and types does not count."""
        found = (str(resource.get("type")).casefold(), str(resource.get("name")).casefold())
        return found == (TYPES[self.kind].casefold(), self.name.casefold())


def list_resources(session: Session, group: Group) -> tuple[dict[str, Json], ...]:
    """List all that is in a group."""
    listed = session.az.run(resource_list(group))
    return tuple(as_object(item) for item in listed) if isinstance(listed, list) else ()


def find(resources: tuple[dict[str, Json], ...], wanted: ManagedResource) -> dict[str, Json]:
    """Return a resource out of a list; empty if it is not there."""
    return next((resource for resource in resources if wanted.is_of(resource)), {})


def planned_resources(names: Names) -> tuple[ManagedResource, ...]:
    """Return what a deployment into an empty group would make."""
    return (
        ManagedResource(APP, names.app),
        ManagedResource(ENVIRONMENT, names.environment),
        ManagedResource(WORKSPACE, names.workspace),
        ManagedResource(ACCOUNT, names.storage_account),
    )


def read_managed(session: Session, group: Group, app: Mapping[str, Json]) -> tuple[ManagedResource, ...]:
    """Return what earlier runs of ours made in a group.

    Args:
        session: The opened stage.
        group: The group.
        app: The app as az shows it; empty if there is none.
    """
    tag = str(as_object(app.get("tags")).get(MANAGED_TAG, ""))
    note = str(_notes(session).get(group.id.casefold(), ""))
    made = {*parse_tag(tag), *parse_tag(note)}
    return tuple(sorted(made, key=lambda each: (list(TYPES).index(each.kind), each.name)))


def record_managed(session: Session, group: Group, made: tuple[ManagedResource, ...]) -> None:
    """Remember what is being made in a group, in case that fails before there is an app to bear a tag."""
    notes = {**_notes(session), group.id.casefold(): format_tag(made)}
    write_atomic(session.stage.state_dir / "made.json", json.dumps(notes, indent=2) + "\n")


def clear_managed(session: Session, group: Group) -> None:
    """Forget what was made in a group, because it is gone."""
    notes = {key: note for key, note in _notes(session).items() if key != group.id.casefold()}
    write_atomic(session.stage.state_dir / "made.json", json.dumps(notes, indent=2) + "\n")


def format_tag(made: tuple[ManagedResource, ...]) -> str:
    """Return made resources as the text of a tag: `app:aiacaappabcde environment:aienvabcde`.

    A tag's text has at most 256 characters; the longest names that Azure allows fit.
    """
    return " ".join(f"{each.kind}:{each.name}" for each in made)


def parse_tag(text: str) -> tuple[ManagedResource, ...]:
    """Read what `format_tag` wrote; what it did not write is passed over."""
    entries = (entry.partition(":") for entry in text.split())
    return tuple(ManagedResource(kind, name) for kind, _, name in entries if kind in TYPES and name)


def _notes(session: Session) -> dict[str, Json]:
    path = session.stage.state_dir / "made.json"
    return as_object(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

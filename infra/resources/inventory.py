"""Record which resources of a group were created by provision.

`down` deletes only those. They are recorded in a tag of every resource of the stage, so that another machine
knows them also if a run failed half-way, and in a file under `.fjarr/` before there is any resource. A
resource that existed before the first run is never recorded, whatever its name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.az.commands import resource_list
from infra.document import Json, as_object, as_objects, read_object, write_atomic
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.az.commands import Group
    from infra.az.names import Names
    from infra.session import Session

MANAGED_TAG: Final = "fjarr-made"
_RECORDS: Final = "made.json"
APP: Final = "app"
ENVIRONMENT: Final = "environment"
WORKSPACE: Final = "workspace"
ACCOUNT: Final = "account"
TYPES: Final = {
    APP: "Microsoft.App/containerApps",
    ENVIRONMENT: "Microsoft.App/managedEnvironments",
    WORKSPACE: "Microsoft.OperationalInsights/workspaces",
    ACCOUNT: "Microsoft.Storage/storageAccounts",
}
"""The types of the resources that the template creates, in the order in which they can be deleted."""


@dataclass(frozen=True, slots=True)
class ManagedResource:
    """A resource that provision created, or is about to create."""

    kind: str
    name: str

    def matches(self, resource: Mapping[str, Json]) -> bool:
        """Return whether a resource that az lists is this one. The case of names and types is ignored."""
        found = (str(resource.get("type")).casefold(), str(resource.get("name")).casefold())
        return found == (TYPES[self.kind].casefold(), self.name.casefold())


def list_resources(session: Session, group: Group) -> tuple[dict[str, Json], ...]:
    """List all resources of a group."""
    listed = session.az.run(resource_list(group))
    return tuple(as_objects(listed))


def find(resources: tuple[dict[str, Json], ...], wanted: ManagedResource) -> dict[str, Json]:
    """Return a resource from a list; empty if it is not in the list."""
    return next((resource for resource in resources if wanted.matches(resource)), {})


def planned_resources(names: Names) -> tuple[ManagedResource, ...]:
    """Return the resources that a deployment into an empty group would create."""
    return (
        ManagedResource(APP, names.app),
        ManagedResource(ENVIRONMENT, names.environment),
        ManagedResource(WORKSPACE, names.workspace),
        ManagedResource(ACCOUNT, names.storage_account),
    )


def read_managed(
    session: Session,
    group: Group,
    app: Mapping[str, Json],
    resources: tuple[dict[str, Json], ...],
    names: Names,
) -> tuple[ManagedResource, ...]:
    """Return the resources that earlier runs created in a group.

    Args:
        session: The opened stage.
        group: The group.
        app: The app as az shows it; empty if there is none.
        resources: The resources of the group.
        names: The names of the stage's resources. The tag of a resource that several stages share is that of
            the last one provisioned, so of other tags than the app's only these names count.
    """
    own = planned_resources(names)
    tagged = [_tag_of(resource) for each in own if (resource := find(resources, each))]
    shared = {each for text in tagged for each in parse_tag(text) if each in own}
    made = {
        *parse_tag(_tag_of(app)),
        *shared,
        *parse_tag(_read_records(session).get(group.id.casefold(), "")),
    }
    return tuple(sorted(made, key=lambda each: (list(TYPES).index(each.kind), each.name)))


def record_managed(session: Session, group: Group, made: tuple[ManagedResource, ...]) -> None:
    """Record the resources of a group in a file, in case a run fails before there is any. None clears it."""
    records = {key: text for key, text in _read_records(session).items() if key != group.id.casefold()}
    records |= {group.id.casefold(): format_tag(made)} if made else {}
    write_atomic(session.stage.state_dir / _RECORDS, json.dumps(records, indent=2) + "\n")


def format_tag(made: tuple[ManagedResource, ...]) -> str:
    """Format resources as the text of a tag: `app:aiacaappabcde environment:aienvabcde`.

    A tag's text has at most 256 characters, which is enough for the longest names that Azure allows.
    """
    return " ".join(f"{each.kind}:{each.name}" for each in made)


def parse_tag(text: str) -> tuple[ManagedResource, ...]:
    """Parse the text of a tag; invalid entries are ignored."""
    entries = (entry.partition(":") for entry in text.split())
    return tuple(ManagedResource(kind, name) for kind, _, name in entries if kind in TYPES and name)


def _tag_of(resource: Mapping[str, Json]) -> str:
    return str(as_object(resource.get("tags")).get(MANAGED_TAG, ""))


def _read_records(session: Session) -> dict[str, str]:
    """Return the records of all groups by their ids in lower case. A damaged file is put aside."""
    path = session.stage.state_dir / _RECORDS
    if not path.exists():
        return {}
    try:
        return {key: str(text) for key, text in read_object(path).items()}
    except UsageError as error:
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        session.console.warn(f"{error.message}; it is now {aside.name}, and the tags on Azure are used alone")
        return {}

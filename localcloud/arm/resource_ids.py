"""Parse Azure Resource Manager paths and ids, which share a grammar.

`/subscriptions/S/resourceGroups/G/providers/N/type/name/childType/childName` alternates words and names.
Azure ignores the case of the words, and doubled and trailing slashes; so does this module. It does not know
which types exist.

Source: Azure Resource Manager resource id syntax; the case and slashes that az sends were observed on the
wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote

Scope = Literal["tenant", "subscription", "group"]

_RESOURCES: Final = "Microsoft.Resources"


@dataclass(frozen=True, slots=True)
class ArmPath:
    """The path of a request, or a resource id, parsed.

    Attributes:
        scope: The scope that the path is below.
        subscription: Its subscription id, None in tenant scope.
        group: Its resource group, None outside one.
        namespace: The provider's namespace as written, empty for Resource Manager's own collections.
        types: The words: resource types, possibly followed by a collection or an action.
        names: The names between them: as many as the words, or one fewer.
    """

    scope: Scope
    subscription: str | None
    group: str | None
    namespace: str
    types: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def pattern(self) -> str:
        """Return the pattern of its route, such as `group microsoft.app/containerapps/{}/restart`."""
        interleaved = "/".join(_interleaved(self.types, self.names))
        return f"{self.scope} {self.namespace}/{interleaved}".lower()

    @property
    def full_type(self) -> str:
        """Return the type in Azure's notation, such as `Microsoft.App/managedEnvironments/storages`."""
        return "/".join((self.namespace, *self.types))

    @property
    def name(self) -> str:
        """Return the last name."""
        return self.names[-1]


def parse_path(path: str) -> ArmPath:
    """Parse a request's path, or a resource id.

    Args:
        path: The path, percent-encoded or not, without a query.
    """
    parts = [unquote(part) for part in path.split("/") if part]
    if len(parts) < 2 or parts[0].lower() != "subscriptions":  # noqa: PLR2004 - the word and the id
        return _tail("tenant", None, None, parts)
    subscription, rest = parts[1], parts[2:]
    if not rest:
        return _tail("tenant", subscription, None, parts)
    if rest[0].lower() == "resourcegroups" and len(rest) > 2:  # noqa: PLR2004 - something below the group
        return _tail("group", subscription, rest[1], rest[2:])
    return _tail("subscription", subscription, None, rest)


def pattern_of(scope: Scope, template: str) -> str:
    """Return the pattern of `template`, such as `Microsoft.App/containerApps/{}`, in `scope`."""
    return f"{scope} {template}".lower()


def resource_id(subscription: str, group: str, full_type: str, names: tuple[str, ...]) -> str:
    """Compose the id of a resource in a group; `full_type` has as many types as there are names."""
    namespace, *types = full_type.split("/")
    interleaved = "/".join("/".join(pair) for pair in zip(types, names, strict=True))
    return f"{group_id(subscription, group)}/providers/{namespace}/{interleaved}"


def group_id(subscription: str, group: str) -> str:
    """Compose the id of a resource group."""
    return f"/subscriptions/{subscription}/resourceGroups/{group}"


def _tail(scope: Scope, subscription: str | None, group: str | None, rest: list[str]) -> ArmPath:
    if len(rest) > 2 and rest[0].lower() == "providers":  # noqa: PLR2004 - a namespace and a type in it
        namespace, words = rest[1], rest[2:]
    else:
        # A group's deployments are also reached without their provider.
        namespace, words = (_RESOURCES if scope == "group" else ""), rest
    return ArmPath(scope, subscription, group, namespace, tuple(words[::2]), tuple(words[1::2]))


def _interleaved(types: tuple[str, ...], names: tuple[str, ...]) -> list[str]:
    parts: list[str] = []
    for index, word in enumerate(types):
        parts.append(word)
        if index < len(names):
            parts.append("{}")
    return parts

"""Check what cannot be changed once it is created: an environment's network and an account's kind. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.document import Json, object_at
from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_network(values: Mapping[str, Json], environment: Mapping[str, Json]) -> None:
    """Check that an existing environment is in the network that the parameters ask for, if they do.

    Args:
        values: The effective value of every parameter.
        environment: The environment as az shows it; empty if there is none.

    Raises:
        UsageError: It is in another network, which Azure cannot change.
    """
    wanted = str(values["infrastructureSubnetId"] or "")
    if not environment or not wanted:
        return
    network = object_at(environment, "properties", "vnetConfiguration")
    subnet = str(network.get("infrastructureSubnetId") or "")
    is_internal = network.get("internal") is True
    if subnet.casefold() == wanted.casefold() and is_internal is (values["internalEnvironment"] is True):
        return
    there = f"the subnet {subnet}" if subnet else "a network of Azure's"
    raise UsageError(
        f"the environment {environment.get('name')!r} exists already, in {there}"
        f"{', internal' if is_internal else ''}, and its network cannot be changed",
        hint="set acaEnvironmentName to a new name, or the network's parameters to what it has",
    )

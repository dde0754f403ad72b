"""What is said about an environment whose network cannot be changed."""

from __future__ import annotations

from typing import Any

import pytest

from infra.errors import UsageError
from infra.provisioning.network import check_network

SUBNET = "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/apps"


def environment(subnet: str | None, *, is_internal: bool = False) -> dict[str, Any]:
    network = None if subnet is None else {"infrastructureSubnetId": subnet, "internal": is_internal}
    return {"name": "env", "properties": {"vnetConfiguration": network}}


def values(subnet: str, *, is_internal: bool = False) -> dict[str, Any]:
    return {"infrastructureSubnetId": subnet, "internalEnvironment": is_internal}


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        (values(SUBNET), {}),
        (values(""), environment(None)),
        (values(""), environment(SUBNET, is_internal=True)),
        (values(SUBNET), environment(SUBNET.upper())),
        (values(SUBNET, is_internal=True), environment(SUBNET, is_internal=True)),
    ],
)
def test_a_network_that_is_there_or_not_asked_for(wanted: dict[str, Any], there: dict[str, Any]) -> None:
    check_network(wanted, there)


@pytest.mark.parametrize(
    ("wanted", "there", "where"),
    [
        (values(SUBNET), environment(None), "in a network of Azure's, and"),
        (values(SUBNET), environment(SUBNET + "2"), f"in the subnet {SUBNET}2, and"),
        (values(SUBNET), environment(SUBNET, is_internal=True), f"in the subnet {SUBNET}, internal, and"),
        (values(SUBNET, is_internal=True), environment(SUBNET), f"in the subnet {SUBNET}, and"),
    ],
)
def test_another_network(wanted: dict[str, Any], there: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_network(wanted, there)
    assert f"the environment 'env' exists already, {where} its network cannot be changed" in str(caught.value)

"""Address ranges in CIDR notation, IPv4 and IPv6."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final

from localcloud.template.errors import ExpressionError
from localcloud.template.registry import INTEGER, STRING, function, require_32_bits

if TYPE_CHECKING:
    from localcloud.template.values import Value

_POINT_TO_POINT: Final = 2


@function("parseCidr", STRING)
def parse_cidr(text: str) -> Value:
    """Return the parts of an address range."""
    network = _network(text)
    first, last = network[0], network[-1]
    if network.version == 4:  # noqa: PLR2004 - IPv4 reserves the first and the last address
        is_small = network.num_addresses <= _POINT_TO_POINT
        first, last = (network[0], network[0]) if is_small else (network[1], network[-2])
    broadcast = {"broadcast": str(network.broadcast_address)} if network.version == 4 else {}  # noqa: PLR2004
    return {
        "network": str(network.network_address),
        "netmask": str(network.netmask),
        **broadcast,
        "firstUsable": str(first),
        "lastUsable": str(last),
        "cidr": network.prefixlen,
    }


@function("cidrSubnet", STRING, INTEGER, INTEGER)
def cidr_subnet(text: str, prefix: int, index: int) -> str:
    """Return the subnet of a prefix length at a position, from 0."""
    require_32_bits(prefix, index)
    network = _network(text)
    most = network.max_prefixlen
    if not network.prefixlen <= prefix <= most:
        raise ExpressionError(f"Could not generate subnet for network '{text}' and CIDR value '{prefix}'.")
    count = 2 ** (prefix - network.prefixlen)
    if not 0 <= index < count:
        raise ExpressionError(
            f"The specified subnetIndex '{index}' is not a valid index of the subnet size '{count}'."
        )
    start = int(network.network_address) + index * 2 ** (most - prefix)
    return str(type(network)((start, prefix)))


@function("cidrHost", STRING, INTEGER)
def cidr_host(text: str, index: int) -> str:
    """Return the usable address at a position, from 0."""
    require_32_bits(index)
    network = _network(text)
    if not 0 <= index < network.num_addresses - 2:
        raise ExpressionError(
            f"Could not calculate the CidrHost for network '{text}' and CIDR value '{index}'."
        )
    return str(network[index + 1])


def _network(text: str) -> IPv4Network | IPv6Network:
    invalid = ExpressionError(f"The specified CIDR '{text}' is not valid.")
    if "/" not in text:
        raise invalid  # Azure guesses a size from the first number; not emulated
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise invalid from None

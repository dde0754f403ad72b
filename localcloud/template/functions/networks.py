"""Address ranges in CIDR notation, IPv4 and IPv6."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from localcloud.template.faults import ExpressionError
from localcloud.template.registry import INTEGER, STRING, function
from localcloud.template.values import Value

_POINT_TO_POINT = 2


@function("parseCidr", STRING)
def parse_cidr(text: str) -> Value:
    """Return an address range's parts."""
    network = _network(text)
    is_small = network.num_addresses <= _POINT_TO_POINT
    first, last = network[0], network[-1]
    if network.version == 4 and not is_small:  # noqa: PLR2004 - IPv4 keeps the first and the last address
        first, last = network[1], network[-2]
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
    """Return the range of a smaller size at a position, from 0."""
    network = _network(text)
    most = network.max_prefixlen
    if not network.prefixlen <= prefix <= most or not 0 <= index < 2 ** (prefix - network.prefixlen):
        raise ExpressionError(
            f"Could not calculate the CidrSubnet for network '{text}', CIDR '{prefix}' and index '{index}'."
        )
    start = int(network.network_address) + index * 2 ** (most - prefix)
    return str(type(network)((start, prefix)))


@function("cidrHost", STRING, INTEGER)
def cidr_host(text: str, index: int) -> str:
    """Return the usable address at a position, from 0."""
    network = _network(text)
    usable = parse_cidr(text)
    first, last = (int(ip_network(usable[key])[0]) for key in ("firstUsable", "lastUsable"))
    if index < 0 or first + index > last:
        raise ExpressionError(
            f"Could not calculate the CidrHost for network '{text}' and CIDR value '{index}'."
        )
    return str(type(network.network_address)(first + index))


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ExpressionError(f"The specified CIDR '{text}' is not valid.") from None

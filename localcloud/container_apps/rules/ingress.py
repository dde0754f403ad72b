"""What Azure rejects in the ingress of a container app. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from localcloud.container_apps.rules.ranges import check_port
from localcloud.errors import bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Collection

    from localcloud.arm.requests import Json


def check_ingress(configuration: Json) -> None:
    """Reject what is invalid in an app's revision mode and ingress."""
    mode = str(configuration.get("activeRevisionsMode") or "Single").lower()
    if mode not in ("single", "multiple"):
        message = f"The value '{mode}' of activeRevisionsMode is not one of 'Single, Multiple'."
        raise bad_request("ContainerAppInvalidRevisionMode", message)
    ingress = configuration.get("ingress")
    if ingress is None:
        return
    transport = str(ingress.get("transport") or "auto").lower()
    if transport in ("http2", "tcp"):
        raise not_emulated(f"the ingress transport '{transport}'")
    if transport not in ("auto", "http"):
        message = f"The value '{transport}' of ingress.transport is not one of 'auto, http, http2, tcp'."
        raise bad_request("ContainerAppInvalidIngressTransport", message)
    port = ingress.get("targetPort")
    if port is None:
        raise not_emulated("an ingress that finds the target port by itself")
    check_port(port, "ingress.targetPort")
    _check_restrictions(ingress.get("ipSecurityRestrictions") or ())
    _check_traffic(ingress.get("traffic") or ())


def _check_restrictions(restrictions: Collection[Json]) -> None:
    for rule in restrictions:
        try:
            ipaddress.ip_network(str(rule.get("ipAddressRange")), strict=False)
        except ValueError:
            message = f"'{rule.get('ipAddressRange')}' of rule '{rule.get('name')}' is no address range."
            raise bad_request("ContainerAppInvalidIpSecurityRestriction", message) from None
    actions = {str(rule.get("action")) for rule in restrictions}
    if actions - {"Allow", "Deny"} or len(actions) > 1:
        message = "IP security restrictions must be all 'Allow' or all 'Deny'."
        raise bad_request("ContainerAppInvalidIpSecurityRestriction", message)
    if restrictions:
        raise not_emulated("IP security restrictions: every caller here has the address 127.0.0.1")


def _check_traffic(traffic: Collection[Json]) -> None:
    if not traffic:
        return
    weights = [traffic_weight(entry) for entry in traffic]
    if sum(weights) != 100:  # noqa: PLR2004 - percent
        message = f"The sum of the traffic weights is {sum(weights)}; it must be 100."
        raise bad_request("ContainerAppInvalidTrafficWeight", message)
    if sum(1 for weight in weights if weight) > 1:
        raise not_emulated("traffic split between revisions")
    if any(entry.get("label") for entry in traffic):
        raise not_emulated("labels of revisions")


def traffic_weight(entry: Json) -> int:
    """Return the weight of a traffic entry; az sends existing ones as text.

    Raises:
        AzureError: 400 if it is no whole number from 0 to 100.
    """
    try:
        weight = int(entry.get("weight") or 0)
    except (TypeError, ValueError):
        weight = -1
    if 0 <= weight <= 100:  # noqa: PLR2004 - percent
        return weight
    message = f"The traffic weight '{entry.get('weight')}' is not a whole number from 0 to 100."
    raise bad_request("ContainerAppInvalidTrafficWeight", message)

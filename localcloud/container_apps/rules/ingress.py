"""What Azure rejects in the ingress of a container app. Pure.

The codes were not found in public material: they are plausible, not quoted.

Source: "Ingress in Azure Container Apps", "Session affinity", "IP restrictions", "Custom domain names".
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from localcloud.arm.resource_kinds import is_unknown
from localcloud.container_apps.rules.ranges import duplicates, is_within, port_errors
from localcloud.errors import AzureError, bad_request, not_emulated

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from localcloud.arm.requests import Json

_ALL_PERCENT: Final = 100
_DOMAIN: Final = re.compile(
    r"(?=.{1,253}$)(?:\*\.)?(?:[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z]{2,63}", re.IGNORECASE
)


def ingress_errors(configuration: Json) -> Iterator[AzureError]:
    """Yield what is invalid in an app's ingress, and what is not emulated."""
    ingress = configuration.get("ingress")
    if ingress is None:
        return
    transport = str(ingress.get("transport") or "auto")
    if transport in ("http2", "tcp"):
        yield not_emulated(f"the ingress transport '{transport}'")
    port = ingress.get("targetPort")
    if port is None:
        yield not_emulated("an ingress that finds the target port by itself")
    else:
        yield from port_errors(port, "ingress.targetPort")
    mode = str(configuration.get("activeRevisionsMode") or "Single")
    if (ingress.get("stickySessions") or {}).get("affinity") == "sticky" and mode != "Single":
        message = "Session affinity is only supported in the revision mode 'Single'."
        yield bad_request("ContainerAppInvalidStickySessions", message)
    yield from _restriction_errors(ingress.get("ipSecurityRestrictions") or ())
    yield from _domain_errors(ingress.get("customDomains") or ())
    yield from _cors_errors(ingress.get("corsPolicy") or {})
    yield from _traffic_errors(ingress.get("traffic") or ())


def _restriction_errors(restrictions: Collection[Json]) -> Iterator[AzureError]:
    code = "ContainerAppInvalidIpSecurityRestriction"
    for rule in restrictions:
        address = rule.get("ipAddressRange")
        if not is_unknown(address) and not _is_network(str(address)):
            yield bad_request(code, f"'{address}' of rule '{rule.get('name')}' is no address range.")
    if len({str(rule.get("action")) for rule in restrictions}) > 1:
        yield bad_request(code, "IP security restrictions must be all 'Allow' or all 'Deny'.")
    for name in duplicates(rule.get("name") for rule in restrictions):
        yield bad_request(code, f"The IP security restriction '{name}' is defined more than once.")


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _domain_errors(domains: Collection[Json]) -> Iterator[AzureError]:
    code = "ContainerAppInvalidCustomDomain"
    for domain in domains:
        name = str(domain.get("name"))
        if not _DOMAIN.fullmatch(name):
            yield bad_request(code, f"The custom domain '{name}' is no domain name.")
        if domain.get("bindingType") == "SniEnabled" and not domain.get("certificateId"):
            yield bad_request(code, f"The custom domain '{name}' needs a certificateId to be bound.")
    for name in duplicates(str(domain.get("name")).lower() for domain in domains):
        yield bad_request(code, f"The custom domain '{name}' is defined more than once.")


def _cors_errors(policy: Json) -> Iterator[AzureError]:
    if policy.get("allowCredentials") and "*" in (policy.get("allowedOrigins") or ()):
        message = "A CORS policy that allows credentials must name the allowed origins."
        yield bad_request("ContainerAppInvalidCorsPolicy", message)
    age = policy.get("maxAge")
    if age is not None and not is_within(age, 0, 2**31 - 1):
        yield bad_request(
            "ContainerAppInvalidCorsPolicy", f"The maxAge '{age}' of a CORS policy is negative."
        )


def _traffic_errors(traffic: Collection[Json]) -> Iterator[AzureError]:
    code = "ContainerAppInvalidTrafficWeight"
    weights = [entry.get("weight") or 0 for entry in traffic]
    if not all(is_within(weight, 0, _ALL_PERCENT) for weight in weights):
        yield bad_request(code, f"Traffic weights must be from 0 to 100, not {', '.join(map(str, weights))}.")
        return
    if traffic and sum(weights) != _ALL_PERCENT:
        yield bad_request(code, f"The sum of the traffic weights is {sum(weights)}; it must be 100.")
    if any(bool(entry.get("latestRevision")) == bool(entry.get("revisionName")) for entry in traffic):
        yield bad_request(code, "A traffic weight must name a revision, or be that of the latest revision.")
    if sum(1 for weight in weights if weight) > 1:
        yield not_emulated("traffic split between revisions")
    if any(entry.get("label") for entry in traffic):
        yield not_emulated("labels of revisions")

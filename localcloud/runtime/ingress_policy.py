"""What an ingress does beside forwarding: restrict callers, answer CORS requests, keep sessions together.

Pure. The affinity cookie's name is Azure's, its value is not.

Source: "IP restrictions", "CORS" and "Session affinity in Azure Container Apps"; Envoy's RBAC and CORS
filters for the words of the 403 and for what a preflight request gets.
"""

from __future__ import annotations

import hashlib
import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from localcloud.runtime.spec import CorsPolicy, IngressPolicy

AFFINITY_COOKIE: Final = "acaAffinity"
DENIED: Final = "RBAC: access denied"


def is_admitted(policy: IngressPolicy, address: str) -> bool:
    """Return whether a caller with this address may use the ingress."""
    caller = ipaddress.ip_address(address)
    is_listed = any(caller in ipaddress.ip_network(network, strict=False) for network in policy.networks)
    if not policy.networks:
        return True
    return is_listed if policy.are_networks_allowed else not is_listed


def preflight_headers(
    policy: IngressPolicy, method: str, headers: Mapping[str, str]
) -> dict[str, str] | None:
    """Return the headers of the answer to a CORS preflight request; None if it is forwarded."""
    cors = policy.cors
    is_preflight = method == "OPTIONS" and "Access-Control-Request-Method" in headers
    if cors is None or not is_preflight or not _allows(cors, headers.get("Origin", "")):
        return None
    found = cors_headers(policy, headers)
    for name, values in (("Methods", cors.methods), ("Headers", cors.headers)):
        if values:
            found[f"Access-Control-Allow-{name}"] = ", ".join(values)
    if cors.max_age_s is not None:
        found["Access-Control-Max-Age"] = str(cors.max_age_s)
    return found


def cors_headers(policy: IngressPolicy, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the CORS headers of the response to a request, none for an origin that is not allowed."""
    cors, origin = policy.cors, headers.get("Origin", "")
    if cors is None or not _allows(cors, origin):
        return {}
    found = {"Access-Control-Allow-Origin": origin}
    if cors.allows_credentials:
        found["Access-Control-Allow-Credentials"] = "true"
    if cors.exposed_headers:
        found["Access-Control-Expose-Headers"] = ", ".join(cors.exposed_headers)
    return found


def affinity_of(replica: str) -> str:
    """Return the cookie's value for a replica."""
    return hashlib.sha256(replica.encode()).hexdigest()[:16]


def sticky_replica(policy: IngressPolicy, replicas: Sequence[str], cookie: str | None) -> str | None:
    """Return the replica that a session belongs to, None for any."""
    if not policy.is_sticky or cookie is None:
        return None
    return next((name for name in replicas if affinity_of(name) == cookie), None)


def _allows(cors: CorsPolicy, origin: str) -> bool:
    return bool(origin) and ("*" in cors.origins or origin in cors.origins)

"""Sign-in to the local cloud: its tenant, its one service principal and its tokens.

Tokens are JSON Web Tokens signed with HMAC-SHA256 and a key that exists only in the state directory, so they
stay valid across restarts and cannot be forged.

Not emulated: users, device codes, refresh tokens, other principals, roles (the principal may do
everything), Microsoft Graph, the v1 token endpoint's `resource` parameter beyond its use as the audience.

Source: Microsoft identity platform, "client credentials flow" and its error codes; "/metadata/endpoints" as
`az cloud register` reads it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from localcloud.clock import Clock, utc_now
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from localcloud.arm.store import Store

CLOUD_NAME: Final = "FjarrLocal"
TOKEN_LIFETIME_S: Final = 3600
_GRANT: Final = "client_credentials"
_KIND: Final = "cloud"
_KEY: Final = "identity"


@dataclass(frozen=True, slots=True)
class Identity:
    """The ids and secrets of one local cloud, generated once."""

    tenant_id: str
    client_id: str
    client_secret: str
    subscription_id: str
    signing_key: str


def load_identity(store: Store) -> Identity:
    """Return the stored identity; generate it the first time."""
    stored = store.get(_KIND, _KEY)
    if stored is None:
        tenant, client, subscription = (str(uuid.uuid4()) for _ in range(3))
        stored = {
            "tenant_id": tenant,
            "client_id": client,
            # No hyphen: `az login --password` would take a text that begins with one for an option.
            "client_secret": secrets.token_hex(32),
            "subscription_id": subscription,
            "signing_key": secrets.token_hex(32),
        }
        store.put(_KIND, _KEY, stored)
    return Identity(**stored)


class Tokens:
    """Issues and verifies bearer tokens."""

    def __init__(self, identity: Identity, clock: Clock = utc_now) -> None:
        self._identity = identity
        self._clock = clock

    def issue(self, audience: str, claims: Mapping[str, Any] | None = None) -> tuple[str, datetime]:
        """Return a token for `audience`, and its expiry."""
        now = int(self._clock().timestamp())
        expires = now + TOKEN_LIFETIME_S
        payload = {
            "aud": audience,
            "iss": f"https://sts.localhost/{self._identity.tenant_id}/",
            "iat": now,
            "nbf": now,
            "exp": expires,
            "appid": self._identity.client_id,
            "oid": self._identity.client_id,
            "tid": self._identity.tenant_id,
            "ver": "1.0",
            **(claims or {}),
        }
        head = ".".join((_encoded({"typ": "JWT", "alg": "HS256"}), _encoded(payload)))
        return f"{head}.{self._signature(head)}", datetime.fromtimestamp(expires, UTC)

    def verify(self, token: str | None, audience: str) -> None:
        """Check that a token was issued for `audience` and has not expired.

        Raises:
            AzureError: 401, with the code and message of Resource Manager.
        """
        if token is None:
            message = "Authentication failed. The 'Authorization' header is missing."
            raise AzureError(401, "AuthenticationFailed", message)
        payload = self._payload(token)
        if payload is None or payload.get("aud") != audience:
            raise AzureError(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if payload["exp"] <= self._clock().timestamp():
            message = "The access token expiry UTC time is earlier than current UTC time."
            raise AzureError(401, "ExpiredAuthenticationToken", message)

    def _payload(self, token: str) -> dict[str, Any] | None:
        head, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(head).encode()):
            return None
        found: dict[str, Any] = json.loads(_decoded(head.partition(".")[2]))
        return found

    def _signature(self, head: str) -> str:
        key = bytes.fromhex(self._identity.signing_key)
        return _base64(hmac.new(key, head.encode(), hashlib.sha256).digest())


def metadata_endpoints(identity: Identity, base_url: str) -> dict[str, Any]:
    """Return the document that `az cloud register --endpoint-resource-manager` reads.

    The storage suffix begins with `core.` because Azure's SDK finds the account name only in such a host.
    """
    host = base_url.removeprefix("https://")
    return {
        "name": CLOUD_NAME,
        "portal": base_url,
        "authentication": {
            "loginEndpoint": base_url,
            "audiences": [f"{base_url}/"],
            "tenant": identity.tenant_id,
            "identityProvider": "AAD",
        },
        "graphAudience": f"{base_url}/graph/",
        "graph": f"{base_url}/graph/",
        "microsoftGraphResourceId": f"{base_url}/graph/",
        "logAnalyticsResourceId": f"{base_url}/logs/",
        "resourceManager": f"{base_url}/",
        "suffixes": {"storage": f"core.{host}"},
    }


def openid_configuration(tenant: str, base_url: str) -> dict[str, Any]:
    """Return the OpenID Connect discovery document of `tenant`."""
    return {
        "token_endpoint": f"{base_url}/{tenant}/oauth2/v2.0/token",
        "authorization_endpoint": f"{base_url}/{tenant}/oauth2/v2.0/authorize",
        "device_authorization_endpoint": f"{base_url}/{tenant}/oauth2/v2.0/devicecode",
        "issuer": f"{base_url}/{tenant}/v2.0",
        "jwks_uri": f"{base_url}/{tenant}/discovery/v2.0/keys",
        "response_types_supported": ["token"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["HS256"],
        "token_endpoint_auth_methods_supported": ["client_secret_post"],
    }


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """The response of the token endpoint: its status and its JSON."""

    status: int
    body: dict[str, Any]


def sign_in(identity: Identity, tokens: Tokens, tenant: str, form: Mapping[str, str]) -> TokenResponse:
    """Handle the token endpoint: return a token for the principal, or one of Azure's AADSTS errors."""
    error = _find_error(identity, tenant, form)
    if error is not None:
        return _error_response(*error)
    scope = form.get("scope", "").removesuffix(".default").rstrip("/") or form.get("resource", "").rstrip("/")
    token, _ = tokens.issue(scope)
    lifetime = TOKEN_LIFETIME_S
    body = {"token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token}
    return TokenResponse(200, body)


def _find_error(identity: Identity, tenant: str, form: Mapping[str, str]) -> tuple[int, str, int, str] | None:
    client = form.get("client_id", "")
    if tenant.lower() != identity.tenant_id:
        return (
            400,
            "invalid_request",
            90002,
            f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID.",
        )
    if form.get("grant_type") != _GRANT:
        kind = form.get("grant_type", "")
        return 400, "unsupported_grant_type", 70003, f"The app requested an unsupported grant type '{kind}'."
    if client.lower() != identity.client_id:
        where = f"in the directory '{tenant}'"
        return (
            400,
            "unauthorized_client",
            700016,
            f"Application with identifier '{client}' was not found {where}.",
        )
    if not hmac.compare_digest(form.get("client_secret", "").encode(), identity.client_secret.encode()):
        hint = (
            "Ensure the secret being sent in the request is the client secret value, not the client secret ID"
        )
        message = f"Invalid client secret provided. {hint}, for a secret added to app '{client}'."
        return 401, "invalid_client", 7000215, message
    return None


def _error_response(status: int, error: str, code: int, message: str) -> TokenResponse:
    trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
    moment = f"{utc_now():%Y-%m-%d %H:%M:%SZ}"
    text = f"AADSTS{code}: {message} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {moment}"
    body = {
        "error": error,
        "error_description": text,
        "error_codes": [code],
        "timestamp": moment,
        "trace_id": trace,
        "correlation_id": correlation,
    }
    return TokenResponse(status, body)


def _encoded(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

"""Sign-in, tokens, metadata.

Source: Microsoft identity platform, "client credentials flow"; `az cloud register` and `az login` on the
wire.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from localcloud.arm.identity import (
    Identity,
    Tokens,
    load_identity,
    metadata_endpoints,
    openid_configuration,
    sign_in,
)
from localcloud.arm.store import Store
from localcloud.errors import AzureError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.doubles.local_cloud import ArmClient

BASE = "https://localhost:1"
IDENTITY = Identity("tenant", "client", "secret", "subscription", "ab" * 32)
FORM = {
    "client_id": "client",
    "client_secret": "secret",
    "grant_type": "client_credentials",
    "scope": f"{BASE}//.default",
}


def test_identity_is_chosen_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "cloud.db")
    first = load_identity(store)
    store.close()
    store = Store(tmp_path / "cloud.db")
    assert load_identity(store) == first
    store.close()


def test_the_store_is_private(tmp_path: Path) -> None:
    Store(tmp_path / "cloud.db").close()
    assert (tmp_path / "cloud.db").stat().st_mode & 0o777 == 0o600


def test_metadata_names_what_az_cloud_register_wants() -> None:
    found = metadata_endpoints(IDENTITY, BASE)
    assert found["resourceManager"] == f"{BASE}/"
    assert found["authentication"]["loginEndpoint"] == BASE
    assert found["suffixes"]["storage"] == "core.localhost:1"


def test_discovery_leads_to_the_token_endpoint() -> None:
    found = openid_configuration("tenant", BASE)
    assert found["token_endpoint"] == f"{BASE}/tenant/oauth2/v2.0/token"
    assert found["issuer"] == f"{BASE}/tenant/v2.0"


def test_a_token_for_the_right_secret_opens_the_management_plane() -> None:
    tokens = Tokens(IDENTITY)
    found = sign_in(IDENTITY, tokens, "tenant", FORM)
    assert found.status == 200
    assert found.body["token_type"] == "Bearer"
    tokens.verify(found.body["access_token"], BASE)


@pytest.mark.parametrize(
    ("tenant", "change", "status", "error", "code"),
    [
        ("tenant", {"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        ("tenant", {"client_id": "other"}, 400, "unauthorized_client", 700016),
        ("other", {}, 400, "invalid_request", 90002),
        ("tenant", {"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
    ],
)
def test_a_refused_sign_in_has_azures_code(
    tenant: str, change: dict[str, str], status: int, error: str, code: int
) -> None:
    found = sign_in(IDENTITY, Tokens(IDENTITY), tenant, FORM | change)
    assert (found.status, found.body["error"]) == (status, error)
    assert found.body["error_codes"] == [code]
    assert found.body["error_description"].startswith(f"AADSTS{code}: ")


def test_tokens_of_another_key_audience_or_time_are_refused() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    tokens = Tokens(IDENTITY, lambda: moment)
    token, _ = tokens.issue(BASE)
    stranger = Tokens(Identity("tenant", "client", "secret", "s", "cd" * 32), lambda: moment)
    late = Tokens(IDENTITY, lambda: moment + timedelta(hours=2))

    def code(judge: Tokens, given: str | None, audience: str = BASE) -> str:
        with pytest.raises(AzureError) as caught:
            judge.verify(given, audience)
        assert caught.value.status == 401
        return caught.value.code

    tokens.verify(token, BASE)
    assert code(tokens, None) == "AuthenticationFailed"
    assert code(stranger, token) == "InvalidAuthenticationToken"
    assert code(tokens, token, "https://elsewhere") == "InvalidAuthenticationToken"
    assert code(tokens, "no token") == "InvalidAuthenticationToken"
    assert code(late, token) == "ExpiredAuthenticationToken"


async def test_management_calls_need_a_token(arm: ArmClient) -> None:
    url = "/subscriptions?api-version=2022-12-01"
    assert (await arm.request("GET", url, token=None)).status == 401
    assert (await arm.request("GET", url, token="x.y.z")).status == 401
    # Unauthenticated callers must not learn which routes exist, either.
    assert (await arm.request("GET", "/nothing", token=None)).status == 401
    assert (await arm.request("GET", url)).status == 200

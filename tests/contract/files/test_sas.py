"""Shared access signatures, made by the real SDK: what they permit, and what they do not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.storage.fileshare import (
    AccountSasPermissions,
    FileSasPermissions,
    ResourceTypes,
    ShareClient,
    ShareFileClient,
    ShareSasPermissions,
    ShareServiceClient,
    generate_account_sas,
    generate_file_sas,
    generate_share_sas,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SOON = timedelta(minutes=5)


@pytest.fixture
def key(server: Any, account: str) -> str:
    return str(server.accounts[account][0])


@pytest.fixture
def opened(server: Any, endpoint: str) -> Any:
    """Open a share with a SAS; closed when the test ends."""
    made = []

    def open_share(sas: str, share: str = "models") -> ShareClient:
        client = ShareClient(endpoint, share, credential=sas, connection_verify=str(server.ca), retry_total=0)
        made.append(client)
        return client

    yield open_share
    for client in made:
        client.close()


def account_sas(account: str, key: str, **changes: Any) -> str:
    wanted = {
        "resource_types": ResourceTypes(service=True, container=True, object=True),
        "permission": AccountSasPermissions.from_string("rwdlc"),
        "expiry": datetime.now(UTC) + SOON,
        **changes,
    }
    return str(generate_account_sas(account, key, **wanted))


def share_sas(account: str, key: str, permission: str, **changes: Any) -> str:
    wanted = {"expiry": datetime.now(UTC) + SOON, **changes}
    permissions = ShareSasPermissions.from_string(permission)
    return str(generate_share_sas(account, "models", key, permissions, **wanted))


def refused(act: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(HttpResponseError) as caught:
        act()
    return caught.value.status_code, caught.value.response.headers["x-ms-error-code"]


def test_an_account_sas_opens_all_that_it_names(server: Any, endpoint: str, account: str, key: str) -> None:
    # Source: "Create an account SAS".
    sas = account_sas(account, key)
    with ShareServiceClient(endpoint, credential=sas, connection_verify=str(server.ca)) as client:
        share = client.create_share("models")
        share.create_directory("a").upload_file("f", b"data")
        assert [found.name for found in client.list_shares()] == ["models"]
        assert [found.name for found in share.list_directories_and_files("a")] == ["f"]
        assert share.get_file_client("a/f").download_file().readall() == b"data"
        share.get_file_client("a/f").delete_file()


@pytest.mark.usefixtures("share")
def test_a_share_sas_opens_the_share_only(
    client: ShareServiceClient, opened: Any, account: str, key: str
) -> None:
    # Source: "Create a service SAS".
    client.create_share("other").get_file_client("f").create_file(1)
    sas = share_sas(account, key, "rcwdl")
    own = opened(sas)
    own.create_directory("ö a").upload_file("f", b"data")
    assert own.get_file_client("ö a/f").download_file().readall() == b"data"
    assert [found.name for found in own.list_directories_and_files("ö a")] == ["f"]
    own.get_file_client("ö a/f").delete_file()
    assert refused(own.get_share_properties) == (403, "AuthorizationPermissionMismatch")
    assert refused(own.delete_share) == (403, "AuthorizationPermissionMismatch")
    assert refused(opened(sas, "other").get_file_client("f").download_file) == (403, "AuthenticationFailed")


def test_a_file_sas_opens_the_file_only(  # noqa: PLR0913 - fixtures
    *, share: ShareClient, send: Callable[..., Any], server: Any, endpoint: str, account: str, key: str
) -> None:
    for name in ("f", "g"):
        share.create_directory(f"d{name}").upload_file(name, name.encode())
    sas = generate_file_sas(
        account, "models", ["df", "f"], key, FileSasPermissions.from_string("rw"), datetime.now(UTC) + SOON
    )
    options = {"credential": sas, "connection_verify": str(server.ca), "retry_total": 0}
    with (
        ShareFileClient(endpoint, "models", "df/f", **options) as file,
        ShareFileClient(endpoint, "models", "dg/g", **options) as other,
    ):
        assert file.download_file().readall() == b"f"
        file.upload_range(b"F", 0, 1)
        assert refused(other.download_file) == (403, "AuthenticationFailed")
        assert refused(file.delete_file) == (403, "AuthorizationPermissionMismatch")
    moved = send(
        "PUT",
        f"/models/df/f?comp=rename&{sas}",
        {"x-ms-file-rename-source": f"{endpoint}/models/dg/g"},
        key=None,
    )
    assert (moved.status, moved.code) == (403, "AuthorizationPermissionMismatch")


@pytest.mark.parametrize(
    ("permission", "allowed"),
    [
        ("r", {"read"}),
        ("l", {"list"}),
        ("w", {"write", "create", "overwrite"}),
        ("c", {"create"}),
        ("d", {"delete"}),
    ],
)
def test_each_permission_opens_its_own(  # noqa: PLR0913 - fixtures and one example
    *, share: ShareClient, opened: Any, account: str, key: str, permission: str, allowed: set[str]
) -> None:
    share.get_file_client("f").upload_file(b"data")
    own = opened(share_sas(account, key, permission))
    acts: dict[str, Callable[[], Any]] = {
        "read": own.get_file_client("f").download_file,
        "list": lambda: list(own.list_directories_and_files()),
        "write": lambda: own.get_file_client("f").upload_range(b"x", 0, 1),
        "create": lambda: own.get_file_client("new").create_file(1),
        "overwrite": lambda: own.get_file_client("f").create_file(4),
        "delete": own.get_file_client("f").delete_file,
    }
    for name, act in acts.items():
        if name in allowed:
            act()
        else:
            assert refused(act) == (403, "AuthorizationPermissionMismatch"), name


def test_a_sas_has_its_time(share: ShareClient, opened: Any, account: str, key: str) -> None:
    share.get_file_client("f").create_file(1)
    now = datetime.now(UTC)
    for sas in (
        share_sas(account, key, "r", expiry=now - SOON),
        share_sas(account, key, "r", expiry=now + 2 * SOON, start=now + SOON),
    ):
        with pytest.raises(
            ClientAuthenticationError, match="Signature not valid in the specified time frame"
        ) as caught:
            opened(sas).get_file_client("f").download_file()
        assert caught.value.error_code == "AuthenticationFailed"


def test_a_changed_sas_does_not_open(share: ShareClient, opened: Any, account: str, key: str) -> None:
    share.get_file_client("f").create_file(1)
    sas = share_sas(account, key, "r")
    for wrong in (sas.replace("sp=r", "sp=rwd"), sas.replace("sr=s", "sr=f"), sas[:-8] + "AAAA%3D"):
        with pytest.raises(
            ClientAuthenticationError, match=r"Signature did not match\. String to sign used was"
        ):
            opened(wrong).get_file_client("f").download_file()


def test_the_second_key_signs_too(share: ShareClient, opened: Any, server: Any, account: str) -> None:
    share.get_file_client("f").create_file(1)
    sas = share_sas(account, server.accounts[account][1], "r")
    assert opened(sas).get_file_client("f").exists()


@pytest.mark.parametrize(
    ("ip", "opens"),
    [
        ("127.0.0.1", True),
        ("127.0.0.0-127.0.0.255", True),
        ("10.0.0.1", False),
        ("10.0.0.0-10.255.255.255", False),
    ],
)
def test_a_sas_has_its_addresses(  # noqa: PLR0913 - fixtures and one example
    *, share: ShareClient, opened: Any, account: str, key: str, ip: str, opens: bool
) -> None:
    share.get_file_client("f").create_file(1)
    file = opened(share_sas(account, key, "r", ip=ip)).get_file_client("f")
    if opens:
        assert file.exists()
    else:
        assert refused(file.download_file) == (403, "AuthorizationSourceIPMismatch")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"services": "b"}, "AuthorizationServiceMismatch"),
        (
            {"resource_types": ResourceTypes(service=True, container=True)},
            "AuthorizationResourceTypeMismatch",
        ),
        ({"permission": AccountSasPermissions.from_string("l")}, "AuthorizationPermissionMismatch"),
    ],
)
def test_an_account_sas_reaches_no_further(  # noqa: PLR0913 - fixtures and one example
    *, share: ShareClient, opened: Any, account: str, key: str, changes: dict[str, Any], code: str
) -> None:
    share.get_file_client("f").create_file(1)
    own = opened(account_sas(account, key, **changes))
    assert refused(own.get_file_client("f").download_file) == (403, code)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("sig=a", 501, "NotImplementedByLocalCloud"),
        ("sv=2014-02-14&sig=a", 501, "NotImplementedByLocalCloud"),
        ("sv=2026-04-06&si=policy&sr=s&sig=a", 501, "NotImplementedByLocalCloud"),
        ("sv=2026-04-06&skoid=x&sr=s&sig=a", 501, "NotImplementedByLocalCloud"),
        ("sv=2026-04-06&sr=d&sig=a", 403, "AuthenticationFailed"),
    ],
)
@pytest.mark.usefixtures("share")
def test_other_kinds_of_sas_are_refused(send: Callable[..., Any], query: str, status: int, code: str) -> None:
    answer = send("GET", f"/models/f?{query}", key=None)
    assert (answer.status, answer.code) == (status, code)


def test_a_sas_has_the_file_served_with_other_headers(
    share: ShareClient, send: Callable[..., Any], account: str, key: str
) -> None:
    # Source: "Create a service SAS", rscc, rscd, rsce, rscl, rsct.
    share.get_file_client("f").upload_file(b"data")
    sas = share_sas(account, key, "r", content_type="text/x-own", cache_control="no-store")
    answer = send("GET", f"/models/f?{sas}", key=None)
    assert (answer.headers["content-type"], answer.headers["cache-control"]) == ("text/x-own", "no-store")


def test_a_copy_by_sas_needs_one_for_its_source_too(
    share: ShareClient, opened: Any, endpoint: str, account: str, key: str
) -> None:
    share.get_file_client("source").upload_file(b"data")
    own = opened(share_sas(account, key, "cw"))
    plain = f"{endpoint}/models/source"
    assert refused(lambda: own.get_file_client("copy").start_copy_from_url(plain)) == (
        401,
        "CannotVerifyCopySource",
    )
    readable = f"{plain}?{share_sas(account, key, 'r')}"
    own.get_file_client("copy").start_copy_from_url(readable)
    found = share.get_file_client("copy").get_file_properties()
    assert found.copy.source == plain
    assert quote(readable.partition("sig=")[2]) not in str(found)

"""Shares: list, create, properties, metadata, statistics, delete, through the real SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from azure.storage.fileshare import ShareClient, ShareServiceClient


def test_create_share_makes_a_directory_that_a_replica_can_mount(
    client: ShareServiceClient, server: Any, account: str
) -> None:
    # Source: "Create Share": 201, ETag, Last-Modified.
    made = client.get_share_client("models").create_share(quota=7, metadata={"owner": "me"})
    assert made["etag"].startswith('"0x')
    assert made["last_modified"] is not None
    assert server.service.share_path(account, "models") == server.root / account / "models"
    assert (server.root / account / "models").is_dir()


def test_a_share_that_exists_is_refused(share: ShareClient, client: ShareServiceClient) -> None:
    # Source: "Azure Files error codes": ShareAlreadyExists 409.
    with pytest.raises(ResourceExistsError, match=r"The specified share already exists\.") as caught:
        client.create_share(share.share_name)
    assert caught.value.error_code == "ShareAlreadyExists"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ab", "OutOfRangeInput"),
        ("a" * 64, "OutOfRangeInput"),
        ("Models", "InvalidResourceName"),
        ("a--b", "InvalidResourceName"),
        ("-ab", "InvalidResourceName"),
        ("ab-", "InvalidResourceName"),
        ("a_b", "InvalidResourceName"),
    ],
)
def test_share_names_are_those_of_azure(client: ShareServiceClient, name: str, code: str) -> None:
    # Source: "Naming and referencing shares": 3 to 63, lower case, digits, single hyphens inside.
    with pytest.raises(HttpResponseError) as caught:
        client.create_share(name)
    assert (caught.value.status_code, caught.value.error_code) == (400, code)


def test_properties_tell_quota_tier_protocol_metadata_and_lease(client: ShareServiceClient) -> None:
    # Source: "Get Share Properties".
    share = client.create_share("models", quota=7, metadata={"Owner": "me"}, access_tier="Hot")
    found = share.get_share_properties()
    assert (found.quota, found.access_tier, found.protocols) == (7, "Hot", ["SMB"])
    assert found.metadata == {"Owner": "me"}
    assert (found.lease.status, found.lease.state) == ("unlocked", "available")


def test_setting_properties_and_metadata_changes_the_etag(share: ShareClient) -> None:
    # Source: "Set Share Properties", "Set Share Metadata".
    before = share.get_share_properties()
    share.set_share_quota(9)
    share.set_share_metadata({"b": "2"})
    after = share.get_share_properties()
    assert (after.quota, after.metadata) == (9, {"b": "2"})
    assert after.etag != before.etag


@pytest.mark.usefixtures("share")
def test_a_quota_beyond_the_limits_is_refused(send: Callable[..., Any]) -> None:
    for quota in ("0", "102401", "many"):
        answer = send("PUT", "/models?restype=share&comp=properties", {"x-ms-share-quota": quota})
        assert (answer.status, answer.code, answer.text("HeaderName")) == (
            400,
            "InvalidHeaderValue",
            "x-ms-share-quota",
        )


@pytest.mark.usefixtures("share")
def test_statistics_count_the_bytes_on_the_disk(send: Callable[..., Any], folder: Path) -> None:
    # Source: "Get Share Stats".
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_bytes(b"x" * 1000)
    assert send("GET", "/models?restype=share&comp=stats").text("ShareUsageBytes") == "1000"


def test_list_shares_in_order_with_prefix_metadata_and_pages(client: ShareServiceClient) -> None:
    # Source: "List Shares".
    for name in ("beta", "alpha", "alto", "gamma"):
        client.create_share(name, metadata={"own": name})
    assert [found.name for found in client.list_shares()] == ["alpha", "alto", "beta", "gamma"]
    assert [found.name for found in client.list_shares("al")] == ["alpha", "alto"]
    assert [found.metadata for found in client.list_shares("al")] == [None, None]
    assert [found.metadata for found in client.list_shares("al", include_metadata=True)] == [
        {"own": "alpha"},
        {"own": "alto"},
    ]
    pages = [[found.name for found in page] for page in client.list_shares(results_per_page=3).by_page()]
    assert pages == [["alpha", "alto", "beta"], ["gamma"]]


@pytest.mark.usefixtures("share")
def test_list_shares_as_az_asks(send: Callable[..., Any]) -> None:
    answer = send("GET", "/?comp=list&include=&maxresults=5000")
    assert answer.status == 200
    assert answer.body.startswith(
        b'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https'
    )


@pytest.mark.parametrize(
    ("maxresults", "code"),
    [
        ("0", "OutOfRangeQueryParameterValue"),
        ("-1", "OutOfRangeQueryParameterValue"),
        ("x", "InvalidQueryParameterValue"),
    ],
)
def test_a_page_of_nothing_is_refused(send: Callable[..., Any], maxresults: str, code: str) -> None:
    answer = send("GET", f"/?comp=list&maxresults={maxresults}")
    assert (answer.status, answer.code) == (400, code)


def test_a_marker_of_somebody_else_is_refused(send: Callable[..., Any]) -> None:
    for marker in ("2!aaaa", "rubbish", "1!*"):
        assert send("GET", f"/?comp=list&marker={marker}").code == "InvalidQueryParameterValue"


def test_delete_share_takes_all_that_is_in_it(
    share: ShareClient, folder: Path, server: Any, account: str
) -> None:
    # Source: "Delete Share": 202.
    share.create_directory("a").upload_file("f", b"data")
    share.delete_share()
    assert not folder.exists()
    with pytest.raises(ResourceNotFoundError, match="The specified share does not exist"):
        share.get_share_properties()
    with pytest.raises(KeyError):
        server.service.share_path(account, "models")


def test_a_new_share_of_an_old_name_knows_nothing_of_the_old_one(
    share: ShareClient, client: ShareServiceClient
) -> None:
    share.get_file_client("f").create_file(3, metadata={"old": "yes"})
    share.set_share_metadata({"old": "yes"})
    share.delete_share()
    again = client.create_share("models")
    again.get_file_client("f").create_file(3)
    assert again.get_share_properties().metadata == {}
    assert again.get_file_client("f").get_file_properties().metadata == {}


def test_everything_in_a_missing_share_is_share_not_found(client: ShareServiceClient) -> None:
    missing = client.get_share_client("missing")
    for act in (
        missing.get_share_properties,
        missing.delete_share,
        missing.get_directory_client("a").create_directory,
        missing.get_file_client("f").get_file_properties,
        lambda: list(missing.list_directories_and_files()),
        lambda: missing.get_file_client("f").create_file(1),
    ):
        with pytest.raises(ResourceNotFoundError) as caught:
            act()
        assert caught.value.response.headers["x-ms-error-code"] == "ShareNotFound"


def test_the_python_side_makes_and_deletes_shares_for_the_resource_manager(server: Any, account: str) -> None:
    service = server.service
    service.create_share(account, "models", 5)
    service.create_share(account, "models", 6)
    assert service.share_exists(account, "models")
    service.delete_share(account, "models")
    service.delete_share(account, "models")
    assert not service.share_exists(account, "models")
    service.create_share(account, "models", 5)
    service.delete_account(account)
    assert not service.share_exists(account, "models")


@pytest.mark.parametrize(("name", "quota"), [("No", 5), ("../up", 5), ("good", 0), ("good", 102401)])
def test_the_python_side_refuses_what_azure_would(server: Any, account: str, name: str, quota: int) -> None:
    with pytest.raises(ValueError, match=r"cannot be the name|quota is 1 to 102400 GiB"):
        server.service.create_share(account, name, quota)


def test_a_new_quota_from_the_resource_manager_is_seen_by_the_sdk(
    server: Any, account: str, share: ShareClient
) -> None:
    share.set_share_metadata({"kept": "1"})
    server.service.create_share(account, "models", 77)
    found = share.get_share_properties()
    assert (found.quota, found.metadata) == (77, {"kept": "1"})

"""Copy and rename within an account, through the real SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.fileshare import ContentSettings, NTFSAttributes, ShareClient, ShareServiceClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CODE = "x-ms-error-code"


def test_copy_takes_content_settings_and_metadata(share: ShareClient, folder: Path) -> None:
    # Source: "Copy File": 202, x-ms-copy-id, x-ms-copy-status.
    source = share.get_file_client("source")
    source.upload_file(
        b"weights", metadata={"m": "1"}, content_settings=ContentSettings(content_type="text/plain")
    )
    goal = share.create_directory("d").get_file_client("copy")
    started = goal.start_copy_from_url(source.url)
    assert started["copy_status"] == "success"
    found = goal.get_file_properties()
    assert (folder / "d" / "copy").read_bytes() == b"weights"
    assert (found.metadata, found.content_settings.content_type) == ({"m": "1"}, "text/plain")
    assert (found.copy.id, found.copy.status, found.copy.progress) == (started["copy_id"], "success", "7/7")
    assert found.copy.source == source.url
    goal.start_copy_from_url(source.url, metadata={"own": "2"})
    assert goal.get_file_properties().metadata == {"own": "2"}


def test_copy_between_shares_of_an_account(share: ShareClient, client: ShareServiceClient) -> None:
    share.get_file_client("ö ~ä").upload_file(b"data")
    goal = client.create_share("other").get_file_client("f")
    goal.start_copy_from_url(share.get_file_client("ö ~ä").url)
    assert goal.download_file().readall() == b"data"


def test_a_copy_onto_itself_keeps_the_file(share: ShareClient) -> None:
    file = share.get_file_client("f")
    file.upload_file(b"data")
    file.start_copy_from_url(file.url)
    assert file.download_file().readall() == b"data"


def test_copy_of_nothing_is_refused(share: ShareClient) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        share.get_file_client("f").start_copy_from_url(share.get_file_client("missing").url)
    assert caught.value.response.headers[CODE] == "CannotVerifyCopySource"
    assert not share.get_file_client("f").exists()


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("https://other.blob.core.windows.net/c/b", 501),
        ("https://{host}/other/models/f", 501),
        ("ftp://{host}/{account}/models/f", 400),
        ("https://{host}/{account}/models", 400),
        ("https://{host}/{account}/models/../../etc/passwd", 400),
    ],
)
def test_other_sources_are_refused(
    share: ShareClient, server: Any, account: str, url: str, status: int
) -> None:
    with pytest.raises(HttpResponseError) as caught:
        share.get_file_client("f").start_copy_from_url(url.format(host=server.host, account=account))
    assert caught.value.status_code == status
    assert not share.get_file_client("f").exists()


def test_there_is_never_a_copy_to_abort(share: ShareClient) -> None:
    # Source: "Abort Copy File": NoPendingCopyOperation 409.
    file = share.get_file_client("f")
    file.upload_file(b"data")
    started = file.start_copy_from_url(file.url)
    with pytest.raises(HttpResponseError, match=r"There is currently no pending copy operation\.") as caught:
        file.abort_copy(started["copy_id"])
    assert (caught.value.status_code, caught.value.error_code) == (409, "NoPendingCopyOperation")


def test_rename_file_takes_its_properties_along(share: ShareClient, folder: Path) -> None:
    # Source: "Rename File": 200.
    file = share.get_file_client("old")
    file.upload_file(b"data", metadata={"m": "1"})
    share.create_directory("d")
    moved = file.rename_file("d/new")
    assert not (folder / "old").exists()
    assert (folder / "d" / "new").read_bytes() == b"data"
    assert moved.get_file_properties().metadata == {"m": "1"}


def test_rename_onto_a_file_needs_to_be_asked_for(share: ShareClient, folder: Path) -> None:
    share.get_file_client("next").upload_file(b"2")
    share.get_file_client("CURRENT").upload_file(b"1", metadata={"old": "1"})
    with pytest.raises(ResourceExistsError) as caught:
        share.get_file_client("next").rename_file("CURRENT")
    assert caught.value.response.headers[CODE] == "ResourceAlreadyExists"
    moved = share.get_file_client("next").rename_file("CURRENT", overwrite=True)
    assert (folder / "CURRENT").read_bytes() == b"2"
    assert moved.get_file_properties().metadata == {}
    assert not (folder / "next").exists()


def test_rename_onto_a_read_only_file_needs_to_be_asked_for_too(share: ShareClient) -> None:
    share.get_file_client("a").create_file(1)
    share.get_file_client("b").create_file(1, file_attributes=NTFSAttributes(read_only=True))
    with pytest.raises(HttpResponseError) as caught:
        share.get_file_client("a").rename_file("b", overwrite=True)
    assert caught.value.response.headers[CODE] == "ReadOnlyAttribute"
    share.get_file_client("a").rename_file("b", overwrite=True, ignore_read_only=True)


def test_rename_sets_metadata_and_type(share: ShareClient) -> None:
    share.get_file_client("a").upload_file(b"x", metadata={"m": "1"})
    moved = share.get_file_client("a").rename_file("b", metadata={"n": "2"}, content_type="text/plain")
    found = moved.get_file_properties()
    assert (found.metadata, found.content_settings.content_type) == ({"n": "2"}, "text/plain")


def test_rename_only_the_case_of_a_name(share: ShareClient, folder: Path) -> None:
    share.get_file_client("name").upload_file(b"x", metadata={"m": "1"})
    moved = share.get_file_client("name").rename_file("NAME")
    assert [path.name for path in folder.iterdir()] == ["NAME"]
    assert moved.get_file_properties().metadata == {"m": "1"}


def test_rename_what_is_not_there_or_to_where_is_no_parent(share: ShareClient) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        share.get_file_client("missing").rename_file("b")
    assert caught.value.response.headers[CODE] == "ResourceNotFound"
    share.get_file_client("a").create_file(1)
    with pytest.raises(ResourceNotFoundError) as caught:
        share.get_file_client("a").rename_file("d/b")
    assert caught.value.response.headers[CODE] == "ParentNotFound"


def test_rename_directory_takes_all_along(share: ShareClient, folder: Path) -> None:
    # Source: "Rename Directory": 200.
    made = share.create_directory("old", metadata={"d": "1"})
    made.create_subdirectory("sub").upload_file("f", b"data", metadata={"m": "1"})
    moved = made.rename_directory("new")
    assert moved.get_directory_properties().metadata == {"d": "1"}
    assert share.get_file_client("new/sub/f").get_file_properties().metadata == {"m": "1"}
    assert (folder / "new" / "sub" / "f").read_bytes() == b"data"
    assert not (folder / "old").exists()


def test_rename_directory_is_refused_onto_what_exists_and_into_itself(share: ShareClient) -> None:
    made = share.create_directory("a")
    share.create_directory("b")
    share.get_file_client("f").create_file(1)
    for goal, code in (
        ("b", "ResourceAlreadyExists"),
        ("f", "ResourceAlreadyExists"),
        ("a/c", "SharingViolation"),
    ):
        with pytest.raises(HttpResponseError) as caught:
            made.rename_directory(goal)
        assert caught.value.response.headers[CODE] == code
    with pytest.raises(ResourceExistsError) as caught:
        share.get_file_client("a").rename_file("x")
    assert caught.value.response.headers[CODE] == "ResourceTypeMismatch"


def test_rename_into_another_share_is_refused(
    share: ShareClient, client: ShareServiceClient, send: Callable[..., Any], endpoint: str
) -> None:
    client.create_share("other")
    share.get_file_client("f").create_file(1)
    answer = send("PUT", "/other/f?comp=rename", {"x-ms-file-rename-source": f"{endpoint}/models/f"})
    assert (answer.status, answer.code) == (400, "InvalidHeaderValue")

"""Directories: create, describe, list, delete, through the real SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.fileshare import NTFSAttributes, ShareClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CODE = "x-ms-error-code"


def test_create_directory_with_metadata(share: ShareClient, folder: Path) -> None:
    # Source: "Create Directory": 201.
    made = share.create_directory("a", metadata={"Kind": "model"})
    found = made.get_directory_properties()
    assert (folder / "a").is_dir()
    assert (found.metadata, found.file_attributes, found.is_directory) == (
        {"Kind": "model"},
        "Directory",
        True,
    )
    assert (found.parent_id, found.file_id) == ("0", str((folder / "a").stat().st_ino))
    assert found.creation_time is not None


def test_nested_directories_come_encoded_in_one_name(share: ShareClient, folder: Path) -> None:
    share.create_directory("a")
    share.get_directory_client("a/b c").create_directory()
    share.get_directory_client("a/b c/ö").create_directory()
    assert (folder / "a" / "b c" / "ö").is_dir()
    assert share.get_directory_client("a/b c/ö").exists()


def test_a_missing_parent_is_parent_not_found(share: ShareClient) -> None:
    # Source: a recorded answer of the service, 404 (its documentation says 412).
    with pytest.raises(ResourceNotFoundError, match=r"The specified parent path does not exist\.") as caught:
        share.get_directory_client("a/b").create_directory()
    assert caught.value.error_code == "ParentNotFound"


def test_a_directory_or_file_that_exists_is_refused(share: ShareClient) -> None:
    # Source: recorded answers: 409 ResourceAlreadyExists.
    share.create_directory("a")
    with pytest.raises(ResourceExistsError) as caught:
        share.create_directory("A")
    assert caught.value.error_code == "ResourceAlreadyExists"
    share.get_file_client("f").create_file(1)
    with pytest.raises(ResourceExistsError) as caught:
        share.create_directory("f")
    assert caught.value.error_code == "ResourceTypeMismatch"


def test_existence(share: ShareClient) -> None:
    assert share.get_directory_client("").exists()
    assert not share.get_directory_client("a").exists()
    share.create_directory("a")
    assert share.get_directory_client("a").exists()


def test_set_metadata_and_attributes(share: ShareClient) -> None:
    # Source: "Set Directory Metadata", "Set Directory Properties".
    made = share.create_directory("a")
    before = made.get_directory_properties()
    made.set_directory_metadata({"x": "1"})
    made.set_http_headers(file_attributes=NTFSAttributes(hidden=True, directory=True))
    after = made.get_directory_properties()
    assert (after.metadata, after.file_attributes) == ({"x": "1"}, "Directory|Hidden")
    assert after.etag != before.etag


def test_delete_an_empty_directory_only(share: ShareClient, folder: Path) -> None:
    # Source: "Delete Directory": 202, and DirectoryNotEmpty 409.
    made = share.create_directory("a")
    made.upload_file("f", b"x")
    with pytest.raises(HttpResponseError, match=r"The specified directory is not empty\.") as caught:
        made.delete_directory()
    assert (caught.value.status_code, caught.value.error_code) == (409, "DirectoryNotEmpty")
    made.delete_file("f")
    made.delete_directory()
    assert not (folder / "a").exists()
    with pytest.raises(ResourceNotFoundError):
        made.delete_directory()


@pytest.mark.usefixtures("share")
def test_the_root_cannot_be_deleted(send: Callable[..., Any]) -> None:
    answer = send("DELETE", "/models?restype=directory")
    assert (answer.status, answer.code) == (409, "CannotDeleteFileOrDirectory")


def test_a_file_is_no_directory(share: ShareClient) -> None:
    # Source: az 2.91, create_file_url, which asks for the directory of a file's name and needs 404.
    share.get_file_client("f").create_file(1)
    for act in (
        share.get_directory_client("f").get_directory_properties,
        share.get_directory_client("f").delete_directory,
        lambda: list(share.get_directory_client("f").list_directories_and_files()),
    ):
        with pytest.raises(ResourceNotFoundError) as caught:
            act()
        assert caught.value.response.headers[CODE] == "ResourceNotFound"


def test_list_files_and_directories_in_order(share: ShareClient) -> None:
    # Source: "List Directories and Files": files and directories intermingled in lexical order.
    for name in ("b", "D"):
        share.create_directory(name)
    for name in ("a.txt", "C.txt"):
        share.get_file_client(name).upload_file(name.encode())
    found = list(share.list_directories_and_files())
    assert {(item.name, item.is_directory) for item in found} == {
        ("a.txt", False),
        ("b", True),
        ("C.txt", False),
        ("D", True),
    }
    assert {item.name: item.size for item in found if not item.is_directory} == {"a.txt": 5, "C.txt": 5}


def test_list_by_prefix_and_by_page(share: ShareClient) -> None:
    # Source: "List Directories and Files": prefix, marker, maxresults.
    for number in range(12):
        share.get_file_client(f"part-{number:02}").create_file(number)
    share.create_directory("other")
    assert [item.name for item in share.list_directories_and_files(name_starts_with="part-1")] == [
        "part-10",
        "part-11",
    ]
    pages = share.get_directory_client("").list_directories_and_files(
        name_starts_with="PART", results_per_page=5
    )
    assert [[item.name[-2:] for item in page] for page in pages.by_page()] == [
        ["00", "01", "02", "03", "04"],
        ["05", "06", "07", "08", "09"],
        ["10", "11"],
    ]


def test_a_page_goes_on_after_its_last_name_has_gone(share: ShareClient, folder: Path) -> None:
    for name in "abcd":
        share.get_file_client(name).create_file(0)
    pages = share.get_directory_client("").list_directories_and_files(results_per_page=2).by_page()
    assert [item.name for item in next(pages)] == ["a", "b"]
    (folder / "b").unlink()
    assert [item.name for item in next(pages)] == ["c", "d"]


def test_list_with_all_that_can_be_included(share: ShareClient) -> None:
    # Source: "List Directories and Files", include=Timestamps,ETag,Attributes,PermissionKey.
    share.create_directory("d")
    file = share.get_file_client("d/f")
    file.create_file(3, metadata={"m": "1"})
    (item,) = share.list_directories_and_files(
        "d", include=["timestamps", "Etag", "Attributes", "PermissionKey"]
    )
    known = file.get_file_properties()
    assert (item.etag, item.last_modified) == (known.etag, known.last_modified)
    assert (item.creation_time, item.last_write_time, item.change_time) == (
        known.creation_time,
        known.last_write_time,
        known.change_time,
    )
    assert (item.file_attributes, item.permission_key, item.file_id) == (
        known.file_attributes,
        known.permission_key,
        known.file_id,
    )


def test_list_without_include_tells_names_and_sizes_only(
    send: Callable[..., Any], share: ShareClient
) -> None:
    share.get_file_client("f").create_file(3)
    answer = send("GET", "/models?restype=directory&comp=list")
    assert answer.body.endswith(
        b"<Entries><File><Name>f</Name><Properties><Content-Length>3</Content-Length></Properties></File>"
        b"</Entries><NextMarker /></EnumerationResults>"
    )


@pytest.mark.usefixtures("share")
def test_an_unknown_include_is_refused(send: Callable[..., Any]) -> None:
    answer = send("GET", "/models?restype=directory&comp=list&include=everything")
    assert (answer.status, answer.code) == (400, "InvalidQueryParameterValue")


def test_list_a_missing_directory(share: ShareClient) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        list(share.list_directories_and_files("missing"))
    assert caught.value.error_code == "ResourceNotFound"


def test_there_are_never_open_handles(share: ShareClient) -> None:
    # Source: "List Handles", "Force Close Handles".
    made = share.create_directory("d")
    file = made.upload_file("f", b"x")
    assert list(made.list_handles(recursive=True)) == []
    assert list(file.list_handles()) == []
    assert made.close_all_handles(recursive=True)["closed_handles_count"] == 0
    with pytest.raises(ResourceNotFoundError):
        list(share.get_file_client("missing").list_handles())

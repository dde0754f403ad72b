"""The share on the disk: changes by a replica in the mounted directory, and no way out of it."""

from __future__ import annotations

import errno
import http.client
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.fileshare import ContentSettings, ShareClient

from localcloud.files.service import disk_error
from localcloud.files.tree import Folder

if TYPE_CHECKING:
    from collections.abc import Callable

MD5 = ContentSettings(content_type="text/plain", content_md5=bytearray(16))


def code_of(act: Callable[[], Any]) -> str:
    with pytest.raises(HttpResponseError) as caught:
        act()
    return str(caught.value.response.headers["x-ms-error-code"])


def test_what_a_replica_writes_is_served(share: ShareClient, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "result.txt").write_bytes(b"made by a replica")
    file = share.get_file_client("out/result.txt")
    assert file.download_file().readall() == b"made by a replica"
    found = file.get_file_properties()
    assert (found.size, found.file_attributes) == (17, "Archive")
    assert int(found.last_write_time.timestamp()) == int((folder / "out" / "result.txt").stat().st_mtime)
    file.set_file_metadata({"seen": "1"})
    assert file.get_file_properties().metadata == {"seen": "1"}


def test_nothing_but_the_files_is_in_the_directory(share: ShareClient, folder: Path) -> None:
    share.create_directory("d", metadata={"m": "1"}).upload_file("f", b"x", metadata={"m": "1"})
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == ["d", "d/f"]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"longer than before"),
        lambda path: os.utime(path, (1, 1)),
        lambda path: (path.unlink(), path.write_bytes(b"another file")),
    ],
)
def test_properties_are_dropped_when_a_replica_changed_the_file(
    share: ShareClient, folder: Path, change: Callable[[Path], Any]
) -> None:
    file = share.get_file_client("f")
    file.upload_file(b"data", metadata={"m": "1"}, content_settings=MD5)
    before = file.get_file_properties()
    assert before.content_settings.content_md5 == bytearray(16)
    change(folder / "f")
    after = file.get_file_properties()
    assert (after.metadata, after.content_settings.content_md5) == ({}, None)
    assert after.etag != before.etag


def test_properties_are_kept_when_only_the_service_wrote(share: ShareClient) -> None:
    file = share.get_file_client("f")
    file.upload_file(b"data", metadata={"m": "1"}, content_settings=MD5)
    file.upload_range(b"DATA", 0, 4)
    assert file.get_file_properties().content_settings.content_md5 == bytearray(16)


def test_a_lease_outlives_a_replicas_write(share: ShareClient, folder: Path) -> None:
    file = share.get_file_client("f")
    file.upload_file(b"data")
    file.acquire_lease()
    (folder / "f").write_bytes(b"changed in place")
    assert file.get_file_properties().lease.state == "leased"


def test_a_file_that_a_replica_removed_leaves_nothing_behind(share: ShareClient, folder: Path) -> None:
    file = share.get_file_client("f")
    file.upload_file(b"data", metadata={"m": "1"})
    file.acquire_lease()
    (folder / "f").unlink()
    assert not file.exists()
    file.upload_file(b"data")
    found = file.get_file_properties()
    assert (found.metadata, found.lease.state) == ({}, "available")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "secret").write_text("secret")
    return tmp_path


def test_a_link_to_a_directory_outside_is_never_followed(
    share: ShareClient, folder: Path, outside: Path
) -> None:
    (folder / "link").symlink_to(outside)
    inside = share.get_file_client("link/deep/secret")
    assert code_of(inside.download_file) == "ParentNotFound"
    assert code_of(lambda: inside.create_file(1)) == "ParentNotFound"
    assert code_of(inside.delete_file) == "ParentNotFound"
    assert code_of(lambda: share.get_directory_client("link/made").create_directory()) == "ParentNotFound"
    assert code_of(lambda: list(share.list_directories_and_files("link"))) == "ResourceNotFound"
    assert code_of(share.get_directory_client("link").delete_directory) == "ResourceNotFound"
    assert (
        code_of(lambda: share.get_directory_client("link").set_directory_metadata({})) == "ResourceNotFound"
    )
    share.get_file_client("mine").create_file(1)
    assert code_of(lambda: share.get_file_client("mine").rename_file("link/mine")) == "ParentNotFound"
    assert sorted(path.name for path in outside.rglob("*")) == ["deep", "secret"]


def test_a_link_to_a_file_outside_is_never_read_or_written(
    share: ShareClient, folder: Path, outside: Path
) -> None:
    (folder / "link").symlink_to(outside / "deep" / "secret")
    file = share.get_file_client("link")
    for act in (
        file.download_file,
        lambda: file.create_file(3),
        lambda: file.upload_range(b"x", 0, 1),
        lambda: file.resize_file(0),
        lambda: file.set_file_metadata({"a": "1"}),
        file.acquire_lease,
        file.get_ranges,
        lambda: share.get_file_client("copy").start_copy_from_url(file.url),
        lambda: file.start_copy_from_url(share.get_file_client("other").url),
    ):
        share.get_file_client("other").upload_file(b"other")
        assert code_of(act) == "ResourceTypeMismatch"
    assert (outside / "deep" / "secret").read_text() == "secret"
    assert not (folder / "copy").exists()


def test_a_link_is_listed_renamed_and_deleted_as_what_it_is(
    share: ShareClient, folder: Path, outside: Path
) -> None:
    (folder / "link").symlink_to(outside / "deep" / "secret")
    (item,) = share.list_directories_and_files(include=["Attributes"])
    assert (item.name, item.is_directory, item.file_attributes) == ("link", False, "ReparsePoint")
    share.get_file_client("link").rename_file("moved")
    assert (folder / "moved").is_symlink()
    share.get_file_client("moved").delete_file()
    assert list(folder.iterdir()) == []
    assert (outside / "deep" / "secret").read_text() == "secret"


def test_a_dangling_link_does_not_let_a_file_be_made_elsewhere(
    share: ShareClient, folder: Path, outside: Path
) -> None:
    (folder / "link").symlink_to(outside / "new")
    assert code_of(lambda: share.get_file_client("link").create_file(1)) == "ResourceTypeMismatch"
    assert not (outside / "new").exists()


def test_a_pipe_does_not_hold_the_service(share: ShareClient, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert code_of(share.get_file_client("pipe").download_file) == "ResourceTypeMismatch"
    assert code_of(lambda: share.get_file_client("pipe").upload_range(b"x", 0, 1)) == "ResourceTypeMismatch"
    share.get_file_client("pipe").delete_file()


def test_deleting_a_share_spares_what_its_links_point_to(
    share: ShareClient, folder: Path, outside: Path
) -> None:
    (folder / "link").symlink_to(outside)
    share.delete_share()
    assert (outside / "deep" / "secret").read_text() == "secret"


def test_names_that_xml_cannot_hold_are_listed_encoded(share: ShareClient, folder: Path) -> None:
    # Source: "List Directories and Files", Encoded="true" for names with invalid XML characters.
    (folder / "bell\x07").write_bytes(b"x")
    assert [item.name for item in share.list_directories_and_files()] == ["bell\x07"]


@pytest.mark.usefixtures("share")
def test_a_name_that_is_not_utf8_is_listed_encoded(send: Callable[..., Any], folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/latin-\xf6"))).write_bytes(b"x")
    assert b'<Name Encoded="true">latin-%F6</Name>' in send("GET", "/models?restype=directory&comp=list").body


def test_a_download_of_a_file_that_shrinks_is_cut_off_not_padded(
    share: ShareClient, folder: Path, send: Callable[..., Any]
) -> None:
    share.get_file_client("f").create_file(64 * 1024 * 1024)
    with pytest.raises((http.client.IncompleteRead, OSError)):
        send("GET", "/models/f", meanwhile=lambda: os.truncate(folder / "f", 5))
    assert share.get_file_client("f").download_file().readall() == bytes(5)


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (errno.ENAMETOOLONG, 400, "InvalidFileOrDirectoryPathName"),
        (errno.ENOSPC, 409, "ShareSizeLimitReached"),
        (errno.EACCES, 409, "SharingViolation"),
        (errno.EIO, 500, "InternalError"),
    ],
)
def test_what_the_disk_refuses_is_answered_in_azures_words(number: int, status: int, code: str) -> None:
    error = disk_error(OSError(number, os.strerror(number)), "PUT /models/f")
    assert (error.status, error.code) == (status, code)


@pytest.mark.usefixtures("share")
def test_any_other_error_of_the_disk_is_answered_and_logged(
    send: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(Folder, "entries", broken)
    answer = send("GET", "/models?restype=directory&comp=list")
    assert (answer.status, answer.code) == (500, "InternalError")
    assert "the disk refused GET" in caplog.text

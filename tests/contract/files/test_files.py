"""Whole files: create, read, describe, change, delete, through the real SDK."""

from __future__ import annotations

import hashlib
import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.storage.fileshare import ContentSettings, NTFSAttributes, ShareClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE_BYTE = {"x-ms-type": "file", "x-ms-content-length": "1"}


def test_create_file_is_as_long_as_asked_and_reads_as_zeros(share: ShareClient, folder: Path) -> None:
    # Source: "Create File": creates the file of its full size, without content.
    file = share.get_file_client("f")
    made = file.create_file(1000)
    assert made["etag"].startswith('"0x')
    assert made["content_length"] == 0
    assert file.download_file().readall() == bytes(1000)
    assert (folder / "f").stat().st_size == 1000


def test_create_file_with_its_content_in_one_request(share: ShareClient) -> None:
    # Source: SDK, create_file(data=): the body of Create File, at most 4 MiB.
    file = share.get_file_client("f")
    made = file.create_file(5, data=b"hello")
    assert bytes(made["content_md5"]) == hashlib.md5(b"hello", usedforsecurity=False).digest()
    assert file.download_file().readall() == b"hello"


@pytest.mark.usefixtures("share")
def test_a_body_longer_than_the_file_is_refused(send: Callable[..., Any]) -> None:
    answer = send("PUT", "/models/f", {"x-ms-type": "file", "x-ms-content-length": "2"}, b"hello")
    assert (answer.status, answer.code) == (400, "InvalidHeaderValue")


@pytest.mark.usefixtures("share")
def test_a_body_of_more_than_four_mib_is_refused(send: Callable[..., Any], folder: Path) -> None:
    size = 4 * 1024 * 1024 + 1
    answer = send("PUT", "/models/f", {"x-ms-type": "file", "x-ms-content-length": str(size)}, bytes(size))
    assert (answer.status, answer.code, answer.text("MaxLimit")) == (413, "RequestBodyTooLarge", "4194304")
    assert not (folder / "f").exists()


def test_create_replaces_a_file_with_all_its_properties(share: ShareClient) -> None:
    # Source: "Create File": replaces an existing file.
    file = share.get_file_client("f")
    file.create_file(9, metadata={"m": "1"}, content_settings=ContentSettings(content_type="text/plain"))
    file.create_file(4)
    found = file.get_file_properties()
    assert (found.size, found.metadata, found.content_settings.content_type) == (
        4,
        {},
        "application/octet-stream",
    )


def test_a_directory_cannot_be_replaced_by_a_file(share: ShareClient) -> None:
    share.create_directory("d")
    with pytest.raises(ResourceExistsError) as caught:
        share.get_file_client("d").create_file(1)
    assert caught.value.error_code == "ResourceTypeMismatch"


def test_a_missing_parent_is_parent_not_found(share: ShareClient) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        share.get_file_client("a/f").create_file(1)
    assert caught.value.error_code == "ParentNotFound"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-ms-content-length": "1"}, "MissingRequiredHeader"),
        ({"x-ms-type": "file"}, "MissingRequiredHeader"),
        ({"x-ms-type": "blob", "x-ms-content-length": "1"}, "InvalidHeaderValue"),
        ({"x-ms-type": "file", "x-ms-content-length": "-1"}, "InvalidHeaderValue"),
        ({"x-ms-type": "file", "x-ms-content-length": str(4 * 1024**4 + 1)}, "InvalidHeaderValue"),
        ({**ONE_BYTE, "x-ms-content-md5": "short"}, "InvalidMd5"),
        ({**ONE_BYTE, "x-ms-meta-a-b": "1"}, "InvalidMetadata"),
        ({**ONE_BYTE, "x-ms-meta-": "1"}, "EmptyMetadataKey"),
        ({**ONE_BYTE, "x-ms-meta-a": "x" * 8000, "x-ms-meta-b": "x" * 300}, "MetadataTooLarge"),
        ({**ONE_BYTE, "x-ms-file-attributes": "Green"}, "InvalidHeaderValue"),
        ({**ONE_BYTE, "x-ms-file-creation-time": "soon"}, "InvalidHeaderValue"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("share")
def test_wrong_headers_are_refused(
    send: Callable[..., Any], folder: Path, headers: dict[str, str], code: str
) -> None:
    answer = send("PUT", "/models/f", headers)
    assert (answer.status, answer.code) == (400, code)
    assert not (folder / "f").exists()


def test_properties_are_what_was_set(share: ShareClient, folder: Path) -> None:
    # Source: "Get File Properties".
    file = share.get_file_client("f")
    md5 = bytearray(hashlib.md5(b"hello", usedforsecurity=False).digest())
    settings = ContentSettings(
        content_type="text/plain",
        content_encoding="br",
        content_language="sv",
        content_disposition="inline",
        cache_control="no-store",
        content_md5=md5,
    )
    file.upload_file(b"hello", content_settings=settings, metadata={"Adapter": "ticket triage"})
    found = file.get_file_properties()
    assert dict(found.content_settings) == dict(settings)
    assert (found.size, found.metadata, found.file_type) == (5, {"Adapter": "ticket triage"}, "File")
    assert (found.file_attributes, found.server_encrypted, found.parent_id) == ("Archive", True, "0")
    assert found.file_id == str((folder / "f").stat().st_ino)
    assert (found.lease.state, found.copy.id) == ("available", None)


def test_the_checksum_of_a_range_is_not_kept_as_the_files(share: ShareClient) -> None:
    # Source: SDK docstrings of upload_range and create_file: the MD5 is not stored with the file.
    file = share.get_file_client("f")
    file.upload_file(b"hello", validate_content=True)
    assert file.get_file_properties().content_settings.content_md5 is None


def test_times_are_set_on_the_disk_and_told_to_100_ns(share: ShareClient, folder: Path) -> None:
    file = share.get_file_client("f")
    written = datetime(2024, 2, 29, 12, 30, 59, 123456, tzinfo=UTC)
    file.create_file(1, file_last_write_time=written, file_creation_time="2020-01-01T00:00:00.1234567Z")
    assert (folder / "f").stat().st_mtime_ns == int(written.timestamp()) * 10**9 + 123456000
    headers: dict[str, str] = {}
    found = file.get_file_properties(
        raw_response_hook=lambda told: headers.update(told.http_response.headers)
    )
    assert found.last_write_time == written
    assert headers["x-ms-file-creation-time"] == "2020-01-01T00:00:00.1234567Z"


def test_download_an_empty_file(share: ShareClient) -> None:
    # Source: "Get File" with a range of an empty file: 416; the SDK then reads it without a range.
    file = share.get_file_client("f")
    file.create_file(0)
    assert file.download_file().readall() == b""


def test_download_ranges(share: ShareClient, random_bytes: Callable[[int], bytes]) -> None:
    # Source: "Get File": x-ms-range, Content-Range, 206.
    data = random_bytes(10_000)
    file = share.get_file_client("f")
    file.upload_file(data)
    assert file.download_file(offset=100, length=50).readall() == data[100:150]
    assert file.download_file(offset=9_990, length=1000).readall() == data[9_990:]
    assert file.download_file(offset=100, length=50, validate_content=True).readall() == data[100:150]


def test_download_in_parallel_chunks(share: ShareClient, random_bytes: Callable[[int], bytes]) -> None:
    data = random_bytes(40 * 1024 * 1024 + 17)
    file = share.get_file_client("f")
    file.upload_file(data, max_concurrency=4)
    stream = io.BytesIO()
    file.download_file(max_concurrency=4).readinto(stream)
    assert hashlib.sha256(stream.getvalue()).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("range_", ["bytes=5-", "bytes=5-9", "bytes=99-100"])
def test_a_range_beyond_the_end_is_416(send: Callable[..., Any], share: ShareClient, range_: str) -> None:
    share.get_file_client("f").create_file(5)
    answer = send("GET", "/models/f", {"x-ms-range": range_})
    assert (answer.status, answer.code) == (416, "InvalidRange")


def test_the_standard_range_header_and_an_open_range_work(
    send: Callable[..., Any], share: ShareClient
) -> None:
    share.get_file_client("f").upload_file(b"0123456789")
    answer = send("GET", "/models/f", {"Range": "bytes=7-"})
    assert (answer.status, answer.body, answer.headers["content-range"]) == (206, b"789", "bytes 7-9/10")
    whole = send("GET", "/models/f")
    assert (whole.status, whole.body, whole.headers["content-length"]) == (200, b"0123456789", "10")


@pytest.mark.parametrize("range_", ["bytes=9-5", "5-9", "bytes=-5", "bytes=a-b"])
def test_a_range_of_no_sense_is_refused(send: Callable[..., Any], share: ShareClient, range_: str) -> None:
    share.get_file_client("f").create_file(5)
    answer = send("GET", "/models/f", {"x-ms-range": range_})
    assert (answer.status, answer.code) == (400, "InvalidHeaderValue")


def test_the_md5_of_more_than_four_mib_is_refused(send: Callable[..., Any], share: ShareClient) -> None:
    share.get_file_client("f").create_file(5 * 1024 * 1024)
    asked = {"x-ms-range": "bytes=0-4194304", "x-ms-range-get-content-md5": "true"}
    assert send("GET", "/models/f", asked).code == "InvalidHeaderValue"


def test_set_http_headers_clears_the_ones_not_named(share: ShareClient) -> None:
    # Source: "Set File Properties": a content property that is not named is cleared.
    file = share.get_file_client("f")
    file.create_file(3, content_settings=ContentSettings(content_type="text/plain", content_language="sv"))
    file.set_http_headers(ContentSettings(content_type="text/html"))
    found = file.get_file_properties().content_settings
    assert (found.content_type, found.content_language) == ("text/html", None)


def test_resize(share: ShareClient) -> None:
    file = share.get_file_client("f")
    file.upload_file(b"0123456789")
    file.resize_file(4)
    assert file.download_file().readall() == b"0123"
    file.resize_file(6)
    assert file.download_file().readall() == b"0123\0\0"


def test_set_metadata_replaces_all_of_it_and_keeps_case(share: ShareClient) -> None:
    # Source: "Set File Metadata".
    file = share.get_file_client("f")
    file.create_file(3, metadata={"a": "1", "b": "2"})
    before = file.get_file_properties().etag
    file.set_file_metadata({"CamelCase": "x", "snake_case": "y"})
    found = file.get_file_properties()
    assert found.metadata == {"CamelCase": "x", "snake_case": "y"}
    assert found.etag != before


def test_delete_file(share: ShareClient, folder: Path) -> None:
    # Source: "Delete File": 202.
    file = share.get_file_client("f")
    file.create_file(3)
    file.delete_file()
    assert not (folder / "f").exists()
    with pytest.raises(ResourceNotFoundError, match=r"The specified resource does not exist\."):
        file.delete_file()


def test_existence_and_reading_of_a_missing_file(share: ShareClient) -> None:
    file = share.get_file_client("a/f")
    assert not file.exists()
    with pytest.raises(ResourceNotFoundError):
        file.download_file()
    share.create_directory("a")
    assert not file.exists()
    with pytest.raises(ResourceNotFoundError) as caught:
        file.download_file()
    assert caught.value.error_code == "ResourceNotFound"


def test_a_directory_is_no_file(share: ShareClient) -> None:
    share.create_directory("d")
    for act in (
        share.get_file_client("d").get_file_properties,
        share.get_file_client("d").download_file,
        share.get_file_client("d").delete_file,
    ):
        with pytest.raises(ResourceNotFoundError) as caught:
            act()
        assert caught.value.response.headers["x-ms-error-code"] == "ResourceNotFound"


def test_a_read_only_file_is_not_written_nor_deleted(share: ShareClient) -> None:
    # Source: "Azure Files error codes": ReadOnlyAttribute 409.
    file = share.get_file_client("f")
    file.create_file(3, file_attributes=NTFSAttributes(read_only=True))
    for act in (file.delete_file, lambda: file.upload_range(b"x", 0, 1), lambda: file.create_file(1)):
        with pytest.raises(HttpResponseError) as caught:
            act()
        assert (caught.value.status_code, caught.value.error_code) == (409, "ReadOnlyAttribute")
    file.set_http_headers(ContentSettings(), file_attributes="None")
    file.delete_file()


@pytest.mark.usefixtures("share")
def test_every_answer_carries_the_headers_of_the_service(send: Callable[..., Any]) -> None:
    answer = send("GET", "/models?restype=share", {"x-ms-client-request-id": "mine"})
    assert answer.headers["x-ms-version"] == "2026-04-06"
    assert answer.headers["x-ms-client-request-id"] == "mine"
    assert answer.headers["server"].startswith("Windows-Azure-File/1.0")
    assert {"x-ms-request-id", "date", "etag", "last-modified"} <= set(answer.headers)


@pytest.mark.usefixtures("share")
def test_any_version_is_accepted_but_rubbish_is_not(send: Callable[..., Any]) -> None:
    assert send("GET", "/models?restype=share", {"x-ms-version": "2031-01-01"}).status == 200
    answer = send("GET", "/models?restype=share", {"x-ms-version": "newest"})
    assert (answer.status, answer.code) == (400, "InvalidHeaderValue")

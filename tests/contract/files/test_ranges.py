"""Ranges of a file: write, clear, list, from a URL, through the real SDK."""

from __future__ import annotations

import base64
import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.storage.fileshare import FileSasPermissions, ShareClient, generate_file_sas
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1024 * 1024
UPDATE = {"x-ms-range": "bytes=0-4", "x-ms-write": "update"}
CLEAR = {"x-ms-range": "bytes=0-4", "x-ms-write": "clear"}


def test_a_range_is_written_where_it_belongs(share: ShareClient, folder: Path) -> None:
    # Source: "Put Range", x-ms-write: update. A replica sees the file as it is, half written too.
    file = share.get_file_client("f")
    file.create_file(12)
    answer = file.upload_range(b"hello", 4, 5)
    assert bytes(answer["content_md5"]) == hashlib.md5(b"hello", usedforsecurity=False).digest()
    assert (folder / "f").read_bytes() == b"\0\0\0\0hello\0\0\0"


def test_every_write_changes_the_etag(share: ShareClient) -> None:
    file = share.get_file_client("f")
    tags = [file.create_file(4)["etag"], *(file.upload_range(b"same", 0, 4)["etag"] for _ in range(5))]
    assert len(set(tags)) == len(tags)
    assert file.get_file_properties().etag == tags[-1]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(size=st.integers(1, 5000), data=st.data())
def test_ranges_in_any_order_give_the_same_file(
    share: ShareClient, folder: Path, size: int, data: st.DataObject
) -> None:
    content = bytes(number * 7 % 251 for number in range(size))
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=8))})
    ranges = data.draw(st.permutations(list(itertools.pairwise(cuts))))
    file = share.get_file_client("f")
    file.create_file(size)
    written = bytearray(size)
    for first, end in ranges:
        file.upload_range(content[first:end], first, end - first)
        written[first:end] = content[first:end]
        assert (folder / "f").read_bytes() == written
    assert file.download_file().readall() == content


def test_ranges_in_parallel_keep_the_properties(
    share: ShareClient, random_bytes: Callable[[int], bytes]
) -> None:
    data = random_bytes(8 * MIB)
    file = share.get_file_client("f")
    file.create_file(len(data), metadata={"kept": "1"})
    step = MIB // 4
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda at: file.upload_range(data[at : at + step], at, step), range(0, len(data), step))
        )
    assert file.download_file().readall() == data
    assert file.get_file_properties().metadata == {"kept": "1"}


def test_a_big_upload_is_exact_and_keeps_what_was_set(
    share: ShareClient, folder: Path, random_bytes: Callable[[int], bytes]
) -> None:
    # Source: SDK, upload_file: Create File, then ranges of 4 MiB, in parallel.
    data = random_bytes(33 * MIB + 5)
    share.get_file_client("f").upload_file(
        data, metadata={"m": "1"}, max_concurrency=4, validate_content=True
    )
    assert hashlib.sha256((folder / "f").read_bytes()).digest() == hashlib.sha256(data).digest()
    assert share.get_file_client("f").get_file_properties().metadata == {"m": "1"}


def test_clear_a_range(share: ShareClient) -> None:
    # Source: "Put Range", x-ms-write: clear.
    file = share.get_file_client("f")
    file.upload_file(b"x" * 20_000)
    file.clear_range(512, 8192)
    assert file.download_file().readall() == b"x" * 512 + bytes(8192) + b"x" * (20_000 - 512 - 8192)


def test_list_ranges_tells_what_holds_data(share: ShareClient) -> None:
    # Source: "List Ranges".
    file = share.get_file_client("f")
    file.create_file(4 * MIB)
    assert file.get_ranges() == []
    file.upload_range(b"a" * MIB, MIB, MIB)
    assert file.get_ranges() == [{"start": MIB, "end": 2 * MIB - 1}]
    assert file.get_ranges(offset=512, length=MIB - 512) == []
    assert file.get_ranges(offset=MIB + 10, length=100) == [{"start": MIB + 10, "end": MIB + 109}]
    file.clear_range(MIB, MIB)
    assert file.get_ranges() == []


def test_list_ranges_of_an_empty_file(share: ShareClient) -> None:
    file = share.get_file_client("f")
    file.create_file(0)
    assert file.get_ranges() == []


@pytest.mark.parametrize(("first", "length"), [(8, 5), (10, 1), (100, 2)])
def test_a_range_beyond_the_end_is_refused(share: ShareClient, first: int, length: int) -> None:
    # Source: "Put Range": it must lie within the file, else InvalidRange 416.
    file = share.get_file_client("f")
    file.create_file(10)
    with pytest.raises(HttpResponseError) as caught:
        file.upload_range(b"x" * length, first, length)
    assert (caught.value.status_code, caught.value.error_code) == (416, "InvalidRange")
    assert file.get_file_properties().size == 10


def test_a_range_of_a_missing_file_is_not_found(share: ShareClient) -> None:
    with pytest.raises(ResourceNotFoundError):
        share.get_file_client("f").upload_range(b"x", 0, 1)


def test_a_wrong_md5_writes_nothing(send: Callable[..., Any], share: ShareClient) -> None:
    # Source: "Put Range": Md5Mismatch 400.
    file = share.get_file_client("f")
    file.create_file(5)
    wrong = base64.b64encode(hashlib.md5(b"other", usedforsecurity=False).digest()).decode()
    headers = {**UPDATE, "Content-MD5": wrong}
    answer = send("PUT", "/models/f?comp=range", headers, b"hello")
    assert (answer.status, answer.code) == (400, "Md5Mismatch")
    assert file.download_file().readall() == bytes(5)


def test_more_than_four_mib_in_a_range_is_refused(send: Callable[..., Any], share: ShareClient) -> None:
    # Source: "Put Range": up to 4 MiB, else 413.
    share.get_file_client("f").create_file(5 * MIB)
    headers = {"x-ms-range": f"bytes=0-{4 * MIB}", "x-ms-write": "update"}
    answer = send("PUT", "/models/f?comp=range", headers, bytes(4 * MIB + 1))
    assert (answer.status, answer.code) == (413, "RequestBodyTooLarge")


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({"x-ms-write": "update"}, b"hello", "MissingRequiredHeader"),
        ({"x-ms-range": "bytes=0-4"}, b"hello", "MissingRequiredHeader"),
        ({"x-ms-range": "bytes=0-4", "x-ms-write": "append"}, b"hello", "InvalidHeaderValue"),
        ({"x-ms-range": "bytes=0-4", "x-ms-write": "update"}, b"hell", "InvalidHeaderValue"),
        ({"x-ms-range": "bytes=0-", "x-ms-write": "update"}, b"hello", "InvalidHeaderValue"),
        ({"x-ms-range": "bytes=0-4", "x-ms-write": "clear"}, b"hello", "InvalidHeaderValue"),
        ({**CLEAR, "Content-MD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, b"", "InvalidHeaderValue"),
        ({**UPDATE, "Content-MD5": "nonsense"}, b"hello", "InvalidMd5"),
        ({**UPDATE, "x-ms-file-last-write-time": "then"}, b"hello", "InvalidHeaderValue"),
    ],
)  # fmt: skip
def test_ranges_of_no_sense_are_refused(
    send: Callable[..., Any], share: ShareClient, headers: dict[str, str], body: bytes, code: str
) -> None:
    file = share.get_file_client("f")
    file.upload_file(b"xxxxx")
    answer = send("PUT", "/models/f?comp=range", headers, body)
    assert (answer.status, answer.code) == (400, code)
    assert file.download_file().readall() == b"xxxxx"


@pytest.mark.usefixtures("folder")
def test_the_time_of_writing_can_be_kept(share: ShareClient) -> None:
    # Source: "Put Range", x-ms-file-last-write-time: preserve.
    file = share.get_file_client("f")
    file.create_file(5, file_last_write_time=datetime(2024, 1, 1, tzinfo=UTC))
    before = file.get_file_properties()
    file.upload_range(b"hello", 0, 5, file_last_write_mode="preserve")
    after = file.get_file_properties()
    assert after.last_write_time == before.last_write_time
    assert after.etag != before.etag
    file.upload_range(b"hello", 0, 5)
    assert file.get_file_properties().last_write_time > after.last_write_time


def sas_url(server: Any, account: str, path: list[str], *, permission: str = "r") -> str:
    token = generate_file_sas(
        account,
        "models",
        path,
        server.accounts[account][0],
        FileSasPermissions.from_string(permission),
        datetime.now(UTC) + timedelta(minutes=5),
    )
    return f"https://{server.host}/{account}/models/{'/'.join(path)}?{token}"


def test_a_range_from_a_url(share: ShareClient, server: Any, account: str) -> None:
    # Source: "Put Range From URL": 201; the source carries a SAS.
    share.get_file_client("source").upload_file(b"0123456789")
    file = share.get_file_client("f")
    file.create_file(6)
    file.upload_range_from_url(sas_url(server, account, ["source"]), 1, 4, 3)
    assert file.download_file().readall() == b"\0" + b"3456" + b"\0"


def test_a_range_from_a_url_without_a_sas_that_reads_is_refused(
    share: ShareClient, server: Any, account: str, endpoint: str
) -> None:
    share.get_file_client("source").upload_file(b"0123456789")
    file = share.get_file_client("f")
    file.create_file(6)
    for url, status in (
        (f"{endpoint}/models/source", 401),
        (sas_url(server, account, ["source"], permission="w"), 403),
        (sas_url(server, account, ["other"]).replace("other", "source"), 403),
    ):
        with pytest.raises(HttpResponseError) as caught:
            file.upload_range_from_url(url, 0, 4, 0)
        assert caught.value.status_code == status
        assert caught.value.response.headers["x-ms-error-code"] == "CannotVerifyCopySource"


def test_a_range_beyond_the_end_of_its_source_is_refused(
    share: ShareClient, server: Any, account: str
) -> None:
    share.get_file_client("source").upload_file(b"0123")
    file = share.get_file_client("f")
    file.create_file(10)
    with pytest.raises(HttpResponseError) as caught:
        file.upload_range_from_url(sas_url(server, account, ["source"]), 0, 5, 0)
    assert (caught.value.status_code, caught.value.error_code) == (416, "InvalidRange")

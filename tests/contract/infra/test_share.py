"""The pipeline's share against the local cloud's Azure Files, over TLS, against the protocol's contract."""

from __future__ import annotations

import base64
import hashlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path as PathType
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import web

from infra.errors import RemoteError
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.share.azure import AzureShare, _whole_ranges, connect, parse_connection_string
from infra.share.protocol import RANGE_BYTES, ShareEntry, Upload
from tests.doubles.file_server import KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from infra.clock import ManualClock
    from infra.share.errors import ShareAddress
    from tests.doubles.file_server import FileServer


def refuse(status: int, code: str, times: int = 1) -> Callable[[web.Request], web.Response | None]:
    """Answer the next requests with an error, as the service would."""
    left = iter(range(times))
    body = (
        f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>because</Message></Error>'
    )

    def answer(_request: web.Request) -> web.Response | None:
        if next(left, None) is None:
            return None
        headers = {"x-ms-error-code": code}
        return web.Response(status=status, text=body, headers=headers, content_type="application/xml")

    return answer


def test_what_is_not_there_reads_as_none_and_lists_as_nothing(share: AzureShare) -> None:
    assert share.read("CURRENT") is None
    assert share.read("no/such/file") is None
    assert share.entries("no/such") == ()
    assert not share.delete("no/such/file")
    share.delete_tree("no/such")


def test_the_start_of_a_file_is_read(share: AzureShare) -> None:
    share.write("a/b", b"0123456789")
    assert share.read_start("a/b", 4) == b"0123"
    assert share.read_start("a/b", 100) == b"0123456789"
    assert share.read_start("no/such", 4) is None


def test_what_is_written_is_there_for_a_replica(share: AzureShare, folder: Path) -> None:
    share.write("CURRENT", b"one\n")
    share.write("a/b/c.json", b"")
    assert share.read("CURRENT") == b"one\n"
    assert share.read("a/b/c.json") == b""
    assert (folder / "CURRENT").read_bytes() == b"one\n"
    assert (folder / "a" / "b" / "c.json").read_bytes() == b""


def test_a_write_replaces_by_rename_and_leaves_no_draft(share: AzureShare, folder: Path) -> None:
    share.write("CURRENT", b"one\n")
    before = (folder / "CURRENT").stat().st_ino
    share.write("CURRENT", b"two\n")
    assert (folder / "CURRENT").read_bytes() == b"two\n"
    assert (folder / "CURRENT").stat().st_ino != before
    assert [entry.name for entry in share.entries("")] == ["CURRENT"]


def test_of_many_who_create_a_file_exactly_one_does(share: AzureShare) -> None:
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda number: share.create(".lock", f"{number}".encode()), range(6)))
    assert sum(won) == 1
    assert share.read(".lock") == f"{won.index(True)}".encode()
    assert [entry.name for entry in share.entries("")] == [".lock"]


def test_the_deploy_lock_works_on_it(share: AzureShare, clock: ManualClock) -> None:
    ida = DeployLock(share, clock, Holder("ida", "laptop", 1, 1.0), print, lambda _holder: True)
    bo = replace(ida, holder=Holder("bo", "desktop", 2, 1.0))
    with ida.hold("deploy") as held:
        with pytest.raises(RemoteError, match="ida on laptop"), bo.hold("deploy"):
            pass
        clock.sleep(300)
        held.renew()
        clock.sleep(400)
        with pytest.raises(RemoteError, match="ida on laptop"), bo.hold("deploy"):
            pass
        clock.sleep(601)
        with bo.hold("deploy"), pytest.raises(RemoteError, match="was taken"):
            held.check()
    assert [entry.name for entry in share.entries("")] == ["audit"]


def test_files_of_all_sizes_travel_whole_and_are_counted(
    share: AzureShare, folder: Path, tmp_path: Path
) -> None:
    contents = {
        "small.txt": b"x",
        "empty.txt": b"",
        "exact.bin": b"e" * RANGE_BYTES,
        "large.bin": bytes(range(256)) * (RANGE_BYTES // 100),
    }
    uploads = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        uploads.append(Upload(f"deep/{name}", tmp_path / name))
    counted: list[int] = []
    share.upload(uploads, counted.append)
    assert {path.name: path.read_bytes() for path in (folder / "deep").iterdir()} == contents
    assert sum(counted) == sum(map(len, contents.values()))
    assert max(counted) == RANGE_BYTES


@pytest.fixture
def interrupted(share: AzureShare, tmp_path: Path) -> Upload:
    """A file of five ranges, whose upload was interrupted after two."""
    content = random.Random(5).randbytes(4 * RANGE_BYTES + 77)  # noqa: S311 - any bytes
    (tmp_path / "model.bin").write_bytes(content)
    item = Upload("m/model.bin", tmp_path / "model.bin", hashlib.sha256(content).hexdigest())
    sent: list[int] = []

    def stop(size_bytes: int) -> None:
        sent.append(size_bytes)
        if len(sent) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infra.share.azure._THREADS", 1)
        with pytest.raises(KeyboardInterrupt):
            share.upload([item], stop)
    for thread in threading.enumerate():
        if thread.name.startswith("share-"):
            thread.join()  # the range that was under way, for which an interrupted process does not wait
    return item


def ranges_sent(server: FileServer) -> int:
    return sum("comp=range" in each and each.startswith("PUT") for each in server.requests)


def test_an_interrupted_upload_goes_on_where_it_stopped(
    share: AzureShare, server: FileServer, folder: Path, interrupted: Upload
) -> None:
    server.requests.clear()
    counted: list[int] = []
    resumed_bytes = share.upload([interrupted], counted.append)
    assert resumed_bytes >= 2 * RANGE_BYTES
    assert (
        ranges_sent(server) == (interrupted.size_bytes - resumed_bytes + RANGE_BYTES - 1) // RANGE_BYTES <= 3
    )
    assert sum(counted) == interrupted.size_bytes
    assert isinstance(interrupted.source, PathType)
    assert (folder / "m" / "model.bin").read_bytes() == interrupted.source.read_bytes()
    server.requests.clear()
    assert share.upload([interrupted], counted.append) == interrupted.size_bytes
    assert ranges_sent(server) == 0


@pytest.mark.parametrize("kind", ["other content", "another size", "no digest"])
def test_other_content_is_sent_from_its_beginning(
    share: AzureShare, folder: Path, interrupted: Upload, kind: str
) -> None:
    assert isinstance(interrupted.source, PathType)
    content = interrupted.source.read_bytes()
    other = content[::-1] if kind == "other content" else content[:-1] if kind == "another size" else content
    interrupted.source.write_bytes(other)
    digest = "" if kind == "no digest" else hashlib.sha256(other).hexdigest()
    if kind == "another size":
        digest = interrupted.sha256
    assert share.upload([replace(interrupted, sha256=digest)], lambda _size: None) == 0
    assert (folder / "m" / "model.bin").read_bytes() == other


def test_every_range_travels_with_a_checksum(share: AzureShare, server: FileServer) -> None:
    checked: list[bool] = []

    def look(request: web.Request) -> web.Response | None:
        if request.method == "PUT" and int(request.headers.get("Content-Length", "0")):
            checked.append("Content-MD5" in request.headers)
        return None

    server.instead.append(look)
    share.upload([Upload("f", b"x" * (RANGE_BYTES + 1)), Upload("g", b"y")], lambda _size: None)
    assert checked == [True] * 3


@pytest.mark.parametrize(
    ("pieces", "whole"),
    [
        ([], set()),
        ([(0, RANGE_BYTES)], {0}),
        ([(0, RANGE_BYTES - 512)], set()),
        ([(512, RANGE_BYTES), (0, 512)], {0}),
        ([(100, 2 * RANGE_BYTES)], {RANGE_BYTES}),
        ([(RANGE_BYTES, 2 * RANGE_BYTES + 10)], {RANGE_BYTES, 2 * RANGE_BYTES}),
        ([(0, RANGE_BYTES), (RANGE_BYTES, 2 * RANGE_BYTES + 10)], {0, RANGE_BYTES, 2 * RANGE_BYTES}),
    ],
)
def test_only_ranges_that_are_whole_count(pieces: list[tuple[int, int]], whole: set[int]) -> None:
    size_bytes = 2 * RANGE_BYTES + 10
    found = _whole_ranges(pieces, size_bytes)
    assert found.offsets == whole
    assert found.resumed_bytes == sum(min(RANGE_BYTES, size_bytes - offset) for offset in whole)


def test_an_upload_replaces_a_longer_file(share: AzureShare) -> None:
    share.upload([Upload("f", b"a long content")], lambda _size: None)
    share.upload([Upload("f", b"short")], lambda _size: None)
    assert share.read("f") == b"short"


def test_entries_tell_sizes_folders_and_times(share: AzureShare) -> None:
    share.write("a/file", b"12345")
    share.write("a/folder/x", b"")
    listed, inner = share.entries("a")
    assert (listed.name, listed.is_folder, listed.size_bytes) == ("file", False, 5)
    assert abs(listed.modified_s - datetime.now(UTC).timestamp()) < 300
    assert inner == ShareEntry("folder", is_folder=True)


def test_names_with_blanks_and_other_letters(share: AzureShare) -> None:
    share.write("ö ä/ü #1%.txt", b"x")
    assert share.read("ö ä/ü #1%.txt") == b"x"
    assert [entry.name for entry in share.entries("ö ä")] == ["ü #1%.txt"]
    assert share.copy([("ö ä/ü #1%.txt", "copy ö/y#.txt")]) == ()
    assert share.read("copy ö/y#.txt") == b"x"


def test_the_service_copies_and_missing_sources_are_told(share: AzureShare, server: FileServer) -> None:
    share.write("releases/1/inference/a.py", b"print()")
    server.requests.clear()
    pairs = [
        ("releases/1/inference/a.py", "releases/2/inference/a.py"),
        ("releases/1/gone", "releases/2/gone"),
    ]
    assert share.copy(pairs) == ("releases/1/gone",)
    assert share.read("releases/2/inference/a.py") == b"print()"
    assert not any("comp=range" in request for request in server.requests)


def test_a_move_does_not_replace_unless_told(share: AzureShare) -> None:
    share.write("a", b"a")
    share.write("b", b"b")
    assert not share.move("a", "b", replace=False)
    assert not share.move("gone", "c", replace=True)
    assert share.move("a", "b", replace=True)
    assert share.read("b") == b"a"
    assert share.move("b", "new/place", replace=False)
    assert share.read("b") is None


def test_a_tree_is_deleted_with_all_that_is_in_it_and_can_be_made_anew(share: AzureShare) -> None:
    for name in ("a", "b/c", "b/d/e"):
        share.write(f"tree/{name}", b"x")
    share.write("treetop", b"x")
    share.delete_tree("tree")
    assert [entry.name for entry in share.entries("")] == ["treetop"]
    share.write("tree/b/c", b"again")
    assert share.read("tree/b/c") == b"again"


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "ServerBusy"), (500, "InternalError"), (409, "SharingViolation"), (429, "Busy")],
)
def test_what_passes_is_tried_again_with_pauses_that_grow(
    share: AzureShare, server: FileServer, clock: ManualClock, status: int, code: str
) -> None:
    share.write("CURRENT", b"one")
    server.instead.append(refuse(status, code, times=3))
    assert share.read("CURRENT") == b"one"
    assert clock.elapsed_s() == pytest.approx(0.5 + 1 + 2)


def test_what_does_not_pass_ends_after_several_tries(share: AzureShare, server: FileServer) -> None:
    server.instead.append(refuse(503, "ServerBusy", times=100))
    with pytest.raises(RemoteError) as caught:
        share.read("CURRENT")
    assert "cannot read CURRENT on share 'share' of" in caught.value.message
    assert "ServerBusy: because" in caught.value.message
    assert len(server.requests) == 6


def test_a_rename_whose_answer_was_lost_is_no_failure(share: AzureShare, server: FileServer) -> None:
    """The service renames, its answer is lost, and the second try finds no draft."""

    def lose(request: web.Request) -> web.Response | None:
        if "comp=rename" not in request.path_qs:
            return None
        server.instead.remove(lose)
        target = server.service.share_path(request.path.split("/")[1], "share")
        draft = next(path for path in target.iterdir() if path.name.endswith(".tmp"))
        draft.rename(target / "CURRENT")
        return refuse(500, "InternalError")(request)

    server.instead.append(lose)
    share.write("CURRENT", b"two")
    assert share.read("CURRENT") == b"two"


def test_a_wrong_key_says_what_it_may_be(server: FileServer, place: ShareAddress, clock: ManualClock) -> None:
    with (
        connect(place, base64.b64encode(b"another key").decode(), server.ca, clock) as share,
        pytest.raises(RemoteError) as caught,
    ):
        share.read("CURRENT")
    assert "AuthenticationFailed" in caught.value.message
    assert "rotated" in str(caught.value.hint)
    assert clock.elapsed_s() == 0


def test_a_missing_share_is_an_error_also_where_a_missing_file_is_none(
    server: FileServer, place: ShareAddress, clock: ManualClock
) -> None:
    with connect(replace(place, share="nosuch"), KEY, server.ca, clock) as share:
        for ask in (share.read, share.entries, share.delete_tree):
            with pytest.raises(RemoteError, match="ShareNotFound") as caught:
                ask("CURRENT")
            assert "invoke provision" in str(caught.value.hint)


def test_a_certificate_that_is_not_trusted_is_not_tried_again(
    place: ShareAddress, clock: ManualClock, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with (
        connect(place, KEY, tmp_path / "other.pem", clock) as share,
        pytest.raises(RemoteError, match="cannot be reached") as caught,
    ):
        share.read("CURRENT")
    assert "certificate is not trusted" in str(caught.value.hint)
    assert clock.elapsed_s() == 0


def test_a_service_that_is_not_there_says_so_after_several_tries(
    server: FileServer, place: ShareAddress, clock: ManualClock
) -> None:
    silent = replace(place, endpoint=f"https://localhost:1/{place.account}")
    with (
        connect(silent, KEY, server.ca, clock) as share,
        pytest.raises(RemoteError, match=r"https://localhost:1/.* cannot be reached"),
    ):
        share.read("CURRENT")
    assert clock.elapsed_s() == pytest.approx(15.5)


def test_a_connection_string_is_taken_apart() -> None:
    text = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=aGk=;FileEndpoint=https://localhost:1/a"
    assert parse_connection_string(text) == {
        "DefaultEndpointsProtocol": "https",
        "AccountName": "a",
        "AccountKey": "aGk=",
        "FileEndpoint": "https://localhost:1/a",
    }


def test_a_small_file_takes_one_request_where_its_folder_is_there(
    share: AzureShare, server: FileServer, place: ShareAddress, clock: ManualClock
) -> None:
    share.put("a/b/c", b"1")
    with connect(place, KEY, server.ca, clock) as other:
        server.requests.clear()
        other.put("a/b/d", b"2")
        assert len(server.requests) == 1
    share.delete_tree("a")
    share.put("a/b/c", b"3")
    assert share.read("a/b/c") == b"3"


def test_a_rename_whose_answer_was_lost_is_known_by_its_target(share: AzureShare, server: FileServer) -> None:
    share.put("draft", b"two")

    def lose(request: web.Request) -> web.Response | None:
        if "comp=rename" not in request.path_qs:
            return None
        server.instead.remove(lose)
        folder = server.service.share_path(request.path.split("/")[1], "share")
        (folder / "draft").rename(folder / "whole")
        return refuse(500, "InternalError")(request)

    server.instead.append(lose)
    assert share.move("draft", "whole", replace=True)
    assert share.read("whole") == b"two"
    server.instead.append(refuse(500, "InternalError"))
    assert not share.move("draft", "nowhere", replace=True)


def test_of_two_renames_one_wins_although_the_service_is_busy(share: AzureShare, server: FileServer) -> None:
    share.put("ours", b"ours")
    share.put("theirs", b"theirs")
    server.instead.append(refuse(503, "ServerBusy"))
    assert share.move("theirs", "target", replace=False)
    server.instead.append(refuse(503, "ServerBusy"))
    assert not share.move("ours", "target", replace=False)
    assert share.read("target") == b"theirs"

"""Names: what may be one, when two are the same, and that none leads out of the share."""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.fileshare import ShareClient, ShareServiceClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localcloud.files.errors import StorageError
from localcloud.files.names import check_path, fold, fold_path, split_url_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORBIDDEN = '"\\/:|<>*?'
CHARACTERS = st.characters(
    exclude_characters=FORBIDDEN + "\ufffe\uffff", exclude_categories=["Cs"], min_codepoint=0x20
)
RESERVED = {"PRN", "AUX", "NUL", "CON", "CLOCK$"} | {f"{d}{n}" for d in ("LPT", "COM") for n in range(1, 10)}
NAMES = st.text(CHARACTERS, min_size=1, max_size=40).filter(
    lambda name: not name.endswith(".") and name.upper() not in RESERVED and len(name.encode()) <= 255
)


def code_of(act: Callable[[], Any]) -> str:
    with pytest.raises(StorageError) as caught:
        act()
    assert caught.value.status == 400
    return caught.value.code


@given(st.lists(NAMES, max_size=8))
def test_a_path_of_good_names_is_kept_as_it_is(names: list[str]) -> None:
    path = tuple(names)
    assert check_path(path, keep_trailing_dots=False) == path


@given(
    NAMES, st.sampled_from([*FORBIDDEN, "\0", "\x1f", "\n", "\ufffe", "\uffff", "\ud800"]), st.integers(0, 40)
)
def test_a_forbidden_character_anywhere_is_refused(name: str, character: str, at: int) -> None:
    # Source: "Naming and referencing shares, directories, files, and metadata".
    wrong = name[:at] + character + name[at:]
    assert code_of(lambda: check_path((wrong,), keep_trailing_dots=True)) == "InvalidResourceName"


@pytest.mark.parametrize("name", [".", "..", "con", "NUL", "lpt1", "Com9", "CLOCK$", "aux.", "prn..."])
def test_reserved_names_are_refused(name: str) -> None:
    assert code_of(lambda: check_path((name,), keep_trailing_dots=False)) == "InvalidResourceName"


@pytest.mark.parametrize("name", ["...", "com10", "lpt0", "con.txt", "a..b", ".lock", " a"])
def test_names_that_only_look_reserved_are_allowed(name: str) -> None:
    assert check_path((name,), keep_trailing_dots=True) == (name,)


def test_trailing_dots_are_dropped_unless_asked_for() -> None:
    # Source: "Naming and referencing…", x-ms-allow-trailing-dot.
    assert check_path(("a.", "b..c.."), keep_trailing_dots=False) == ("a", "b..c")
    assert check_path(("a.", "b..c.."), keep_trailing_dots=True) == ("a.", "b..c..")


def test_lengths_and_depth_are_limited() -> None:
    assert check_path(("a" * 255,), keep_trailing_dots=False)
    assert check_path(("a",) * 250, keep_trailing_dots=False)
    long_name = code_of(lambda: check_path(("a" * 256,), keep_trailing_dots=False))
    wide_name = code_of(lambda: check_path(("\U0001f600" * 128,), keep_trailing_dots=False))
    long_path = code_of(lambda: check_path(("a" * 250,) * 9, keep_trailing_dots=False))
    deep_path = code_of(lambda: check_path(("a",) * 251, keep_trailing_dots=False))
    assert {long_name, wide_name, long_path, deep_path} == {"InvalidFileOrDirectoryPathName"}


@given(NAMES)
def test_folding_keeps_length_and_is_idempotent(name: str) -> None:
    assert len(fold(name)) == len(name)
    assert fold(fold(name)) == fold(name)


def test_folding_is_that_of_single_characters() -> None:
    assert fold_path(("straße", "ÅÖ", "ﬁ")) == fold_path(("STRAßE", "åö", "ﬁ"))
    assert fold("ß") != fold("ss")


@given(st.lists(NAMES.filter(lambda name: "%" not in name), min_size=1, max_size=5))
def test_encoded_and_plain_slashes_separate_alike(names: list[str]) -> None:
    assert split_url_path("/" + "%2F".join(map(quote, names))) == tuple(names)
    assert split_url_path("/" + "/".join(map(quote, names)) + "/") == tuple(names)


def test_a_path_that_is_not_utf8_is_refused() -> None:
    assert code_of(lambda: split_url_path("/a/%ff")) == "InvalidUri"


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(name=NAMES.filter(lambda name: name == name.strip()))
def test_any_good_name_goes_there_and_back(share: ShareClient, folder: Path, name: str) -> None:
    file = share.get_file_client(name)
    file.create_file(3, data=b"abc")
    try:
        assert [path.name for path in folder.iterdir()] == [name]
        assert [item.name for item in share.list_directories_and_files()] == [name]
        assert file.download_file().readall() == b"abc"
    finally:
        file.delete_file()


def test_names_are_kept_but_compared_without_case(share: ShareClient, folder: Path) -> None:
    share.create_directory("Models")
    share.get_directory_client("mODELS").get_file_client("README.md").upload_file(b"one")
    share.get_file_client("models/readme.MD").upload_file(b"second")
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*")] == [
        "Models",
        "Models/README.md",
    ]
    assert share.get_file_client("MODELS/README.MD").download_file().readall() == b"second"
    share.get_file_client("MODELS/readme.md").delete_file()
    share.get_directory_client("models").delete_directory()
    assert list(folder.iterdir()) == []


def test_the_exact_name_wins_where_a_replica_made_two(share: ShareClient, folder: Path) -> None:
    (folder / "a").write_bytes(b"small")
    (folder / "A").write_bytes(b"big")
    assert share.get_file_client("a").download_file().readall() == b"small"
    assert share.get_file_client("A").download_file().readall() == b"big"
    assert sorted(item.name for item in share.list_directories_and_files()) == ["A", "a"]


def test_trailing_dots_over_the_wire(
    server: Any, endpoint: str, account: str, share: ShareClient, folder: Path
) -> None:
    share.get_file_client("a.").create_file(0)
    with ShareServiceClient(
        endpoint,
        credential=server.accounts[account][0],
        connection_verify=str(server.ca),
        allow_trailing_dot=True,
        allow_source_trailing_dot=True,
    ) as dotted:
        own = dotted.get_share_client("models")
        own.get_file_client("a.").upload_file(b"dot")
        own.get_file_client("b.").start_copy_from_url(own.get_file_client("a.").url)
        own.get_file_client("b.").rename_file("c.")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "a.", "c."]


@pytest.mark.parametrize("name", ["a:b", "a|b", "NUL", "a*", 'a"b', "a\\b", "a<b>c?"])
def test_bad_names_are_refused_over_the_wire(share: ShareClient, folder: Path, name: str) -> None:
    attempts: tuple[Callable[[], Any], ...] = (
        lambda: share.get_file_client(name).create_file(1),
        lambda: share.get_directory_client(name).create_directory(),
        lambda: share.get_file_client(name).get_file_properties(),
    )
    for act in attempts:
        with pytest.raises(HttpResponseError) as caught:
            act()
        assert caught.value.status_code == 400
        assert caught.value.response.headers["x-ms-error-code"] == "InvalidResourceName"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    [
        "/models/../../secret",
        "/models/%2e%2e/%2e%2e/secret",
        "/models/..%2f..%2fsecret",
        "/models/a/../../../secret",
        "/models/..",
        "/models/.",
        "/models/%2e%2e.",
        "/models/a%00b",
    ],
)
@pytest.mark.usefixtures("share")
def test_no_path_leads_out(send: Callable[..., Any], server: Any, path: str) -> None:
    (server.root.parent / "secret").write_text("secret")
    for method, headers in (
        ("GET", {}),
        ("PUT", {"x-ms-type": "file", "x-ms-content-length": "0"}),
        ("DELETE", {}),
    ):
        answer = send(method, path, headers)
        assert (answer.status, answer.code) == (400, "InvalidResourceName")
    assert (server.root.parent / "secret").read_text() == "secret"


@pytest.mark.parametrize("share_name", ["..", ".properties", "%2e%2e", ".deleted"])
@pytest.mark.usefixtures("share")
def test_no_share_name_leads_out(send: Callable[..., Any], share_name: str) -> None:
    for path in (
        f"/{share_name}/share.json",
        f"/{share_name}?restype=share",
        f"/{share_name}?restype=directory&comp=list",
    ):
        answer = send("GET", path)
        assert answer.status == 400
        assert answer.code in {"InvalidResourceName", "OutOfRangeInput"}


def test_the_records_of_properties_are_no_account(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(server.accounts, ".properties", ("a2V5",))
    context = ssl.create_default_context(cafile=str(server.ca))
    connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=20)
    try:
        connection.request("GET", "/.properties?comp=list")
        assert connection.getresponse().status == 404
    finally:
        connection.close()


def test_a_name_too_long_for_the_disk_is_refused(share: ShareClient) -> None:
    with pytest.raises(HttpResponseError) as caught:
        share.get_file_client("ö" * 200).create_file(1)
    assert (caught.value.status_code, caught.value.error_code) == (400, "InvalidFileOrDirectoryPathName")

"""What is not emulated is rejected with a clear code; nothing is silently ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from azure.storage.fileshare import ShareClient

NEW_FILE = {"x-ms-type": "file", "x-ms-content-length": "0"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/?restype=service&comp=properties"),
        ("PUT", "/?restype=service&comp=properties"),
        ("POST", "/?restype=service&comp=userdelegationkey"),
        ("PUT", "/models?restype=share&comp=snapshot"),
        ("GET", "/models?restype=share&comp=acl"),
        ("PUT", "/models?restype=share&comp=acl"),
        ("PUT", "/models?restype=share&comp=filepermission"),
        ("GET", "/models?restype=share&comp=filepermission"),
        ("PUT", "/models?restype=share&comp=undelete"),
        ("GET", "/models?restype=share&sharesnapshot=2026-01-01T00:00:00.0000000Z"),
        ("GET", "/models/f?sharesnapshot=2026-01-01T00:00:00.0000000Z"),
        ("PUT", "/models/f?restype=symboliclink"),
        ("GET", "/models/f?restype=symboliclink"),
        ("PUT", "/models/f?restype=hardlink"),
    ],
)
@pytest.mark.usefixtures("share")
def test_operations_that_are_not_emulated_are_501(send: Callable[..., Any], method: str, path: str) -> None:
    answer = send(method, path)
    assert (answer.status, answer.code) == (501, "NotImplementedByLocalCloud")
    assert answer.text("Message").startswith("The local cloud does not emulate ")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/?comp=nonsense", 400, "InvalidQueryParameterValue"),
        ("GET", "/models?restype=container", 400, "InvalidQueryParameterValue"),
        ("GET", "/", 400, "InvalidUri"),
        ("PUT", "/models/f", 400, "MissingRequiredHeader"),
        ("PUT", "/models/f?comp=block", 400, "InvalidQueryParameterValue"),
        ("POST", "/models/f", 405, "UnsupportedHttpVerb"),
        ("PATCH", "/models?restype=share", 405, "UnsupportedHttpVerb"),
        ("OPTIONS", "/models?restype=share", 405, "UnsupportedHttpVerb"),
        ("DELETE", "/models/f?comp=range", 405, "UnsupportedHttpVerb"),
        ("GET", "/models?restype=share&colour=green", 400, "UnsupportedQueryParameter"),
        ("GET", "/models/f?prefix=a", 400, "UnsupportedQueryParameter"),
        ("GET", "/models?restype=share&timeout=long", 400, "InvalidQueryParameterValue"),
        ("GET", "/models?restype=share&RESTYPE=share", 400, "InvalidQueryParameterValue"),
    ],
)
@pytest.mark.usefixtures("share")
def test_operations_that_azure_does_not_have_are_rejected(
    *, send: Callable[..., Any], method: str, path: str, status: int, code: str
) -> None:
    answer = send(method, path)
    assert (answer.status, answer.code) == (status, code)


@pytest.mark.parametrize(
    ("header", "value", "status", "code"),
    [
        ("x-ms-file-permission", "O:SYG:SYD:(A;;FA;;;SY)", 501, "NotImplementedByLocalCloud"),
        ("x-ms-file-permission-key", "7*7", 501, "NotImplementedByLocalCloud"),
        ("x-ms-file-permission-format", "binary", 501, "NotImplementedByLocalCloud"),
        ("x-ms-mode", "0644", 501, "NotImplementedByLocalCloud"),
        ("x-ms-owner", "0", 501, "NotImplementedByLocalCloud"),
        ("x-ms-structured-body", "XSM/1.0", 501, "NotImplementedByLocalCloud"),
        ("x-ms-file-property-semantics", "Restore", 501, "NotImplementedByLocalCloud"),
        ("x-ms-blob-type", "BlockBlob", 400, "UnsupportedHeader"),
        ("x-ms-colour", "green", 400, "UnsupportedHeader"),
        ("Content-Encoding", "gzip", 400, "UnsupportedHeader"),
        ("If-Match", "*", 400, "ConditionHeadersNotSupported"),
        ("If-None-Match", "*", 400, "ConditionHeadersNotSupported"),
        ("If-Modified-Since", "Thu, 01 Jan 2026 00:00:00 GMT", 400, "ConditionHeadersNotSupported"),
    ],
)
@pytest.mark.usefixtures("share")
def test_headers_without_their_meaning_are_refused(  # noqa: PLR0913 - fixtures and one example
    *, send: Callable[..., Any], folder: Path, header: str, value: str, status: int, code: str
) -> None:
    answer = send("PUT", "/models/f", {**NEW_FILE, header: value})
    assert (answer.status, answer.code) == (status, code)
    assert not (folder / "f").exists()


def test_nfs_and_provisioned_shares_are_501(send: Callable[..., Any]) -> None:
    for header, value in (("x-ms-enabled-protocols", "NFS"), ("x-ms-share-provisioned-iops", "500")):
        answer = send("PUT", "/models?restype=share", {header: value})
        assert (answer.status, answer.code) == (501, "NotImplementedByLocalCloud")


@pytest.mark.usefixtures("share")
def test_a_header_of_another_operation_is_refused(send: Callable[..., Any]) -> None:
    answer = send("DELETE", "/models/f", {"x-ms-write": "update"})
    assert (answer.status, answer.code, answer.text("HeaderName")) == (400, "UnsupportedHeader", "x-ms-write")


@pytest.mark.usefixtures("share")
def test_an_unexpected_body_is_rejected(send: Callable[..., Any]) -> None:
    answer = send("PUT", "/models?restype=share&comp=metadata", body=b"surprise")
    assert (answer.status, answer.code, answer.text("MaxLimit")) == (413, "RequestBodyTooLarge", "0")


def test_a_body_without_its_length_is_refused(send: Callable[..., Any], share: ShareClient) -> None:
    share.get_file_client("f").create_file(5)
    headers = {
        "x-ms-range": "bytes=0-4",
        "x-ms-write": "update",
        "Transfer-Encoding": "chunked",
        "Content-Length": "",
    }
    answer = send("PUT", "/models/f?comp=range", headers)
    assert answer.status in {400, 411}
    assert share.get_file_client("f").download_file().readall() == bytes(5)


def test_the_metadata_quirk_of_the_sdk_is_ignored_but_signed(
    send: Callable[..., Any], share: ShareClient
) -> None:
    # Source: measured: the SDK sends x-ms-meta with all of it, beside one x-ms-meta- header for each.
    answer = send("PUT", "/models/f", {**NEW_FILE, "x-ms-meta": "{'m': '1'}", "x-ms-meta-m": "1"})
    assert answer.status == 201
    assert share.get_file_client("f").get_file_properties().metadata == {"m": "1"}

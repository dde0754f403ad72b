"""SharedKey: the signature against an independent computation, and what the service rejects."""

from __future__ import annotations

import base64
import functools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.storage.fileshare import ShareServiceClient
from azure.storage.fileshare._shared.authentication import compare as sdk_order
from hypothesis import given
from hypothesis import strategies as st

from localcloud.files.shared_key import SignedRequest, header_order, is_signed_by, sign, string_to_sign

if TYPE_CHECKING:
    from collections.abc import Callable

PUT_RANGE = SignedRequest(
    "PUT",
    "/acct/share/a%20b/%C3%B6~.txt",
    (("comp", "range"), ("timeout", "3%30")),
    (
        ("Content-Length", "5"),
        ("Content-Type", "application/octet-stream"),
        ("x-ms-write", "update"),
        ("x-ms-range", "bytes=0-4"),
        ("x-ms-date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("x-ms-meta-a1", "one"),
        ("x-ms-meta-a_b", "two"),
        ("x-ms-version", "2026-04-06"),
        ("User-Agent", "not signed"),
    ),
)
EXPECTED = (
    "PUT\n\n\n5\n\napplication/octet-stream\n\n\n\n\n\n\n"
    "x-ms-date:Thu, 01 Jan 2026 00:00:00 GMT\n"
    "x-ms-meta-a_b:two\nx-ms-meta-a1:one\n"
    "x-ms-range:bytes=0-4\nx-ms-version:2026-04-06\nx-ms-write:update\n"
    "/acct/acct/share/a%20b/%C3%B6~.txt\ncomp:range\ntimeout:30"
)
KEY = base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()


def test_the_string_to_sign_is_the_documented_one() -> None:
    # Source: "Authorize with Shared Key", "Constructing the signature string"; order of headers as the SDK's.
    assert string_to_sign(PUT_RANGE, "acct") == EXPECTED


def test_the_signature_is_what_openssl_computes() -> None:
    # printf '%b' "$text" | openssl dgst -sha256 -mac HMAC -macopt key:$key -binary | base64
    assert sign(KEY, EXPECTED) == "laZwLKihoC16uWQs0VYjQlDbIONAwDMhhDsWxYL5cg4="


def test_an_empty_body_has_no_length_in_the_signature_and_x_ms_date_hides_date() -> None:
    headers = (("Content-Length", "0"), ("Date", "yesterday"), ("x-ms-date", "today"))
    assert string_to_sign(SignedRequest("GET", "/a", (), headers), "a") == (
        "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:today\n/a/a"
    )


def test_the_date_header_is_signed_where_there_is_no_x_ms_date() -> None:
    request = SignedRequest("GET", "/a", (), (("Date", "today"), ("x-ms-version", "v")))
    assert string_to_sign(request, "a") == "GET\n\n\n\n\n\ntoday\n\n\n\n\n\nx-ms-version:v\n/a/a"


HEADER_NAMES = st.text("abcz019_-", min_size=1, max_size=8).map("x-ms-meta-{}".format)


@given(st.lists(HEADER_NAMES, min_size=2, max_size=8, unique=True))
def test_headers_are_ordered_as_the_sdk_orders_them(names: list[str]) -> None:
    assert sorted(names, key=header_order) == sorted(names, key=functools.cmp_to_key(sdk_order))


@given(st.text(), st.text())
def test_only_the_same_text_has_the_same_signature(one: str, other: str) -> None:
    try:
        signature = sign(KEY, one)
        assert is_signed_by([KEY], other, signature) is (one == other)
    except UnicodeEncodeError:
        assert any("\ud800" <= character <= "\udfff" for character in one + other)


@pytest.mark.parametrize("number", [0, 1])
def test_either_key_opens_the_account(server: Any, endpoint: str, account: str, number: int) -> None:
    key = server.accounts[account][number]
    with ShareServiceClient(endpoint, credential=key, connection_verify=str(server.ca)) as client:
        assert list(client.list_shares()) == []


def test_a_wrong_key_is_refused_as_azure_refuses_it(server: Any, endpoint: str) -> None:
    # Source: recorded answers of the service: 403 AuthenticationFailed with AuthenticationErrorDetail.
    with (
        ShareServiceClient(
            endpoint, credential=KEY, connection_verify=str(server.ca), retry_total=0
        ) as client,
        pytest.raises(ClientAuthenticationError) as caught,
    ):
        list(client.list_shares())
    assert caught.value.status_code == 403
    assert caught.value.error_code == "AuthenticationFailed"
    assert "Server failed to authenticate the request. Make sure the value of Authorization header" in str(
        caught.value
    )
    assert "is not the same as any computed signature" in str(caught.value)


def test_the_refusal_is_xml_with_the_code_in_a_header(send: Callable[..., Any]) -> None:
    answer = send("GET", "/?comp=list", key=KEY)
    assert (answer.status, answer.code, answer.text("Code")) == (
        403,
        "AuthenticationFailed",
        "AuthenticationFailed",
    )
    assert answer.headers["content-type"].startswith("application/xml")
    assert answer.text("Message").splitlines()[1:] == [
        f"RequestId:{answer.headers['x-ms-request-id']}",
        answer.text("Message").splitlines()[2],
    ]


def test_a_head_request_is_refused_without_a_body(send: Callable[..., Any]) -> None:
    answer = send("HEAD", "/share/file", key=KEY)
    assert (answer.status, answer.code, answer.body) == (403, "AuthenticationFailed", b"")


@pytest.mark.parametrize(("minutes", "allowed"), [(-16, False), (-14, True), (14, True), (16, False)])
def test_a_date_more_than_fifteen_minutes_away_is_refused(
    send: Callable[..., Any], minutes: int, *, allowed: bool
) -> None:
    # Source: "Authorize with Shared Key", "Specifying the date header".
    answer = send("GET", "/?comp=list", date=datetime.now(UTC) + timedelta(minutes=minutes))
    assert answer.status == (200 if allowed else 403)
    assert allowed or "Request date header" in answer.text("AuthenticationErrorDetail")


@pytest.mark.parametrize(
    ("authorization", "status", "code"),
    [
        ("SharedKey", 400, "InvalidAuthenticationInfo"),
        ("SharedKey someone", 400, "InvalidAuthenticationInfo"),
        ("SharedKeyLite account:sig", 400, "InvalidAuthenticationInfo"),
        ("SharedKey another:c2ln", 403, "AuthenticationFailed"),
        ("Bearer token", 400, "MissingRequiredHeader"),
    ],
)
def test_other_authorization_headers_are_refused(
    send: Callable[..., Any], authorization: str, status: int, code: str
) -> None:
    answer = send("GET", "/?comp=list", authorization=authorization)
    assert (answer.status, answer.code) == (status, code)


@pytest.mark.usefixtures("share")
def test_a_signature_of_another_path_does_not_open_this_one(send: Callable[..., Any]) -> None:
    signed = send("GET", "/models?restype=share")
    assert signed.status == 200
    answer = send("GET", "/models?restype=share", {"x-ms-date": "not a date"})
    assert "The Date header in the request is incorrect" in answer.text("AuthenticationErrorDetail")


def test_a_request_without_credentials_is_challenged(send: Callable[..., Any]) -> None:
    # Source: "Common REST API error codes", NoAuthenticationInformation.
    answer = send("GET", "/?comp=list", key=None)
    assert (answer.status, answer.code) == (401, "NoAuthenticationInformation")
    assert answer.headers["www-authenticate"].startswith("Bearer authorization_uri=https://localhost")


def test_an_oauth_token_is_refused_with_what_to_use_instead(send: Callable[..., Any]) -> None:
    answer = send("GET", "/?comp=list", {"x-ms-file-request-intent": "backup"}, authorization="Bearer token")
    assert (answer.status, answer.code) == (403, "AuthorizationPermissionMismatch")
    assert "use the account's key or a SAS" in answer.text("Message")


def test_an_unknown_account_is_not_found(send: Callable[..., Any], server: Any, account: str) -> None:
    del server.accounts[account]
    answer = send("GET", "/?comp=list")
    assert (answer.status, answer.code) == (404, "ResourceNotFound")

"""The errors of Azure Files, with what to do about each."""

from __future__ import annotations

import pytest

from infra.share.errors import ShareAddress, is_transient, rejected_error, unreachable_error

ADDRESS = ShareAddress("account", "share", "https://account.file.core.windows.net")


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (403, "AuthenticationFailed", "15 minutes"),
        (403, "KeyBasedAuthenticationNotPermitted", "--allow-shared-key-access true"),
        (403, "AuthorizationFailure", "firewall of 'account'"),
        (404, "ShareNotFound", "invoke provision"),
        (409, "ShareBeingDeleted", "half a minute"),
        (409, "SharingViolation", "did not pass in several tries"),
    ],
)
def test_what_the_service_refuses_comes_with_what_to_do(status: int, code: str, hint: str) -> None:
    error = rejected_error("write CURRENT", ADDRESS, status, code, "Because.\nRequestId:1")
    assert error.message == f"cannot write CURRENT on share 'share' of 'account': {code}: Because."
    assert hint in str(error.hint)


def test_what_has_no_code_has_its_status() -> None:
    error = rejected_error("read x", ADDRESS, 418, "", "")
    assert error.message == "cannot read x on share 'share' of 'account': 418: the service gave no reason"
    assert error.hint is None


@pytest.mark.parametrize(
    ("status", "code", "passes"),
    [
        (503, "", "passes"),
        (409, "FileLockConflict", "passes"),
        (409, "ResourceAlreadyExists", "stays"),
        (403, "", "stays"),
    ],
)
def test_what_passes_is_known(status: int, code: str, passes: str) -> None:
    assert is_transient(status, code) is (passes == "passes")


def test_silence_is_told_from_a_certificate_that_is_not_trusted() -> None:
    assert "firewall" in str(unreachable_error("read x", ADDRESS, "timed out").hint)
    assert "not trusted" in str(unreachable_error("read x", ADDRESS, "certificate verify failed").hint)

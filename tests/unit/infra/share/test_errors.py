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
        (403, "ShareSizeLimitReached", "--set shareQuotaGib=GIB"),
        (409, "SharingViolation", "did not pass in several tries"),
    ],
)
def test_a_rejected_request_has_a_hint(status: int, code: str, hint: str) -> None:
    error = rejected_error("write CURRENT", ADDRESS, status, code, "Because.\nRequestId:1")
    assert error.message == f"cannot write CURRENT on share 'share' of 'account': {code}: Because."
    assert hint in str(error.hint)


def test_an_error_without_a_code_has_its_status() -> None:
    error = rejected_error("read x", ADDRESS, 418, "", "")
    assert error.message == "cannot read x on share 'share' of 'account': 418: the service gave no reason"
    assert error.hint is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (503, "", "transient"),
        (409, "FileLockConflict", "transient"),
        (409, "ResourceAlreadyExists", "permanent"),
        (403, "", "permanent"),
    ],
)
def test_transient_errors(status: int, code: str, kind: str) -> None:
    assert is_transient(status, code) is (kind == "transient")


def test_a_missing_response_differs_from_an_untrusted_certificate() -> None:
    assert "firewall" in str(unreachable_error("read x", ADDRESS, "timed out").hint)
    assert "not trusted" in str(unreachable_error("read x", ADDRESS, "certificate verify failed").hint)

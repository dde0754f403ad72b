"""Leases: who may write while somebody holds one, and every move of the state."""

from __future__ import annotations

import uuid
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from azure.core.exceptions import HttpResponseError
from azure.storage.fileshare import ShareClient, ShareFileClient, ShareLeaseClient

from localcloud.files import leases
from localcloud.files.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 10**9
ACQUIRE = {"x-ms-lease-action": "acquire", "x-ms-lease-duration": "-1"}
ONE, OTHER = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


@pytest.fixture
def file(share: ShareClient) -> ShareFileClient:
    made = share.get_file_client(".lock")
    made.create_file(512)
    return made


def refused(act: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(HttpResponseError) as caught:
        act()
    return caught.value.status_code, caught.value.response.headers["x-ms-error-code"]


def test_a_lease_keeps_others_from_writing(file: ShareFileClient) -> None:
    # Source: "Lease File"; codes from recorded answers of the service.
    lease = file.acquire_lease()
    found = file.get_file_properties().lease
    assert (found.status, found.state, found.duration) == ("locked", "leased", "infinite")
    for act in (
        lambda **own: file.upload_range(b"mine", 0, 4, **own),
        lambda **own: file.clear_range(0, 512, **own),
        lambda **own: file.set_file_metadata({"a": "1"}, **own),
        lambda **own: file.resize_file(512, **own),
        lambda **own: file.create_file(512, **own),
        file.delete_file,
    ):
        assert refused(act) == (412, "LeaseIdMissing")
        assert refused(partial(act, lease=OTHER)) == (412, "LeaseIdMismatchWithFileOperation")
        act(lease=lease)


def test_the_message_is_azures(file: ShareFileClient) -> None:
    file.acquire_lease()
    with pytest.raises(
        HttpResponseError,
        match=r"There is currently a lease on the file and no lease ID was specified in the request\.",
    ):
        file.delete_file()


def test_a_reader_needs_no_lease_but_may_not_name_a_wrong_one(file: ShareFileClient) -> None:
    lease = file.acquire_lease()
    assert file.download_file().readall() == bytes(512)
    assert file.download_file(lease=lease).readall() == bytes(512)
    assert refused(lambda: file.download_file(lease=OTHER)) == (412, "LeaseIdMismatchWithFileOperation")
    own = lease.id
    lease.release()
    assert refused(lambda: file.download_file(lease=own)) == (412, "LeaseNotPresentWithFileOperation")


def test_only_one_can_acquire(file: ShareFileClient) -> None:
    lease = file.acquire_lease(lease_id=ONE)
    assert lease.id == ONE
    assert refused(lambda: file.acquire_lease(lease_id=OTHER)) == (409, "LeaseAlreadyPresent")
    assert refused(file.acquire_lease) == (409, "LeaseAlreadyPresent")
    assert file.acquire_lease(lease_id=ONE).id == ONE


def test_change_and_release(file: ShareFileClient) -> None:
    lease = file.acquire_lease(lease_id=ONE)
    lease.change(OTHER)
    assert lease.id == OTHER
    assert refused(ShareLeaseClient(file, ONE).release) == (409, "LeaseIdMismatchWithLeaseOperation")
    lease.release()
    assert file.get_file_properties().lease.state == "available"
    assert refused(ShareLeaseClient(file, OTHER).release) == (409, "LeaseNotPresentWithLeaseOperation")


def test_break_frees_the_file_at_once(file: ShareFileClient) -> None:
    lease = file.acquire_lease()
    ShareLeaseClient(file).break_lease()
    assert file.get_file_properties().lease.state == "broken"
    assert refused(lambda: file.upload_range(b"mine", 0, 4, lease=lease)) == (412, "LeaseLost")
    file.upload_range(b"mine", 0, 4)
    assert file.acquire_lease().id != lease.id


def test_break_without_a_lease(file: ShareFileClient) -> None:
    assert refused(ShareLeaseClient(file).break_lease) == (409, "LeaseNotPresentWithLeaseOperation")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "MissingRequiredHeader"),
        ({"x-ms-lease-action": "renew", "x-ms-lease-id": ONE}, "InvalidHeaderValue"),
        ({"x-ms-lease-action": "acquire"}, "MissingRequiredHeader"),
        ({"x-ms-lease-action": "acquire", "x-ms-lease-duration": "30"}, "InvalidHeaderValue"),
        ({**ACQUIRE, "x-ms-proposed-lease-id": "me"}, "InvalidHeaderValue"),
        ({"x-ms-lease-action": "release"}, "MissingRequiredHeader"),
        ({"x-ms-lease-action": "change", "x-ms-lease-id": ONE}, "MissingRequiredHeader"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("file")
def test_leases_of_no_sense_are_refused(send: Callable[..., Any], headers: dict[str, str], code: str) -> None:
    # Source: "Lease File": a file's lease is infinite and has no renew.
    answer = send("PUT", "/models/.lock?comp=lease", headers)
    assert (answer.status, answer.code) == (400, code)


def test_a_leased_file_is_renamed_by_its_holder_only(share: ShareClient, file: ShareFileClient) -> None:
    lease = file.acquire_lease()
    assert refused(lambda: file.rename_file("moved")) == (412, "LeaseIdMissing")
    share.get_file_client("next").create_file(1)
    goal = share.get_file_client("next")
    assert refused(lambda: goal.rename_file(".lock", overwrite=True)) == (412, "LeaseIdMissing")
    moved = file.rename_file("moved", source_lease=lease)
    assert moved.get_file_properties().lease.state == "leased"


def test_a_lease_outlives_a_new_service_over_the_same_directory(
    file: ShareFileClient, server: Any, account: str
) -> None:
    lease = file.acquire_lease()
    fresh = type(server.service)(server.root, server.accounts.get)
    status = (fresh.share_path(account, "models") / ".lock").stat()
    record = fresh._shares.sidecar(account, "models").read((".lock",), status)
    assert record.lease is not None
    assert record.lease.id == lease.id


def test_share_leases_run_out_and_are_renewed(share: ShareClient, server: Any) -> None:
    # Source: "Lease Share": 15 to 60 seconds, or infinite.
    lease = share.acquire_lease(lease_duration=15)
    assert refused(share.delete_share) == (412, "LeaseIdMissing")
    assert refused(lambda: share.set_share_metadata({"a": "1"})) == (412, "LeaseIdMissing")
    server.clock.ahead = timedelta(seconds=10)
    lease.renew()
    server.clock.ahead = timedelta(seconds=20)
    assert share.get_share_properties().lease.state == "leased"
    server.clock.ahead = timedelta(seconds=30)
    assert share.get_share_properties().lease.state == "expired"
    share.delete_share()


def test_share_lease_breaks_after_its_period(share: ShareClient, server: Any) -> None:
    lease = share.acquire_lease(lease_duration=60)
    assert lease.break_lease(lease_break_period=10) == 10
    assert share.get_share_properties().lease.state == "breaking"
    assert refused(lambda: share.acquire_lease(lease_id=OTHER)) == (409, "LeaseIsBreakingAndCannotBeAcquired")
    assert refused(lambda: lease.change(OTHER)) == (409, "LeaseIsBreakingAndCannotBeChanged")
    assert refused(lease.renew) == (409, "LeaseIsBrokenAndCannotBeRenewed")
    server.clock.ahead = timedelta(seconds=10)
    assert share.get_share_properties().lease.state == "broken"
    share.delete_share()


def test_share_lease_durations_are_checked(share: ShareClient) -> None:
    for seconds in (14, 61, 0):
        assert refused(partial(share.acquire_lease, lease_duration=seconds)) == (
            400,
            "InvalidHeaderValue",
        )


def test_a_broken_infinite_lease_ends_at_once_unless_a_period_is_asked_for() -> None:
    held = leases.acquire(None, ONE, leases.INFINITE, 0)
    assert leases.break_lease(held, None, 5 * SECOND, "file share")[1] == 0
    assert leases.break_lease(held, 7, 5 * SECOND, "file share")[1] == 7


def test_breaking_again_never_takes_longer() -> None:
    held = leases.acquire(None, ONE, 60, 0)
    breaking, wait = leases.break_lease(held, 20, 0, "file share")
    assert wait == 20
    sooner, wait = leases.break_lease(breaking, 5, SECOND, "file share")
    assert wait == 5
    later, wait = leases.break_lease(sooner, 60, 2 * SECOND, "file share")
    assert wait == 4
    assert leases.state(later, 6 * SECOND) == "broken"
    with pytest.raises(StorageError, match="LeaseLost"):
        leases.check_read(later, ONE, 6 * SECOND, "file share")

"""The list of releases, and the removal of old ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from infra.errors import RemoteError
from infra.release.cleaning import find_surplus, prune, prune_packages
from infra.release.known import KnownReleases
from infra.release.manifest import Replaced
from infra.release.releases import read_live, read_release
from infra.verbs.releases import AuditList, PruneResult, ReleaseList, releases_on
from infra.verbs.rollback import roll_back_to
from tests.doubles.deployed_stage import DeployedStage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def stage(tmp_path: Path) -> DeployedStage:
    return DeployedStage(tmp_path)


def listed(stage: DeployedStage) -> ReleaseList:
    return releases_on(stage.share, KnownReleases())


def test_every_release_says_what_it_is(stage: DeployedStage) -> None:
    stage.app.adapters = ("tickets", "mails")
    one = stage.deploy("one", git_commit="4b895c2d10f7", is_dirty=True).release
    stage.bad.add("bad")
    with pytest.raises(RemoteError):
        stage.deploy("bad")
    three = stage.deploy("three", git_commit="5c895c2d10f7", is_dirty=False).release
    stage.share.files["releases/20250101T000000Z-01234567/inference/x.py"] = b""
    stage.context.lock.take_for_a_person("holidays")
    found = listed(stage)
    assert [(row.release, row.is_live, row.is_proven, row.is_finished) for row in found.rows][::2] == [
        (three, True, True, True),
        (one, False, True, True),
    ]
    oldest = found.rows[-1]
    assert (oldest.is_finished, oldest.is_proven, oldest.created) == (False, False, "")
    first = found.rows[2]
    assert first.adapters == ("tickets", "mails")
    assert (first.commit, first.is_dirty, first.author) == ("4b895c2d10f7", True, "ida@laptop")
    assert first.files == 2
    lines = found.to_text().splitlines()
    assert lines[0].split() == ["release", "by", "commit", "adapters", "state"]
    assert lines[1].split() == [three, "ida@laptop", "5c895c2", "live,", "proven"]
    assert lines[3].split() == [
        one,
        "ida@laptop",
        "4b895c2",
        "with",
        "changes",
        "tickets,",
        "mails",
        "proven",
    ]
    assert lines[4].split() == ["20250101T000000Z-01234567", "damaged", "or", "unfinished"]
    assert lines[-1].startswith("locked by ida on laptop: holidays, since")
    assert found.to_json()["locked_by"]


def test_the_live_release_has_the_adapters_that_are_served_now(stage: DeployedStage) -> None:
    one = stage.deploy("one").release
    two = stage.deploy("two").release
    found = releases_on(stage.share, KnownReleases(), Replaced(two, ("tickets",)))
    assert [(row.release, row.adapters) for row in found.rows] == [(two, ("tickets",)), (one, ())]


def test_an_empty_share_says_what_to_do(stage: DeployedStage) -> None:
    assert listed(stage).to_text() == "there is no release on the share: invoke deploy makes one"
    assert AuditList(()).to_text() == "nothing was changed yet"


def test_the_last_three_proven_releases_are_never_removed(stage: DeployedStage) -> None:
    made = [stage.deploy(f"text {number}").release for number in range(3)]
    stage.bad |= {f"bad {number}" for number in range(4)}
    for number in range(4):
        with pytest.raises(RemoteError):
            stage.deploy(f"bad {number}")
    live = read_live(stage.share)
    assert find_surplus(stage.share, live, kept=7) == ()
    bad = [row.release for row in reversed(listed(stage).rows) if not row.is_proven]
    assert prune(stage.share, live, kept=1) == tuple(bad[:-1])
    assert {row.release for row in listed(stage).rows} == {*made, bad[-1]}


def test_the_live_release_stays_after_a_rollback(stage: DeployedStage) -> None:
    made = [stage.deploy(f"text {number}").release for number in range(6)]
    roll_back_to(stage.context, made[1])
    prune(stage.share, read_live(stage.share), kept=1)
    assert [row.release for row in reversed(listed(stage).rows)] == [made[1], made[4], made[5]]
    assert stage.served() == "text 1"


def test_the_result_names_what_was_removed() -> None:
    result = PruneResult(("20250101T000000Z-01234567",), 3)
    assert result.to_text() == "removed 20250101T000000Z-01234567\n3 releases on the share"
    assert PruneResult((), 1).to_text() == "1 release on the share"


def test_packages_stay_as_long_as_a_release_needs_them(stage: DeployedStage) -> None:
    digests = []
    lock = stage.root / "inference" / "requirements.lock.txt"
    for number in range(2):
        lock.parent.mkdir(exist_ok=True)
        lock.write_text(f"uv==1.{number}\n")
        release = stage.deploy(f"text {number}").release
        (digest,) = set(read_release(stage.share, release).manifest.locks.values())  # type: ignore[union-attr]
        digests.append(digest)
        stage.share.files[f"packages/{digest}/a-b.tar.gz"] = b"an archive"
    stage.share.files["packages/" + "0" * 64 + "/a-b.tar.gz"] = b"of a release that is gone"
    stage.share.files["releases/20250101T000000Z-01234567/inference/x.py"] = b""
    assert prune_packages(stage.share) == ()  # a release that cannot be read may need any of them
    del stage.share.files["releases/20250101T000000Z-01234567/inference/x.py"]
    assert prune_packages(stage.share) == ("0" * 64,)
    stored = {path.split("/")[1] for path in stage.share.files if path.startswith("packages/")}
    assert stored == set(digests)

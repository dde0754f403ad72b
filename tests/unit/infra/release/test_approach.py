from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from infra.az.revision import VersionResponse
from infra.errors import RemoteError
from infra.release.manifest import FileEntry, Manifest, Origin, Release
from infra.release.releases import Live
from infra.release.takeovers.approach import LATER, TEXTS, choose_approach
from infra.release.takeovers.change import find_whole_change


def answer() -> VersionResponse:
    return VersionResponse(
        release="one",
        replica="app--1",
        started="2026-01-01T00:00:00Z",
        is_ready=True,
        wanted="one",
        revision="app--rev",
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (None, TEXTS["nothing"]),
        ("server", TEXTS["server"]),
        ("engine", TEXTS["engine"]),
        ("of a later version", TEXTS["nothing"]),
        # The server is replaced although only the supervisor has changed.
        ("server supervisor", TEXTS["nothing"] + LATER),
        ("engine supervisor", TEXTS["engine"] + LATER),
        ("packages supervisor", TEXTS["packages"] + LATER),
    ],
)
def test_a_deployment_says_beforehand_what_the_change_does(change: str | None, text: str) -> None:
    approach = choose_approach(answer(), None, change, wants_restart=False)
    assert (approach.restarts, approach.text) == (False, text)


def test_a_restart_also_starts_the_supervisor_s_new_code() -> None:
    approach = choose_approach(answer(), None, "server supervisor", wants_restart=True)
    assert approach.restarts
    assert "invoke restart" not in approach.text


def manifest(**files: str) -> Manifest:
    """Return the files of a tree, by their names and their digests."""
    return Manifest(tuple(FileEntry(f"{path}.py", 1, text) for path, text in files.items()))


def released(files: Manifest) -> Release:
    return Release(files, Origin(datetime(2026, 1, 1, tzinfo=UTC), "ida@laptop", "0.1.0"))


def words(paths: tuple[str, ...]) -> str:
    """Answer as a tree's supervisor does."""
    parts = {"supervisor" if path.startswith("supervisor") else "server" for path in paths}
    return " ".join(["server" if parts else "nothing", *(["supervisor"] if "supervisor" in parts else [])])


@pytest.mark.parametrize(
    ("started", "target", "change"),
    [
        # The supervisor that runs is of the release before the live one, which changed it.
        ({"supervisor": "1", "server": "1"}, {"supervisor": "2", "server": "3"}, "server supervisor"),
        # The target brings back the code that runs.
        ({"supervisor": "1", "server": "1"}, {"supervisor": "1", "server": "3"}, "server"),
        (None, {"supervisor": "2", "server": "3"}, "server"),
    ],
)
def test_a_supervisor_is_compared_with_the_one_that_runs(
    started: dict[str, str] | None, target: dict[str, str], change: str
) -> None:
    live = released(manifest(supervisor="2", server="2"))
    running = None if started is None else released(manifest(**started))
    found = find_whole_change(
        Live(live.id, live.id, live),
        manifest(**target),
        replace(answer(), supervisor="20250101T000000Z-00000000"),
        words,
        lambda _id: running,
    )
    assert found == change


def test_a_supervisor_of_a_damaged_release_and_an_unknown_change_say_nothing_more() -> None:
    live = released(manifest(supervisor="1", server="1"))
    state = Live(live.id, live.id, live)

    def fail(_id: str) -> Release | None:
        raise RemoteError("damaged")

    other = replace(answer(), supervisor="20250101T000000Z-00000000")
    target = manifest(supervisor="1", server="2")
    assert find_whole_change(state, target, other, words, fail) == "server"
    assert find_whole_change(state, target, other, lambda _paths: None, fail) is None
    assert find_whole_change(Live(live.id, live.id, None), target, other, words, fail) is None
    # The live release's own supervisor runs: nothing is read.
    assert find_whole_change(state, target, replace(other, supervisor=live.id), words, fail) == "server"


def test_what_waits_for_a_restart_is_part_of_the_approach() -> None:
    assert choose_approach(answer(), None, "server supervisor", wants_restart=False).is_restart_pending
    assert not choose_approach(answer(), None, "server supervisor", wants_restart=True).is_restart_pending
    assert "--restart" in LATER

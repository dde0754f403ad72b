from __future__ import annotations

import pytest

from infra.az.revision import VersionResponse
from infra.release.takeovers.approach import LATER, TEXTS, choose_approach


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

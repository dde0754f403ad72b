"""What is said of a release that does not serve, with the real supervisor and the local cloud's ingress."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from infra.clock import SystemClock
from infra.console import Console
from infra.process import Runner
from infra.release import bake, rollout
from infra.release.rollout import Rollout, in_background
from infra.release.takeovers import inside, silence
from infra.release.takeovers.inside import InsideApp, ReplicaReports
from infra.release.takeovers.outcome import NotServed, Served
from infra.share.mounted import MountedShare
from tests.doubles.host_app import BROKEN, FIRST, SECOND, HostApp, start, store_release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT_S: Final = 600.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "_FIRST_SNAPSHOT_S", 0.1)
    monkeypatch.setattr(rollout, "_SNAPSHOT_INTERVAL_S", 0.5)
    monkeypatch.setattr(silence, "ASK_AFTER_S", 0.1)
    monkeypatch.setattr(inside, "READ_INTERVAL_S", 0.2)
    monkeypatch.setattr(bake, "_SNAPSHOT_INTERVAL_S", 0.5)


class ImpatientClock(SystemClock):
    """A clock for which the time limit is over as soon as a text was shown."""

    def __init__(self, output: io.StringIO, text: str) -> None:
        super().__init__()
        self._output = output
        self._text = text

    def elapsed_s(self) -> float:
        return super().elapsed_s() + (LIMIT_S if self._text in self._output.getvalue() else 0.0)


class World:
    """An app of two replicas on a share, and how the pipeline waits for it."""

    def __init__(self, app: HostApp, mount: Path, pool: ThreadPoolExecutor) -> None:
        self._mount = mount
        self._pool = pool
        clock = SystemClock()
        reports = ReplicaReports(MountedShare(mount, Runner({}, mount)), clock)
        self._app = InsideApp(replace(app, timeout_s=2), reports, clock)

    def rollout(self, shown: str) -> Rollout:
        """Return a rollout that waits until a text was shown."""
        output = io.StringIO()
        clock = ImpatientClock(output, shown)
        background = in_background(self._pool)
        return Rollout(self._app, clock, Console(output), LIMIT_S, background, lambda: None, 30.0)

    async def wait(self, release: str, shown: str) -> str:
        """Wait for a release as after a restart, and return why it does not serve."""
        return late(await asyncio.to_thread(self.rollout(shown).wait, release))

    async def take_over(self, release: str, shown: str) -> Served | NotServed:
        """Name a release in `CURRENT`, and wait until all replicas have taken it over."""
        (self._mount / "CURRENT").write_text(f"{release}\n")
        return await asyncio.to_thread(self.rollout(shown).take_over, release)


def late(outcome: Served | NotServed) -> str:
    """Return why a release did not serve in time."""
    assert isinstance(outcome, NotServed)
    assert (outcome.is_timeout, outcome.is_unseen) == (True, False)
    assert outcome.cause.reason.startswith("not within 600 s: ")
    return outcome.cause.reason


@pytest.mark.parametrize(
    ("behaviour", "shown"), [("hangs", "loading, 40 %"), ("mute", "the server does not answer inside of")]
)
async def test_a_first_release_that_is_never_ready_or_binds_and_never_answers(
    bench: Any, tmp_path: Path, pool: ThreadPoolExecutor, behaviour: str, shown: str
) -> None:
    mount = tmp_path / "mount"
    store_release(mount, FIRST, behaviour)
    world = World(await start(bench, mount, is_waited_for=False, probe_s=1), mount, pool)
    assert f"reports from inside: {shown}" in await world.wait(FIRST, f": {shown}")


async def test_takeovers_by_each_kind_of_release_that_does_not_serve(
    bench: Any, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    mount, third = tmp_path / "mount", BROKEN.replace("3", "4")
    for release, behaviour in ((FIRST, "serves"), (SECOND, "hangs"), (BROKEN, "dies late"), (third, "mute")):
        store_release(mount, release, behaviour)
    world = World(await start(bench, mount, probe_s=1), mount, pool)
    # It answers with another release than the one that was restarted.
    reason = await world.wait(SECOND, "is ready")
    assert reason == f"not within 600 s: the app's address still answers from {FIRST}"
    # It is never ready.
    reason = late(await world.take_over(SECOND, ": loading, 40 % ("))
    assert f"still serves {FIRST}: loading, 40 %" in reason
    # It dies after it was proven.
    served = await world.take_over(BROKEN, "never")
    assert isinstance(served, Served)
    (mount / "die").touch()
    failed = await asyncio.to_thread(world.rollout("never").bake, BROKEN, served)
    (mount / "die").unlink()
    assert isinstance(failed, NotServed)
    assert "after the proof" in failed.cause.reason
    # It binds, and never answers.
    reason = late(await world.take_over(third, ": the server does not answer"))
    assert "is not ready: the server does not answer inside of the container: timed out" in reason
    assert "the app has not answered for " in reason

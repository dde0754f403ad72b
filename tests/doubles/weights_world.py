"""A share, an app and a folder with weights, for tests that push."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from infra.clock import ManualClock
from infra.console import Console
from infra.deploy_context import DeployContext
from infra.models.hash_cache import HashCache
from infra.models.selection import Selection, load_upload_sets
from infra.models.weights import read_adapter
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.release.releases import set_current, set_proven
from infra.verbs.push import Publication, PushResult, push_upload_sets
from tests.doubles.background import at_once
from tests.doubles.memory_app import MemoryApp
from tests.doubles.memory_share import MemoryShare
from tests.doubles.model_folders import NOW

if TYPE_CHECKING:
    from pathlib import Path

LIVE = "20260101T120000Z-0123abcd"


@dataclass
class World:
    """A share, an app, and a folder with weights."""

    root: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOW))
    share: MemoryShare = field(default_factory=MemoryShare)
    output: io.StringIO = field(default_factory=io.StringIO)
    pushes: int = 0
    app: MemoryApp = field(init=False)

    def __post_init__(self) -> None:
        self.app = MemoryApp(self.share, self.clock)

    def go_live(self) -> None:
        """Have a release serve."""
        self.share.files[f"releases/{LIVE}/release.json"] = b""
        set_current(self.share, LIVE)
        set_proven(self.share, LIVE)
        self.app.restart("app--1")
        self.clock.sleep(10)
        self.app.version()
        self.app.log.clear()

    def open(self) -> DeployContext:
        """Return the context of one more run of the tool."""
        self.pushes += 1
        console = Console(self.output)
        holder = Holder("ida", "laptop", self.pushes, 0.0, "machine")
        lock = DeployLock(self.share, self.clock, holder, console.warn, lambda who: who.pid == self.pushes)
        return DeployContext(self.share, self.app, lock, self.clock, console, at_once, timeout_s=300.0)

    def push(
        self,
        adapter: Path,
        base: Path | None,
        name: str = "mine",
        *,
        restarts: bool = True,
        publication: Publication = "replace",
    ) -> PushResult:
        """Push an adapter, and a base if the share does not have it. A second passes before."""
        self.clock.sleep(1)
        selection = Selection(read_adapter(adapter), name, "org/base", base)
        hashes = HashCache(self.root / "hashes.json", self.clock)
        return push_upload_sets(
            self.open(),
            selection,
            load_upload_sets(selection, hashes),
            restarts=restarts,
            publication=publication,
        )

"""A stage in memory that is deployed to: its share, its app, and a tree of two files."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from infra.clock import ManualClock
from infra.console import Console
from infra.deploy_context import DeployContext
from infra.release.holder import Holder
from infra.release.hooks import NO_HOOKS, Hooks
from infra.release.known import KnownReleases
from infra.release.lock import DeployLock
from infra.release.manifest import Origin
from infra.release.tree import scan_tree
from infra.verbs.deploy import DeployResult, LocalTree, deploy_tree
from tests.doubles.background import at_once
from tests.doubles.memory_app import Behaviour, MemoryApp
from tests.doubles.memory_share import MemoryShare

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class DeployedStage:
    """One share, one app and one clock.

    Attributes:
        root: The folder of the project.
        bad: The texts of servers that crash.
        hooks: The hooks of the project.
        bake_s: How long a release is watched after the proof.
        late: The texts of servers that crash some time after they are ready.
    """

    root: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime(2026, 1, 1, 12, tzinfo=UTC)))
    share: MemoryShare = field(default_factory=MemoryShare)
    output: io.StringIO = field(default_factory=io.StringIO)
    bad: set[str] = field(default_factory=set)
    hooks: Hooks = NO_HOOKS
    bake_s: float = 0.0
    late: set[str] = field(default_factory=set)
    app: MemoryApp = field(init=False)

    def __post_init__(self) -> None:
        self.app = MemoryApp(self.share, self.clock)
        self.app.behaviour = self._behaviour

    @property
    def context(self) -> DeployContext:
        """Return the context of a new command."""
        console = Console(self.output)
        lock = DeployLock(self.share, self.clock, Holder("ida", "laptop", 1, 0.0, "machine"), console.warn)
        return DeployContext(
            self.share,
            self.app,
            lock,
            self.clock,
            console,
            at_once,
            300.0,
            KnownReleases(),
            self.hooks,
            self.bake_s,
        )

    def deploy(self, text: str, **origin: str | bool) -> DeployResult:
        """Deploy a tree whose server is `text`."""
        (self.root / "inference").mkdir(exist_ok=True)
        (self.root / "inference" / "server.py").write_text(text)
        (self.root / "inference" / "same.py").write_text("same")
        self.clock.sleep(60)
        made = Origin(self.clock.now(), "ida@laptop", "0.1.0", **origin)  # type: ignore[arg-type]
        tree = LocalTree(self.root, scan_tree(self.root / "inference"), lambda: made)
        return deploy_tree(self.context, tree)

    def served(self) -> str:
        """Return the text of the server of the release that is live."""
        release = self.share.files["CURRENT"].decode().strip()
        return self._text(release)

    def _text(self, release: str) -> str:
        return self.share.files.get(f"releases/{release}/inference/server.py", b"").decode()

    def _behaviour(self, release: str) -> Behaviour:
        if self._text(release) in self.late:
            return Behaviour.CRASH_LATE
        return Behaviour.CRASH if self._text(release) in self.bad else Behaviour.SERVE

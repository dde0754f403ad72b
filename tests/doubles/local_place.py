"""A project in a folder of its own, with a local cloud of its own, for tests that run the real az."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from infra.console import Console
from infra.session import Session, open_session
from infra.verbs.down import down

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]

# A container that only prints and sleeps, for tests in which what is provisioned is what matters.
ASLEEP = ('defaultCommands=["echo it sleeps", "sleep 600"]',)


@dataclass(frozen=True, slots=True)
class Place:
    """A project with a local cloud of its own."""

    root: Path
    console: Console

    def open(self) -> Session:
        return open_session(self.root, "local", self.console)

    def open_as_azure(self) -> Session:
        """Open the local cloud as if it were Azure, for what the pipeline does there alone."""
        session = self.open()
        return replace(session, stage=replace(session.stage, cloud="azure"))

    def forget_flags(self) -> None:
        """Take back all flags that were kept."""
        (self.root / "infra/stages.toml").write_bytes((REPOSITORY / "infra/stages.toml").read_bytes())


@contextmanager
def local_place(root: Path) -> Iterator[Place]:
    """Make a project in an empty folder, and stop its local cloud at the end."""
    (root / "infra").mkdir()
    # The pipeline and the local cloud are the repository's; what they read and write is the project's own.
    (root / "localcloud").symlink_to(REPOSITORY / "localcloud")
    (root / "infra/provision").mkdir()
    sources = ("inference.bicep", "inference.bicep.sha256", "bicepconfig.json", "inference.json")
    provision_files = (*sources, "inference.parameters.json")
    for name in ("stages.toml", *(f"provision/{file}" for file in provision_files)):
        (root / "infra" / name).write_bytes((REPOSITORY / "infra" / name).read_bytes())
    made = Place(root, Console(io.StringIO()))
    yield made
    down(open_session(root, "local", made.console, start_cloud=False, needs_az=False), is_purged=True)
    assert not (root / ".fjarr/local").exists()

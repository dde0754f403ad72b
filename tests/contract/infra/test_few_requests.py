"""How many requests to the share a deployment makes, over TLS, for a tree of a thousand files."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from inference import unpack
from inference.unpack import unpack_release
from infra.console import Console
from infra.deploy_context import DeployContext
from infra.errors import UsageError
from infra.release.archive import ARCHIVE, MANIFEST, SMALL_BYTES, STARTER, STARTER_SOURCE
from infra.release.cleaning import KEPT
from infra.release.holder import Holder
from infra.release.known import CLEAN_EVERY, KnownReleases
from infra.release.lock import DeployLock
from infra.release.manifest import Origin
from infra.release.releases import read_live, read_releases
from infra.release.tree import scan_tree
from infra.share.protocol import RANGE_BYTES
from infra.verbs.deploy import DeployResult, LocalTree, deploy_tree
from tests.doubles.background import at_once
from tests.doubles.memory_app import MemoryApp
from tests.doubles.mounted_share import MountedShare

if TYPE_CHECKING:
    from infra.clock import ManualClock
    from infra.share.azure import AzureShare
    from tests.doubles.file_server import FileServer

FILES = 20


@dataclass
class Machine:
    """A machine that deploys the tree below `root`, and remembers what it has seen."""

    share: AzureShare
    clock: ManualClock
    server: FileServer
    root: Path
    mount: Path
    memory: Path
    output: io.StringIO = field(default_factory=io.StringIO)
    app: MemoryApp = field(init=False)

    def __post_init__(self) -> None:
        self.app = MemoryApp(cast("AzureShare", MountedShare(self.mount)), self.clock)

    @property
    def context(self) -> DeployContext:
        console = Console(self.output)
        lock = DeployLock(self.share, self.clock, Holder("ida", "laptop", 1, 0.0), console.warn)
        known = KnownReleases(self.memory)
        return DeployContext(self.share, self.app, lock, self.clock, console, at_once, 300.0, known)

    def deploy(self) -> tuple[DeployResult, list[str]]:
        """Deploy the tree, and return the requests that the pipeline made."""
        self.clock.sleep(60)
        origin = Origin(self.clock.now(), "ida@laptop", "0.1.0")
        tree = LocalTree(self.root, scan_tree(self.root / "inference"), lambda: origin)
        self.server.requests.clear()
        result = deploy_tree(self.context, tree)
        return result, list(self.server.requests)

    def edit(self, text: str) -> None:
        """Change one file of the tree."""
        (self.root / "inference" / "part0" / "module0.py").write_text(text)

    def unpacked(self, release: str) -> Path:
        """Return the folder in which a replica starts a release."""
        return unpack_release(self.mount / "releases" / release, self.root / "disk" / release)


def grow(root: Path, files: int) -> None:
    """Write a tree of that many files, with the two that every tree here has."""
    for number in range(files - 2):
        path = root / "inference" / f"part{number % 7}" / f"module{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"NUMBER = {number}\n" * 20)


@pytest.fixture
def machine(
    share: AzureShare, clock: ManualClock, server: FileServer, folder: Path, tmp_path: Path
) -> Machine:
    grow(tmp_path, FILES)
    (tmp_path / STARTER_SOURCE).write_bytes(Path(unpack.__file__).read_bytes())
    (tmp_path / "inference" / "start.py").write_text("print('up')\n")
    return Machine(share, clock, server, tmp_path, folder, tmp_path / "memory")


def test_one_changed_file_in_a_thousand_costs_ten_requests(machine: Machine) -> None:
    grow(machine.root, 1000)
    first, _ = machine.deploy()
    machine.edit("NUMBER = -1\n")
    result, requests = machine.deploy()
    assert len(requests) <= 10, requests
    assert (result.has_changed, result.uploaded_files, result.previous) == (True, 1, first.release)
    assert "upload 1 file (12 bytes), 999 are unchanged" in machine.output.getvalue()
    unpacked = machine.unpacked(result.release)
    assert (unpacked / "inference" / "part0" / "module0.py").read_text() == "NUMBER = -1\n"
    assert len(list(unpacked.rglob("*.py"))) == 1000
    live = read_live(machine.share)
    assert live.current == live.proven == result.release


def test_nothing_to_do_costs_four(machine: Machine) -> None:
    machine.deploy()
    result, requests = machine.deploy()
    assert not result.has_changed
    assert len(requests) <= 4, requests


def test_a_machine_that_knows_nothing_deploys_as_well(machine: Machine, tmp_path: Path) -> None:
    machine.deploy()
    machine.memory = tmp_path / "another machine"
    again, requests = machine.deploy()
    assert not again.has_changed
    assert len(requests) <= 4, requests
    machine.edit("NUMBER = -1\n")
    result, _ = machine.deploy()
    assert result.uploaded_files == 1


def test_a_release_of_another_machine_is_noticed(machine: Machine, tmp_path: Path) -> None:
    machine.deploy()
    ours = machine.memory
    machine.memory = tmp_path / "another machine"
    machine.edit("NUMBER = -1\n")
    theirs, _ = machine.deploy()
    machine.memory = ours
    again, _ = machine.deploy()
    assert (again.has_changed, again.release) == (False, theirs.release)
    machine.edit("NUMBER = -2\n")
    result, _ = machine.deploy()
    assert (result.previous, result.uploaded_files) == (theirs.release, 1)


def test_large_files_stay_beside_the_archive_and_are_copied_from_release_to_release(machine: Machine) -> None:
    large = machine.root / "inference" / "data.bin"
    large.write_bytes(b"7" * SMALL_BYTES)
    machine.deploy()
    machine.edit("NUMBER = -1\n")
    second, requests = machine.deploy()
    names = {path.name for path in (machine.mount / "releases" / second.release).iterdir()}
    assert names == {ARCHIVE, STARTER, "inference"}
    assert (machine.unpacked(second.release) / "inference" / "data.bin").stat().st_size == SMALL_BYTES
    assert second.uploaded_bytes < SMALL_BYTES
    assert len(requests) <= 14
    (machine.mount / "releases" / second.release / "inference" / "data.bin").unlink()
    machine.edit("NUMBER = -2\n")
    third, _ = machine.deploy()
    assert third.uploaded_bytes > SMALL_BYTES
    assert (machine.unpacked(third.release) / "inference" / "data.bin").exists()


def test_an_archive_of_several_requests_appears_in_one_step(machine: Machine) -> None:
    for number in range(9):
        noise = random.Random(number).randbytes(600_000)  # noqa: S311 - it has to be incompressible only
        (machine.root / "inference" / f"noise{number}.bin").write_bytes(noise)
    result, _ = machine.deploy()
    folder = machine.mount / "releases" / result.release
    assert {path.name for path in folder.iterdir()} == {ARCHIVE, STARTER}
    assert (folder / ARCHIVE).stat().st_size > RANGE_BYTES
    assert (machine.unpacked(result.release) / "inference" / "noise8.bin").stat().st_size == 600_000


def test_a_file_that_changes_while_it_is_packed_is_refused(machine: Machine) -> None:
    manifest = scan_tree(machine.root / "inference")
    machine.edit("NUMBER = -1\n")
    tree = LocalTree(machine.root, manifest, lambda: Origin(machine.clock.now(), "ida@laptop", "0.1.0"))
    with pytest.raises(UsageError, match=r"module0\.py was changed while it was deployed"):
        deploy_tree(machine.context, tree)
    assert read_live(machine.share).current is None
    assert machine.share.read(".lock") is None


def test_old_releases_are_removed_every_few_deployments(machine: Machine) -> None:
    releases = []
    for number in range(CLEAN_EVERY + KEPT + 2):
        machine.edit(f"NUMBER = {-number}\n")
        releases.append(machine.deploy()[0].release)
    there = sorted(path.name for path in (machine.mount / "releases").iterdir())
    assert there == releases[-len(there) :]
    assert KEPT <= len(there) <= KEPT + CLEAN_EVERY + 1


def test_releases_of_both_forms_are_read(machine: Machine) -> None:
    packed, _ = machine.deploy()
    (machine.root / STARTER_SOURCE).unlink()
    loose, _ = machine.deploy()
    assert (machine.mount / "releases" / loose.release / MANIFEST).exists()
    ids = (packed.release, loose.release, "20250101T000000Z-00000000")
    found = read_releases(machine.share, ids)
    assert [None if each is None else each.id for each in found] == [packed.release, loose.release, None]
    (machine.mount / "releases" / packed.release / ARCHIVE).write_bytes(b"x")
    assert read_releases(machine.share, ids)[0] is None


def test_a_damaged_live_release_is_replaced(machine: Machine, tmp_path: Path) -> None:
    first, _ = machine.deploy()
    machine.memory = tmp_path / "another machine"
    (machine.mount / "releases" / first.release / ARCHIVE).write_bytes(b"x")
    second, _ = machine.deploy()
    assert second.has_changed
    assert machine.unpacked(second.release).is_dir()


def test_both_sides_agree_on_the_names() -> None:
    assert (unpack.ARCHIVE, unpack.MANIFEST, unpack.STARTER) == (ARCHIVE, MANIFEST, STARTER)


def test_a_live_release_that_somebody_damaged_is_deployed_anew(machine: Machine) -> None:
    first, _ = machine.deploy()
    (machine.mount / "releases" / first.release / STARTER).unlink()
    second, _ = machine.deploy()
    assert (second.has_changed, second.release != first.release) == (True, True)
    assert (machine.mount / "releases" / second.release / STARTER).exists()

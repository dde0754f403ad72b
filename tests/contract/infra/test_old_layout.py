"""A share whose live release has the old layout, with all modules of `inference/` side by side."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inference.unpack import ARCHIVE, unpack_release
from infra.console import Console
from infra.deploy_context import DeployContext
from infra.errors import RemoteError
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.release.manifest import Origin
from infra.release.releases import read_live
from infra.release.tree import scan_tree
from infra.verbs.deploy import DeployResult, LocalTree, deploy_tree
from tests.doubles.background import at_once
from tests.doubles.memory_app import Behaviour, MemoryApp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.clock import ManualClock
    from infra.share.azure import AzureShare

REPOSITORY = Path(__file__).resolve().parents[3]
SNAPSHOT = json.loads((REPOSITORY / "tests/snapshots/inference/defaults.snapshot.json").read_text())

# What starts a release needs nothing but the standard library, so this one can be as small as that.
START = """\
import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

from inference.server import VERSION
from inference.web import HEALTH


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        version = {"release": os.environ["FJARR_RELEASE"], "version": VERSION}
        body = json.dumps({"/healthz": HEALTH, "/version": version}[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""

# Two files that today's tree has too: one at the same path, one that has moved into a package since.
SAME = "inference/requirements.txt"
MOVED = next(
    path.relative_to(REPOSITORY).as_posix()
    for path in sorted(REPOSITORY.glob("inference/*/*.py"))
    if path.name != "__init__.py"
)


@dataclass
class OldShare:
    """A share with one release of the old layout, live and proven, and an app that runs it."""

    share: AzureShare
    clock: ManualClock
    files: dict[str, bytes]
    release: str
    output: io.StringIO = field(default_factory=io.StringIO)
    app: MemoryApp = field(init=False)

    def __post_init__(self) -> None:
        self.app = MemoryApp(self.share, self.clock)

    def deploy(self) -> DeployResult:
        """Deploy today's `inference/`."""
        self.clock.sleep(60)
        console = Console(self.output)
        lock = DeployLock(self.share, self.clock, Holder("ida", "laptop", 1, 0.0), console.warn)
        context = DeployContext(self.share, self.app, lock, self.clock, console, at_once, timeout_s=300.0)
        origin = Origin(self.clock.now(), "ida@laptop", "0.1.0")
        tree = LocalTree(REPOSITORY, scan_tree(REPOSITORY / "inference"), lambda: origin)
        return deploy_tree(context, tree)


@pytest.fixture
def old(share: AzureShare, clock: ManualClock) -> OldShare:
    """Write the release, its manifest and the two pointers as the version with the old layout did."""
    files = {
        "inference/__init__.py": b"",
        "inference/server.py": b'VERSION = "0.0.9"\n',
        "inference/start.py": START.encode(),
        "inference/web.py": b'HEALTH = "alive"\n',
        SAME: (REPOSITORY / SAME).read_bytes(),
        f"inference/{Path(MOVED).name}": (REPOSITORY / MOVED).read_bytes(),
    }
    entries = [
        {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in sorted(files.items())
    ]
    lines = "".join(f"{entry['sha256']} {entry['size']} {entry['path']}\n" for entry in entries)
    digest = hashlib.sha256(lines.encode()).hexdigest()
    release = f"20251231T235900Z-{digest[:8]}"
    manifest = {
        "format": 1,
        "release": release,
        "created": "2025-12-31T23:59:00+00:00",
        "author": "ida@laptop",
        "tool_version": "0.0.9",
        "git_commit": "4b895c2d10f7b6cf6ef9ea3a2c6c2c1d8a0f9b7e",
        "git_dirty": False,
        "digest": digest,
        "files": entries,
    }
    for path, content in files.items():
        share.write(f"releases/{release}/{path}", content)
    share.write(f"releases/{release}/release.json", json.dumps(manifest, indent=1).encode() + b"\n")
    for pointer in ("CURRENT", "PROVEN"):
        share.write(pointer, f"{release}\n".encode())
    return OldShare(share, clock, files, release)


def tree_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a release as a replica gets them."""
    if (folder / ARCHIVE).exists():
        with tempfile.TemporaryDirectory() as disk:
            return tree_of(unpack_release(folder, Path(disk, "release")))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "release.json"
    }


def today() -> dict[str, bytes]:
    manifest = scan_tree(REPOSITORY / "inference")
    return {entry.path: (REPOSITORY / entry.path).read_bytes() for entry in manifest.files}


@contextmanager
def started(mount: Path) -> Iterator[int]:
    """Run the container's default command on a share, and yield the port that its server listens on."""
    (app,) = (
        each for each in SNAPSHOT["predictedResources"] if each["type"] == "Microsoft.App/containerApps"
    )
    command = app["properties"]["template"]["containers"][0]["command"]
    assert "exec python3 -m inference.start" in command[-1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
    process = subprocess.Popen(
        command,
        env={"FJARR_MOUNT": str(mount), "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
        return json.load(response)


def test_a_deploy_packs_what_it_uploads_and_names_what_is_new(old: OldShare, folder: Path) -> None:
    result = old.deploy()
    assert (result.has_changed, result.previous) == (True, old.release)
    assert tree_of(folder / "releases" / result.release) == today()
    content = set(old.files.values())
    same = [path for path, each in today().items() if each in content]
    assert {SAME, MOVED} <= set(same)
    assert result.uploaded_files == len(today()) - len(same)
    live = read_live(old.share)
    assert live.current == live.proven == result.release


def test_a_deploy_leaves_the_old_release_as_it_was(old: OldShare, folder: Path) -> None:
    manifest = (folder / "releases" / old.release / "release.json").read_bytes()
    old.deploy()
    assert tree_of(folder / "releases" / old.release) == old.files
    assert (folder / "releases" / old.release / "release.json").read_bytes() == manifest


def test_a_release_that_crashes_is_rolled_back_to_the_old_one(old: OldShare, folder: Path) -> None:
    old.app.behaviour = lambda release: Behaviour.SERVE if release == old.release else Behaviour.CRASH
    with pytest.raises(RemoteError) as caught:
        old.deploy()
    assert caught.value.details[0] == f"rolled back: {old.release} serves again"
    live = read_live(old.share)
    assert live.current == live.proven == old.release
    with started(folder) as port:
        assert get(port, "/version")["release"] == old.release


def test_the_old_release_still_starts(old: OldShare, folder: Path) -> None:
    result = old.deploy()
    assert read_live(old.share).current == result.release
    (folder / "CURRENT").write_text(f"{old.release}\n")
    with started(folder) as port:
        assert get(port, "/healthz") == "alive"
        assert get(port, "/version") == {"release": old.release, "version": "0.0.9"}

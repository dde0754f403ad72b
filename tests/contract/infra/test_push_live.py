"""A push to the local cloud's share, which a real server on that share serves without a restart."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.az.app import App, fetch_version
from infra.az.revision import Replica
from infra.clock import SystemClock
from infra.console import Console
from infra.deploy_context import DeployContext
from infra.errors import RemoteError
from infra.models.hash_cache import HashCache
from infra.models.selection import Selection, load_upload_sets
from infra.models.weights import read_adapter
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.release.releases import set_current
from infra.verbs.models import change_version_in
from infra.verbs.push import Publication, PushResult, push_upload_sets, remove_adapter
from localcloud.runtime.sockets import free_port
from tests.doubles.background import at_once
from tests.doubles.tiny import BASE, save_adapter, save_base, word_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.az.revision import NoResponse, Revision, Snapshot, VersionResponse
    from infra.share.azure import AzureShare

REPOSITORY = Path(__file__).resolve().parents[3]
RELEASE = "20260101T120000Z-0123abcd"
REVISION, REPLICA = "app--1", "app--1-1"
PATIENCE_S = 120.0
KEY = "key"

pytestmark = [
    pytest.mark.model,
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


class ServerApp(App):
    """An app with one server, which must not be restarted."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def revision(self) -> tuple[Revision, bool]:
        raise AssertionError("there is nothing to restart")

    def snapshot(self, revision: str) -> Snapshot:
        raise AssertionError(revision)

    def replicas(self, revision: str) -> tuple[Replica, ...]:
        assert revision == REVISION
        return (Replica(REPLICA, is_started=True, is_ready=True),)

    def restart(self, revision: str) -> None:
        raise AssertionError(revision)

    def activate(self, revision: str) -> None:
        raise AssertionError(revision)

    def version(self) -> VersionResponse | NoResponse:
        return fetch_version(self.url)

    def console_tail(self, replica: str) -> tuple[str, ...]:
        raise AssertionError(replica)

    def is_stopped(self) -> bool:
        return False


@dataclass
class Stage:
    """A share, the weights to push to it, and a server on it."""

    share: AzureShare
    source: Path
    app: ServerApp

    def open(self) -> DeployContext:
        clock, console = SystemClock(), Console(io.StringIO())
        lock = DeployLock(self.share, clock, Holder("ida", "laptop", 1, 0.0, "machine"), console.warn)
        return DeployContext(self.share, self.app, lock, clock, console, at_once, timeout_s=60.0)

    def push(self, name: str, publication: Publication = "replace") -> PushResult:
        folder = self.source / "models" / name / "adapter"
        selection = Selection(read_adapter(folder), name, BASE, self.source / "model-cache" / BASE)
        hashes = HashCache(self.source / "hashes.json", SystemClock())
        upload_sets = load_upload_sets(selection, hashes)
        return push_upload_sets(self.open(), selection, upload_sets, publication=publication)

    def ask(self, model: str) -> tuple[int, Any]:
        """Return the status and the text of a completion, or the code of its error."""
        body = {"model": model, "prompt": "w9 w10 w11", "max_tokens": 8, "temperature": 0}
        request = urllib.request.Request(
            f"{self.app.url}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return 200, json.load(response)["choices"][0]["text"]
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)["error"]["code"]

    def list_models(self) -> dict[str, int | None]:
        """Return the names in the API, and the version that each means."""
        url, headers = f"{self.app.url}/v1/models", {"Authorization": f"Bearer {KEY}"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return {model["id"]: model.get("version") for model in json.load(response)["data"]}


@contextmanager
def serving(mount: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run the server on a share until it is ready."""
    port = free_port()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FJARR_")} | {
        "FJARR_MOUNT": str(mount), "FJARR_HOST": "127.0.0.1", "FJARR_PORT": str(port),
        "FJARR_API_KEYS": KEY, "FJARR_RELEASE": RELEASE, "FJARR_DEVICE": "cpu", "FJARR_DTYPE": "float32",
        "FJARR_KV_CACHE_TOKENS": "4096", "FJARR_THREADS": "1",
        "CONTAINER_APP_REVISION": REVISION, "CONTAINER_APP_REPLICA_NAME": REPLICA,
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "inference.server"], cwd=REPOSITORY, env=environ)
    with process:
        try:
            deadline_s = time.monotonic() + PATIENCE_S
            while getattr(fetch_version(f"http://127.0.0.1:{port}"), "is_ready", False) is False:
                assert process.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
            yield process, port
        finally:
            process.terminate()


def test_adapters_come_change_and_go_without_a_restart(
    share: AzureShare, folder: Path, tmp_path: Path
) -> None:
    save_base(tmp_path, word_tokenizer(64), hidden=64)
    for number, name in enumerate(("first", "second", "third")):
        save_adapter(tmp_path, name, rank=2 + number, std=0.5)
    stage = Stage(share, tmp_path, ServerApp(9))
    assert not stage.push("first").is_restarted
    set_current(share, RELEASE)
    with serving(folder) as (process, port):
        stage.app = ServerApp(port)
        base, first = stage.ask(BASE), stage.ask("first")
        assert (base[0], first[0], stage.ask("second")) == (200, 200, (404, "model_not_found"))

        pushed = stage.push("second")
        assert (pushed.is_live, pushed.is_restarted, pushed.uploaded_files) == (True, False, 2)
        second = stage.ask("second")
        assert len({base, first, second}) == 3
        assert (stage.ask(BASE), stage.ask("first")) == (base, first)

        (tmp_path / "models" / "second").rename(tmp_path / "models" / "old")
        (tmp_path / "models" / "third").rename(tmp_path / "models" / "second")
        kept = stage.push("second", "keep")
        assert (kept.is_live, kept.model, kept.kept) == (True, "second@2", "second@1")
        assert kept.replicas == (REPLICA,)
        changed = stage.ask("second")
        assert changed[0] == 200
        assert changed != second
        assert (stage.ask("second@2"), stage.ask("second@1")) == (changed, second)
        assert stage.list_models() == {
            BASE: None, "first": 1, "first@1": 1, "second": 2, "second@2": 2, "second@1": 1,
        }  # fmt: skip

        change_version_in(stage.open(), "current", "second@1")
        assert (stage.ask("second"), stage.ask("second@2")) == (second, (404, "model_not_found"))
        change_version_in(stage.open(), "current", "second@2")

        # Trained on a smaller base, which only the server can tell here.
        save_base(tmp_path / "smaller", word_tokenizer(64), hidden=32)
        (tmp_path / "models" / "second").rename(tmp_path / "models" / "third")
        save_adapter(tmp_path / "smaller", "second").parent.rename(tmp_path / "models" / "second")
        with pytest.raises(RemoteError) as caught:
            stage.push("second")
        assert caught.value.details[0] == "turned back: second@2 is live again"
        assert "replica app--1-1: the adapter second@3 " in caught.value.details[1]
        assert stage.ask("second") == changed

        removed = remove_adapter(stage.open(), "first@1")
        assert (removed.is_live, removed.is_restarted) == (True, False)
        assert stage.ask("first") == (404, "model_not_found")
        assert (stage.ask("second"), stage.ask(BASE)) == (changed, base)
        assert not (folder / "models" / "first" / "1").exists()
        assert process.poll() is None

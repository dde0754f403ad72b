"""How many requests to the share a push makes, over TLS, and which of them grow with what is there."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

import pytest
from aiohttp import web

from infra.console import Console
from infra.deploy_context import DeployContext
from infra.errors import RemoteError
from infra.models.adapter_index import read_index
from infra.models.hash_cache import HashCache
from infra.models.selection import Selection, load_upload_sets, resolve_base
from infra.models.weights import read_adapter
from infra.release.holder import Holder
from infra.release.lock import DeployLock
from infra.release.releases import set_current, set_proven
from infra.share.azure import AzureShare, connect
from infra.verbs.push import PushResult, push_upload_sets
from tests.doubles.background import at_once
from tests.doubles.file_server import KEY
from tests.doubles.indexing_app import IndexingApp
from tests.doubles.model_folders import make_adapter, make_base, tensors
from tests.doubles.mounted_share import MountedShare
from tests.doubles.weights_world import LIVE

if TYPE_CHECKING:
    from pathlib import Path

    from infra.clock import ManualClock
    from infra.share.errors import ShareAddress
    from tests.doubles.file_server import FileServer

BASE = "org/base"


@dataclass
class Machine:
    """A machine from which adapters are pushed to a stage that serves, each over a new connection."""

    place: ShareAddress
    server: FileServer
    clock: ManualClock
    app: IndexingApp
    root: Path

    def push(self, name: str, text: str) -> tuple[PushResult, list[str]]:
        """Push an adapter, and return the requests that the pipeline made."""
        self.clock.sleep(60)
        console, hashes = Console(io.StringIO()), HashCache(self.root / "hashes.json", self.clock)
        adapter = read_adapter(make_adapter(self.root / name, text=text))
        with connect(self.place, KEY, self.server.ca, self.clock) as share:
            self.server.requests.clear()
            lock = DeployLock(share, self.clock, Holder("ida", "laptop", 1, 0.0, "machine"), console.warn)
            context = DeployContext(share, self.app, lock, self.clock, console, at_once, 300.0)
            selection = resolve_base(share, Selection(adapter, name, BASE, None), console)
            result = push_upload_sets(context, selection, load_upload_sets(selection, hashes))
            return result, list(self.server.requests)


@pytest.fixture
def machine(  # noqa: PLR0913, PLR0917 - the parts of a stage
    share: AzureShare,
    place: ShareAddress,
    server: FileServer,
    clock: ManualClock,
    folder: Path,
    tmp_path: Path,
) -> Machine:
    """A stage with a base model and a live release."""
    base = make_base(tmp_path / "base")
    for path in base.iterdir():
        share.put(f"model-cache/{BASE}/{path.name}", path.read_bytes())
    share.put(f"releases/{LIVE}/release.json", b"{}")
    set_current(share, LIVE)
    set_proven(share, LIVE)
    app = IndexingApp(cast("AzureShare", MountedShare(folder)), clock, replicas=1)
    app.version()
    clock.sleep(10)
    return Machine(place, server, clock, app, tmp_path)


def test_a_changed_adapter_costs_the_same_however_many_versions_are_kept(machine: Machine) -> None:
    machine.push("other", "other")
    machine.push("mine", "1")
    counts = []
    for number in range(2, 7):
        result, requests = machine.push("mine", f"text {number}")
        assert (result.model, result.is_live, result.uploaded_files) == (f"mine@{number}", True, 2)
        assert len(requests) <= 26, requests
        counts.append(len(requests))
    assert len(set(counts)) == 1, counts


def test_the_index_and_the_numbers_are_read_once_more_under_the_lock(machine: Machine) -> None:
    machine.push("mine", "1")
    _, requests = machine.push("mine", "2")
    lock = next(number for number, each in enumerate(requests) if ".lock" in each and "comp=rename" in each)
    after = [unquote(each) for each in requests[lock:] if each.startswith("GET")]
    assert sum("/models/index.json" in each for each in after) == 1
    assert sum("/models/mine?" in each for each in after) == 1


def test_the_same_adapter_again_costs_no_change_and_a_version_is_found_by_its_digest(
    machine: Machine, share: AzureShare
) -> None:
    for text in ("1", "2", "3"):
        machine.push("mine", text)
    same, requests = machine.push("mine", "3")
    assert not same.has_changed
    assert {each.partition(" ")[0] for each in requests} == {"GET"}
    back, _ = machine.push("mine", "1")
    assert (back.model, back.is_new_version, back.uploaded_files) == ("mine@1", False, 0)
    index = read_index(share)
    assert sorted(index.versions["mine"]) == [1, 2, 3]
    assert index.adapters["mine"].number == 1


def test_an_index_of_an_earlier_version_of_the_tool_is_completed(machine: Machine, share: AzureShare) -> None:
    machine.push("mine", "1")
    machine.push("mine", "2")
    complete = read_index(share)
    text = (share.read("models/index.json") or b"").decode()
    start, end = text.index('"versions"'), text.index('"adapters"')
    share.write("models/index.json", (text[:start] + text[end:]).encode())
    assert read_index(share) == complete
    same, _ = machine.push("mine", "2")
    assert not same.has_changed
    assert machine.push("mine", "3")[0].model == "mine@3"
    assert sorted(read_index(share).versions["mine"]) == [1, 2, 3]


def lose_answer(server: FileServer, number: int) -> None:
    """Lose the answer to one of the next requests."""
    left = iter(range(number))

    def is_lost(_request: web.Request) -> bool:
        if next(left, None) is not None:
            return False
        server.lost.clear()
        return True

    server.lost.append(is_lost)


def test_an_answer_that_is_lost_anywhere_is_no_failure(machine: Machine, server: FileServer) -> None:
    machine.push("mine", "0")
    _, requests = machine.push("mine", "1")
    changes = [number for number, each in enumerate(requests) if not each.startswith("GET")]
    for count, lost in enumerate(changes):
        lose_answer(server, lost)
        result, _ = machine.push("mine", f"text {lost}")
        assert (result.version, result.is_live) == (count + 3, True), requests[lost]
        assert server.lost == []


def test_a_share_that_refuses_in_the_middle_says_so_and_the_next_push_goes_on(
    machine: Machine, server: FileServer, share: AzureShare
) -> None:
    machine.push("mine", "0")
    _, requests = machine.push("mine", "1")
    body = "<Error><Code>AuthenticationFailed</Code><Message>because</Message></Error>"
    messages = list[str]()
    for last in range(0, len(requests), 3):
        left = iter(range(last))

        def refuse(_request: web.Request) -> web.Response | None:
            if next(left, None) is not None:  # noqa: B023  # called within this turn of the loop only
                return None
            headers = {"x-ms-error-code": "AuthenticationFailed"}
            return web.Response(status=403, text=body, headers=headers, content_type="application/xml")

        server.instead[:] = [refuse]
        try:
            machine.push("mine", f"text {last}")
        except RemoteError as error:
            messages.append(error.message)
        server.instead.clear()
        result, _ = machine.push("mine", f"text {last}")
        content = share.read(f"models/mine/{result.version}/adapter/adapter_model.safetensors")
        assert content == tensors(f"text {last}")
        assert read_index(share).adapters["mine"].number == result.version
    assert len(messages) > 5
    assert all("AuthenticationFailed: because" in each and "to audit/" not in each for each in messages)

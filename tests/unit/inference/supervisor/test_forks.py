"""Servers that are forks of a process with imported libraries: the real ones, with a fake server."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from inference.imports import Imports
from inference.supervisor import forks as module
from inference.supervisor.child import Child
from inference.supervisor.fork_server import import_all
from inference.supervisor.forks import ForkError, Forks, ForkServer, Preload
from inference.supervisor.orphans import adopt_orphans
from tests.unit.inference.supervisor.conftest import ONE, TWO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.inference.supervisor.conftest import Container

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")

ENGINE = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); signal.pause()\n"
LIBRARY = """
import os
import numpy
assert os.environ["FOR_LIBRARIES"] == "1"
os.environ["OF_LIBRARY"] = "1"
"""
THREADED = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"


@pytest.fixture
def forking(container: Container, monkeypatch: pytest.MonkeyPatch) -> Iterator[Container]:
    """A container whose supervisor, in this process, adopts orphans."""
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 0)
    libraries = container.mount.parent / "libraries"
    libraries.mkdir()
    (libraries / "slow_library.py").write_text(LIBRARY)
    (libraries / "threaded.py").write_text(THREADED)
    container.forks = Forks()
    container.environ = {"PYTHONPATH": str(libraries), "FJARR_API_KEYS": "ann=sha256:0"}
    assert adopt_orphans()
    yield container
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


async def stop(container: Container) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    assert await container.end() == 0


async def until_prepared(container: Container) -> ForkServer:
    async with asyncio.timeout(30):
        while container.forks is None or container.forks._server is None:  # noqa: ASYNC110 - it polls
            await asyncio.sleep(0.01)
    return container.forks._server


async def test_the_next_server_is_a_fork_that_has_its_libraries_already(forking: Container) -> None:
    for name in (ONE, TWO):
        forking.release(name, "reports slow_library", inference__engine_process=ENGINE, inference__n=name)
    await forking.start(ONE)
    first = await forking.serving(ONE)
    assert first["preloaded"] == []
    server = await until_prepared(forking)
    # The process that forks knows no keys.
    environ = server.preload.environ
    assert "FJARR_API_KEYS" not in environ
    forking.want(TWO)
    second = await forking.serving(TWO)
    assert second["preloaded"] == ["numpy", "slow_library"]
    # It is what a process would be that was started in its release's folder.
    assert second["parent"] == os.getpid()
    assert second["session"] == second["pid"] != server._process.pid
    assert second["folder"] == second["path"] == second["file"].removesuffix("/inference/server.py")
    assert second["folder"].endswith(TWO)
    added = {"FOR_LIBRARIES", "OF_LIBRARY"}
    assert set(second["variables"]) == (set(first["variables"]) | added)
    assert "OPENBLAS_NUM_THREADS" not in second["variables"]
    # After a crash as well; and each fork has random numbers of its own.
    await forking.crash()
    third = await forking.until(lambda document: document.get("pid") not in {None, second["pid"]})
    assert third["preloaded"] == second["preloaded"]
    assert third["random"] != second["random"]
    await stop(forking)
    assert not server.is_running


async def test_libraries_that_start_threads_are_imported_by_each_server(
    forking: Container, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in (ONE, TWO):
        forking.release(name, "reports threaded", inference__engine_process=ENGINE, inference__n=name)
    await forking.start(ONE)
    await forking.serving(ONE)
    async with asyncio.timeout(30):
        while "have started 1 threads" not in caplog.text:  # noqa: ASYNC110 - it polls the log
            await asyncio.sleep(0.01)
    forking.want(TWO)
    assert (await forking.serving(TWO))["preloaded"] == []
    await stop(forking)
    # It is not tried again.
    assert caplog.text.count("the next server imports its libraries itself") == 1


async def test_a_server_starts_the_plain_way_if_what_forks_has_died(
    forking: Container, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (ONE, TWO):
        forking.release(name, "reports slow_library", inference__engine_process=ENGINE, inference__n=name)
    await forking.start(ONE)
    await forking.serving(ONE)
    server = await until_prepared(forking)
    server._process.kill()
    forking.want(TWO)
    assert (await forking.serving(TWO))["preloaded"] == []
    assert "no fork of the imported libraries: " in caplog.text
    await stop(forking)


async def test_other_engine_code_is_served_by_a_server_that_imports_anew(
    forking: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.supervisor.supervisor.fits_beside", lambda _use: True)
    forking.release(ONE, "reports slow_library", inference__engine_process=ENGINE)
    forking.release(TWO, "reports slow_library", inference__engine_process=ENGINE + "# other\n")
    await forking.start(ONE)
    await forking.serving(ONE)
    before = await until_prepared(forking)
    forking.want(TWO)
    assert (await forking.serving(TWO))["preloaded"] == []
    assert not before.is_running
    assert (await until_prepared(forking)) is not before
    await stop(forking)


def preload(*modules: str, **environ: str) -> Preload:
    imports = Imports(modules, (), {"FOR_LIBRARIES": "1"})
    return Preload(imports, None, {"PATH": os.environ["PATH"], **environ})


async def test_more_libraries_and_other_packages_make_another_process(
    forking: Container, tmp_path: Path
) -> None:
    forks = Forks()
    await forks.prepare(preload("json"))
    first = forks._server
    await forks.prepare(preload("json"))
    assert forks._server is first
    await forks.prepare(preload("html"))
    second = forks._server
    assert second is not None
    assert second is not first
    assert second.preload.imports.modules == ("json", "html")
    # Other packages need another process, which has begun anew.
    assert await forks.start("m", tmp_path, {}, forking.listener, tmp_path) is None
    await forks.prepare(Preload(Imports(("html",)), tmp_path, {"PATH": os.environ["PATH"]}))
    assert forks._server is not None
    assert forks._server.preload.imports.modules == ("html",)
    forks.close()
    assert await forks.start("m", tmp_path, {}, forking.listener, None) is None


async def test_without_free_memory_nothing_is_imported_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    forks = Forks()
    for free in (None, module.MIN_FREE_BYTES - 1):
        monkeypatch.setattr(module, "free_bytes", lambda free=free: free)
        await forks.prepare(preload("json"))
        assert forks._server is None


async def test_a_fork_that_fails_ends_with_the_last_line_of_its_output(
    forking: Container, tmp_path: Path
) -> None:
    server = await ForkServer.start(preload("json", "there_is_no_such_library"))
    child = await server.fork("no_such_module", tmp_path, {}, forking.listener)
    assert isinstance(child, Child)
    assert await child.ended == 1
    assert child.explain() == "it ended with exit code 1: ImportError: No module named no_such_module"
    # A signal is seen as one, and an exit code as one.
    (tmp_path / "waits.py").write_text("import signal\nsignal.pause()\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(7)\n")
    waiting = await server.fork("waits", tmp_path, {}, forking.listener)
    assert await waiting.end() == -signal.SIGTERM
    assert await (await server.fork("exits", tmp_path, {}, forking.listener)).ended == 7
    server.close()
    with pytest.raises(ForkError):
        await server.fork("exits", tmp_path, {}, forking.listener)


async def test_a_process_that_does_not_answer_is_given_up(
    forking: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORK_TIMEOUT_S", 0.05)
    forks = Forks()
    await forks.prepare(preload("json"))
    assert forks._server is not None
    forks._server._process.send_signal(signal.SIGSTOP)
    assert await forks.start("m", tmp_path, {}, forking.listener, None) is None
    assert forks._server is None


def test_modules_are_imported_in_order_and_blocked_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "needs_blocked.py").write_text("import blocked_library\n")
    (tmp_path / "blocked_library.py").write_text("")
    known: dict[str, Any] = dict(sys.modules)
    monkeypatch.setattr(sys, "modules", known)
    assert import_all(["json", "needs_blocked"], ["blocked_library"]) == ["needs_blocked"]

"""Guards for every test: no access to the user's files and settings, no network but loopback, no az.

A test that needs az has the marker `az`. A test that breaks a guard fails at once with a message.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from platformdirs import user_cache_path

_NUMBERS = itertools.count()
_LOOPBACK = ("127.", "localhost", "::1")
_OURS = ("AZURE_", "ARM_", "FJARR_")
_KEPT_VARIABLES = ("AZURE_BICEP_USE_BINARY_FROM_PATH", "AZURE_BICEP_CHECK_VERSION")

# What takes longest comes first, so that no process of a run in parallel is alone with it at the end.
_LONGEST: Final = (
    # In the run with the real az.
    "tests/unit/inference/supervisor/test_swap.py",
    "tests/contract/test_az.py",
    "tests/contract/infra/test_provision.py",
    "tests/contract/infra/test_provision_groups.py",
    "tests/contract/infra/test_handover.py",
    # In the run that is measured.
    "tests/unit/inference/web/chat/test_browser.py",
    "tests/unit/inference/web/test_fuzz.py",
    "tests/contract/infra/test_push_live.py",
    "tests/unit/inference/web/chat/test_access.py",
    "tests/unit/examples/test_training.py",
    "tests/unit/inference/test_engine_process.py",
    "tests/contract/test_daemon.py",
    "tests/unit/inference/engines/transformers/test_engine.py",
    "tests/unit/inference/engines/test_conformance.py",
    "tests/unit/inference/engines/transformers/test_process.py",
    "tests/unit/test_monitoring.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C work, and let hypothesis try the same examples each time, without deadlines."""
    # A shell's background job ignores it, and so would all processes that the tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.pluginmanager.hasplugin("hypothesispytest"):
        import hypothesis  # noqa: PLC0415 - the environments of some engines have none

        hypothesis.settings.register_profile(
            "fjarr",
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=[hypothesis.HealthCheck.too_slow],
            # What explains a failure traces every line of every example, which takes ten times as long.
            phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink),
        )
        hypothesis.settings.load_profile("fjarr")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the files that take longest to the front."""
    places = {str(config.rootpath / path): place for place, path in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(str(item.path), len(places)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the engines' tests run on a GPU; `benchmarks/gpu.sh` does so."""
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where real engines compute")


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, homes: Path) -> Path:
    """Give every test a home of its own, so that nothing of the user's is read or written.

    The cache of base models stays the user's: it holds downloads, checked by their digests, and no settings.
    """
    cache = os.environ.get("FJARR_CACHE_DIR") or str(user_cache_path("fjarr"))
    home = homes / str(next(_NUMBERS))
    home.mkdir()
    for name in list(os.environ):
        if name.startswith(_OURS) and name not in _KEPT_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(home / ".azure"))
    monkeypatch.setenv("FJARR_CACHE_DIR", cache)
    return home


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave this machine."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def judge(address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(_LOOPBACK):
            pytest.fail(f"a test tried to connect to {address[0]!r}; tests stay on this machine")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        judge(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        judge(address)
        return connect_ex(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)


@pytest.fixture(autouse=True)
def no_az_unless_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to start az in a test that does not carry the marker `az`."""
    if request.node.get_closest_marker("az") is None:
        original = subprocess.Popen.__init__

        def guarded(self: subprocess.Popen[Any], args: Any, *rest: Any, **keywords: Any) -> None:
            words = [args] if isinstance(args, (str, bytes, os.PathLike)) else list(args)
            first, *others = [os.fsdecode(word) for word in words]
            if Path(first).name in {"az", "az.bat"} or "azure.cli" in others:
                pytest.fail("this test started az; mark it with @pytest.mark.az if it should")
            original(self, args, *rest, **keywords)

        monkeypatch.setattr(subprocess.Popen, "__init__", guarded)

"""Processes and scratch files of replicas that a killed daemon left behind, found by their ledgers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from localcloud.runtime.processes import ProcessTree
from localcloud.runtime.workspace import LEDGER, remove_directories

if TYPE_CHECKING:
    from pathlib import Path

LOGGER: Final = logging.getLogger(__name__)


def kill_orphans(state: Path, timeout_s: float) -> tuple[str, ...]:
    """Kill the processes that replicas of an earlier daemon left running, and remove their scratch files.

    Blocks. Must not be called while a daemon runs on the same directory: its replicas would be killed. Only
    processes that certainly belong to a replica are killed (see `localcloud.runtime.processes`).

    Args:
        state: The runtime's directory.
        timeout_s: How long to try, for each replica.

    Returns:
        The names of the replicas that were found. One with processes that could not be killed is logged, and
        stays for the next call.
    """
    found = []
    ledgers = [*state.glob(f"apps/*/replicas/*/{LEDGER}"), *state.glob(f"jobs/*/replicas/*/{LEDGER}")]
    for ledger in sorted(ledgers):
        found.append(ledger.parent.name)
        tree = _tree_of(ledger)
        if stuck := tree.kill(timeout_s):
            LOGGER.warning("processes %s of replica %s could not be killed", stuck, ledger.parent.name)
            continue
        remove_directories(ledger.parent)
        tree.close()
    return tuple(found)


def _tree_of(ledger: Path) -> ProcessTree:
    try:
        return ProcessTree.load(ledger)
    except (ValueError, KeyError, TypeError):
        # A damaged ledger's directory has the replica's name, which is in the environment of its processes.
        return ProcessTree(ledger.parent.name, ledger)

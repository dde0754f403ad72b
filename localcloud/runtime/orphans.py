"""What a daemon leaves that was killed: processes, symlinks and scratch files; found on disk and removed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from localcloud.runtime.processes import ProcessTree
from localcloud.runtime.workspace import LEDGER, remove_directories

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)


def kill_orphans(state: Path, timeout_s: float) -> tuple[str, ...]:
    """Kill the processes of all replicas that an earlier daemon left running, and remove their scratch files.

    It must not be called while a daemon runs on the same directory: that one's replicas would be killed. A
    process is killed only if it is surely one of a replica's (see `localcloud.runtime.processes`). It blocks.

    Args:
        state: The runtime's directory.
        timeout_s: How long to insist, for each replica.

    Returns:
        The names of the replicas that had been left. One whose processes could not be killed is left for the
        next time, and named in the log.
    """
    left = []
    for ledger in sorted(state.glob(f"apps/*/replicas/*/{LEDGER}")):
        left.append(ledger.parent.name)
        tree = _tree_of(ledger)
        if stuck := tree.kill(timeout_s):
            _log.warning("processes %s of replica %s could not be killed", stuck, ledger.parent.name)
            continue
        remove_directories(ledger.parent)
        tree.close()
    return tuple(left)


def _tree_of(ledger: Path) -> ProcessTree:
    try:
        return ProcessTree.load(ledger)
    except (ValueError, KeyError, TypeError):
        # A torn ledger still names its replica, by its directory; the processes carry that name.
        return ProcessTree(ledger.parent.name, ledger)

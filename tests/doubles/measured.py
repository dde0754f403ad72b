"""The variables by which coverage measures a process that a test gives an environment of its own."""

from __future__ import annotations

import os


def measured() -> dict[str, str]:
    """Return coverage's variables of this process; empty where nothing is measured.

    Source: coverage's documentation, "Measuring subprocesses"; `patch = ["subprocess"]` sets them.
    """
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_PROCESS_")}

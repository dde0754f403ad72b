"""What a person sees of a deployment on a real terminal: while it runs, afterwards, and after Ctrl-C."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from select import select
from typing import Final, Self

import pytest

from tests.doubles import shown_deployment
from tests.doubles.screen import Screen
from tests.doubles.shown_deployment import ACCOUNT, APP, ENVIRONMENT, GROUP, REPOSITORY

PATIENCE_S: Final = 60.0
CTRL_C: Final = b"\x03"


class ShownDeployment:
    """A deployment in a process of its own, on a terminal of its own. A context manager.

    Attributes:
        screen: What the terminal shows.
    """

    def __init__(self, columns: int) -> None:
        self.screen = Screen(columns)
        self._master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._is_over, self._end = os.pipe()
        kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        self._process = subprocess.Popen(
            [sys.executable, "-m", shown_deployment.__name__, str(self._is_over), str(self._end)],
            stdin=slave, stdout=slave, stderr=slave, cwd=REPOSITORY, env=kept | {"TERM": "xterm"},
            pass_fds=(self._is_over, self._end), start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()
        for descriptor in (self._master, self._is_over, self._end):
            os.close(descriptor)

    def watch(self) -> list[str]:
        """Return the lines of the screen once the title and the three resources are shown."""
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self.screen.lines) < 4 or not self.screen.lines[3].endswith(" s"):
            assert time.monotonic() < deadline_s, self.screen.lines
            self._read()
        return self.screen.lines

    def press_ctrl_c(self) -> int:
        """Send what the key sends, and return the exit code when all that was written is on the screen."""
        os.write(self._master, CTRL_C)
        return self._wait()

    def end(self) -> int:
        """Let the deployment end, and return the exit code when all that was written is on the screen."""
        os.write(self._end, b".")
        return self._wait()

    def _wait(self) -> int:
        while self._read():
            pass
        return self._process.wait(PATIENCE_S)

    def _read(self) -> bool:
        readable, _, _ = select([self._master], [], [], PATIENCE_S)
        assert readable, self.screen.lines
        try:
            written = os.read(self._master, 1 << 16)
        except OSError:
            return False  # the process has ended
        self.screen.write(written.decode())
        return True


def without_times(lines: list[str]) -> list[str]:
    """Return lines without the times at their ends, which must be there."""
    rests = [re.fullmatch(r"(.*)  \d+\.\d s", line) for line in lines]
    assert all(rests), lines
    return [rest[1] for rest in rests if rest is not None]


LIVE_80: Final = [
    "  ✓ storage account contosocustomersupport7f",
    "  … environment contoso-customer-support-production-environment-7f3k2",
    "  … container app contoso-customer-support-…cket-triage-fine-tuned-app",
]
LIVE_40: Final = [
    "  ✓ storage accoun…support7f",
    "  … environment con…ent-7f3k2",
    "  … container app c…-tuned-app",
]
TITLE: Final = f"deploy inference.json to {GROUP.name}"


@pytest.mark.parametrize(
    ("columns", "title", "live"),
    [(80, TITLE, LIVE_80), (40, "deploy inference.json…-production-rg", LIVE_40)],
)
def test_a_resource_has_one_line_with_its_state_and_time_and_all_of_its_name_at_the_end(
    columns: int, title: str, live: list[str]
) -> None:
    with ShownDeployment(columns) as shown:
        first, *rows = shown.watch()
        assert first[2:] == title
        assert without_times(rows) == live
        assert shown.screen.written_lines == shown.screen.lines
        assert not shown.screen.shows_cursor
        assert shown.end() == 4
    assert without_times(shown.screen.written_lines) == [
        f"  ✓ storage account {ACCOUNT[1]}",
        f"  ✓ environment {ENVIRONMENT[1]}",
        f"  ✗ container app {APP[1]}",
        f"✗ {TITLE}: failed",
    ]
    assert shown.screen.shows_cursor


@pytest.mark.parametrize("columns", [80, 40])
def test_after_ctrl_c_the_last_line_says_that_azure_goes_on_and_what_follows_it(columns: int) -> None:
    with ShownDeployment(columns) as shown:
        shown.watch()
        assert shown.press_ctrl_c() == 130, shown.screen.lines
    *resources, outcome, last = shown.screen.written_lines
    assert without_times([*resources, outcome]) == [
        f"  ✓ storage account {ACCOUNT[1]}",
        f"  … environment {ENVIRONMENT[1]}",
        f"  … container app {APP[1]}",
        f"✗ {TITLE}: interrupted",
    ]
    assert last == (
        "warning: interrupted; Azure goes on with the deployment inference: invoke provision --stage azure "
        "follows it, and this cancels it: az deployment group cancel --name inference "
        f"{' '.join(GROUP.flags)}"
    )
    assert shown.screen.shows_cursor

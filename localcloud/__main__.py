"""The command line of the local cloud: `python -m localcloud start|stop|status|serve --state DIR`.

stdout is one JSON document (nothing for `serve`); errors go to stderr. Exit codes: 0 done, 2 usage, 3 from
`status` when it does not run, 1 when something failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final, NoReturn

from localcloud import daemon
from localcloud.operating_system import IS_SUPPORTED

NOT_RUNNING: Final = 3


def main(arguments: list[str] | None = None) -> int:
    """Run one command, and return the exit code."""
    if not IS_SUPPORTED:
        print("error: the local cloud needs a Unix; on Windows use WSL 2", file=sys.stderr)  # noqa: T201 - as below
        return 1
    parsed = _parser().parse_args(arguments)
    state = Path(parsed.state)
    try:
        return _run(parsed.command, state)
    except daemon.DaemonError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command line reports errors here
        return 1


def _run(command: str, state: Path) -> int:
    if command == "serve":
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        daemon.serve(state, os.environ)
    elif command == "start":
        signal.signal(signal.SIGTERM, _raise_exit)  # a start that is interrupted leaves no daemon behind
        _print(asdict(daemon.start(state, os.environ)))
    elif command == "stop":
        _print({"stopped": daemon.stop(state)})
    else:
        found = daemon.find(state)
        _print({"running": False} if found is None else {"running": True, **asdict(found)})
        return NOT_RUNNING if found is None else 0
    return 0


def _raise_exit(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def _print(document: dict[str, object]) -> None:
    print(json.dumps(document, indent=2))  # noqa: T201 - the result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m localcloud", description="An Azure on this machine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("start", "start it in the background, unless it runs, and print how to reach it"),
        ("stop", "stop it, with everything that it runs"),
        ("status", "print how to reach it; exit 3 if it does not run"),
        ("serve", "run the daemon in the foreground"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--state", required=True, metavar="DIR", help="its directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())

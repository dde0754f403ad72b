"""A process that has imported a server's libraries beforehand, and forks into servers.

Importing libraries takes most of the start of a server. This process imports them once, and nothing of any
release: each fork runs the code of the release that it is started for, in that release's folder. It has one
thread when it forks, since a fork has only the thread that made it, and locks that others hold stay locked.

Run as `python3 -P PATH FD`, by path and with `-P`, so that it imports nothing of the release that it belongs
to. The modules to import are JSON on standard input; FD is a Unix socket of whole messages (SOCK_SEQPACKET),
on which the supervisor requests forks. The end of the supervisor ends it. Imports the standard library only.

A fork is a child of the supervisor, not of this process: a process in between ends at once, and the kernel
gives orphans to the closest ancestor that asks for them. Source: prctl(2), PR_SET_CHILD_SUBREAPER.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_MESSAGE_BYTES: Final = 1 << 20
MAX_DESCRIPTORS: Final = 8

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2


def main() -> str | None:
    """Import the libraries, then fork for each request. Return in forks only: the module that a fork runs."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    wanted = json.load(sys.stdin)
    failed = import_all(wanted["modules"], wanted["blocked"])
    for name in wanted["private"]:
        os.environ.pop(name, None)
    if (threads := count_threads()) > 1:
        _send(
            channel, refused=f"the libraries have started {threads - 1} threads, which a fork would not have"
        )
        return None
    # Objects that no collection visits are shared with the forks for good.
    gc.collect()
    gc.freeze()
    _send(channel, ready=True, failed=failed)
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        if not message:
            return None
        request = json.loads(message)
        pid = fork_orphan()
        if pid == 0:
            channel.close()
            become(request, descriptors)
            module: str = request["module"]
            return module
        for descriptor in descriptors:
            os.close(descriptor)
        if pid is None:
            _send(channel, refused="the system starts no more processes")
        else:
            _send(channel, pid=pid)


def import_all(modules: Iterable[str], blocked: Iterable[str]) -> list[str]:
    """Import modules in this order, but for those that are blocked; return those that cannot be imported."""
    for name in blocked:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # makes the import fail, see the reference
    gc.disable()
    failed = []
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, the server finds it out itself
            failed.append(name)
    gc.enable()
    return failed


def count_threads() -> int:
    """Return the threads of this process, those that libraries in C have started included."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are enough


def fork_orphan() -> int | None:
    """Fork a process that is no child of this one. Return its id here, 0 in the fork; None if that failed."""
    reading, writing = os.pipe()
    try:
        between = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        return None
    if between == 0:
        os.close(reading)
        _fork_and_end(writing)
        os.close(writing)
        return 0
    os.close(writing)
    answer = os.read(reading, 32)
    os.close(reading)
    os.waitpid(between, 0)
    return int(answer) if answer else None


def become(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Make this process what one would be that was started in a release's folder.

    Args:
        request: `environ`, the variables in addition to those that libraries have set; `folder`, the working
            directory; `variables`, which get the numbers of the descriptors but the first.
        descriptors: The output, and what the process inherits.
    """
    os.setsid()
    output, *inherited = descriptors
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, _STDIN), (output, _STDOUT), (output, _STDERR)):
        os.dup2(source, target)
    for descriptor in (nothing, output):
        os.close(descriptor)
    for descriptor in inherited:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - its only argument
    numbers = zip(request["variables"], map(str, inherited), strict=True)
    os.environ.update({**request["environ"], **dict(numbers)})
    os.chdir(request["folder"])
    sys.path.insert(0, request["folder"])
    # Python's own generator is seeded anew after a fork, and numpy's is not.
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    # What tools such as ps and top show, besides the command line.
    Path("/proc/self/comm").write_text(request["module"].rpartition(".")[2], encoding="ascii")


def _fork_and_end(writing: int) -> None:
    """Fork, write the fork's id, and end. Returns in the fork only."""
    code = 1
    try:
        pid = os.fork()
        if pid == 0:
            return
        os.write(writing, str(pid).encode())
        code = 0
    except OSError:
        pass
    os._exit(code)


def _send(channel: socket.socket, **message: Any) -> None:  # noqa: ANN401 - JSON
    channel.send(json.dumps(message).encode())


if __name__ == "__main__":
    MODULE = main()
    if MODULE is not None:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)

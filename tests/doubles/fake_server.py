"""A server of the standard library, which tests of the supervisor put into releases as `inference.server`.

It answers every path as the real one answers `/version`, with the state that the supervisor has sent; the
path `/crash` ends it, and of `/slow` only the head is sent before this server retires. The text of the file
`behaviour` beside it can be:

    dies           before it is ready
    fails          with a reason
    dies late      once there is a file `die` on the share
    hangs          before it is ready
    stays          whatever signal it gets
    mute           it accepts and answers nothing
    answers        says how its models have answered
    reports NAME   of a library that it has imported
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RELEASE = os.environ.get("FJARR_RELEASE", "")
REPLICA = os.environ.get("CONTAINER_APP_REPLICA_NAME", "")
CONTROL = socket.socket(fileno=int(os.environ["FJARR_CONTROL_FD"]))
STATE: dict[str, Any] = {}
BEHAVIOUR = Path(__file__).with_name("behaviour").read_text()
RETIRED = threading.Event()
PROCESS: dict[str, Any] = {
    "parent": os.getppid(),
    "session": os.getsid(0),
    "preloaded": sorted({"slow_library", "numpy"} & set(sys.modules)),
    "random": random.random(),  # noqa: S311 - to compare
    "variables": sorted(os.environ),
    "folder": str(Path.cwd()),
    "path": sys.path[0],
    "file": __file__,
}


def send(**message: Any) -> None:
    CONTROL.sendall(json.dumps(message).encode() + b"\n")


def die_late() -> None:
    while not Path(os.environ["FJARR_MOUNT"], "die").exists():
        time.sleep(0.05)
    os._exit(9)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/crash":
            os._exit(9)
        if BEHAVIOUR == "mute":
            threading.Event().wait()
        document = {"release": RELEASE, "replica": REPLICA, "ready": True, "pid": os.getpid()}
        document["started_at"] = str(os.getpid())
        document["engine"] = os.environ.get("FJARR_ENGINE_SOCKET", "")
        document |= PROCESS
        body = json.dumps(STATE | document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/slow":
            RETIRED.wait()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN if BEHAVIOUR == "stays" else lambda *_: os._exit(0))
    if BEHAVIOUR == "dies":
        sys.exit("ModuleNotFoundError: No module named 'nowhere'")
    if BEHAVIOUR == "fails":
        send(failed="cannot serve: there is no model")
        sys.exit(1)
    if BEHAVIOUR == "hangs":
        send(phase="loading", percent=40)
        threading.Event().wait()
    if BEHAVIOUR == "answers":
        send(answers={"base": None, "tuned": "it is broken"})
    send(ready=True, engine_ready=True)
    if BEHAVIOUR.startswith("reports"):
        send(imports={"modules": BEHAVIOUR.split()[1:]})
        send(imports={"environ": {"FOR_LIBRARIES": "1"}, "blocked": ["jax"], "complete": True})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.daemon_threads = BEHAVIOUR == "mute"
    server.socket.close()
    server.socket = socket.socket(fileno=int(os.environ["FJARR_SOCKET_FD"]))
    for line in CONTROL.makefile():
        message = json.loads(line)
        STATE.update(message.get("state", {}))
        if message.get("accept"):
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            send(accepting=True)
            if BEHAVIOUR == "dies late":
                threading.Thread(target=die_late, daemon=True).start()
        if message.get("retire"):
            RETIRED.set()
            break
    server.shutdown()
    server.server_close()  # waits for the requests that run


if __name__ == "__main__":
    main()

"""Report this replica's state on the share, when somebody asks there: for machines that cannot reach the app.

    replicas/ASKED          a question: any text
    replicas/<name>.json    the answer of `/version`, requested inside of this container, with the question
                            as `asked`, and as `answers` how each model answered: null, or why it failed

Without a question nothing is written. While the state changes, it is written again for a minute after one.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from inference.supervisor.releases import RELEASE_ID

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

LOGGER: Final = logging.getLogger(__name__)

FOLDER: Final = "replicas"
QUESTION: Final = "ASKED"

CHECK_S: Final = 1.0
"""The interval at which the question is read."""

FOLLOW_S: Final = 60.0
"""How long changes of the state are reported after a question."""

ANSWER_TIMEOUT_S: Final = 5.0
"""How long the server may take to answer `/version`. One that does not is not ready."""

_MAX_BYTES: Final = 1 << 16
_OK: Final = 200


class Reporter:
    """Answers the questions on the share.

    Args:
        mount: The path at which the share is mounted.
        name: The replica's name; with an empty one, nothing is reported.
        listener: The listening socket, on which the server is asked.
        state: Returns what the supervisor knows: the document of `/version`, in case the server gives none.
        answers: Returns how the models have answered; None if the server does not check that.
    """

    def __init__(
        self,
        mount: Path,
        name: str,
        listener: socket.socket,
        state: Callable[[], dict[str, Any]],
        answers: Callable[[], dict[str, str | None] | None],
    ) -> None:
        self._folder = mount / FOLDER
        self._name = name
        self._listener = listener
        self._state = state
        self._answers = answers
        self._question = ""
        self._until_s = 0.0
        self._reported: object = None
        self._has_failed = False

    async def run(self) -> None:
        """Answer until cancelled. A share that cannot be used changes nothing."""
        if not RELEASE_ID.fullmatch(self._name):
            return
        while True:
            await asyncio.sleep(CHECK_S)
            await self._report_if_asked(asyncio.get_running_loop().time())

    async def _report_if_asked(self, now_s: float) -> None:
        question = await asyncio.to_thread(read_question, self._folder)
        if not question:
            return
        if question != self._question:
            self._question, self._until_s = question, now_s + FOLLOW_S
        state, answers = self._state(), self._answers()
        if now_s > self._until_s or (question, state, answers) == self._reported:
            return
        self._reported = (question, state, answers)
        try:
            await asyncio.to_thread(self._report, question, state, answers)
        except OSError as error:
            if not self._has_failed:
                LOGGER.warning("cannot report on the share: %s", error)
            self._has_failed = True

    def _report(self, question: str, state: dict[str, Any], answers: dict[str, str | None] | None) -> None:
        report = {**state, **ask_version(self._listener), "asked": question}
        if answers is not None:
            report["answers"] = answers
        self._folder.mkdir(exist_ok=True)
        draft = self._folder / f".{self._name}.tmp"
        draft.write_text(json.dumps(report), encoding="utf-8")
        os.replace(draft, self._folder / f"{self._name}.json")  # noqa: PTH105 - the same, in fewer requests


def read_question(folder: Path) -> str:
    """Return the question on the share; empty if there is none, or it cannot be read now."""
    try:
        return (folder / QUESTION).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def ask_version(listener: socket.socket) -> dict[str, Any]:
    """Return the server's own answer of `/version`; if there is none, that it is not ready, and why.

    The request goes over the loopback interface to the port that the ingress forwards to.
    """
    host, port = listener.getsockname()[:2]
    connection = http.client.HTTPConnection(
        {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host),  # noqa: S104 - read, not bound
        port,
        timeout=ANSWER_TIMEOUT_S,
    )
    try:
        connection.request("GET", "/version")
        response = connection.getresponse()
        document = json.loads(response.read(_MAX_BYTES))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = str(error) or type(error).__name__
        return {"ready": False, "phase": f"the server does not answer inside of the container: {reason}"}
    finally:
        connection.close()
    if response.status != _OK or not isinstance(document, dict):
        reason = f"HTTP {response.status}"
        return {"ready": False, "phase": f"the server does not answer inside of the container: {reason}"}
    return document

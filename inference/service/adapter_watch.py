"""Notice that `push` has changed the adapters on the share, and serve what it left there."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from inference.errors import InferenceError, LoadError
from inference.models.adapter_index import AdapterIndex, read_index, selects

if TYPE_CHECKING:
    from pathlib import Path

    from inference.service.adapters import Adapters
    from inference.service.service import Service

LOGGER: Final = logging.getLogger(__name__)

POLL_S: Final = 1.0
"""The time between two reads of the index, each of which is a request or two to the share."""


class AdapterWatch:
    """The adapters of the share's index, compared with those that are served.

    An adapter that was loaded or removed by other means stays so until the index has another version of it.

    Args:
        mount: The share.
        setting: Which adapters are served, as `FJARR_ADAPTER` has it.
        service: The service.
        adapters: Changes the service's adapters.
    """

    def __init__(self, mount: Path, setting: str | None, service: Service, adapters: Adapters) -> None:
        self._mount = mount
        self._setting = setting
        self._service = service
        self._adapters = adapters
        self._known = AdapterIndex()
        self._is_first = True
        self._problem = ""

    async def begin(self) -> None:
        """Read the index before the adapters are loaded."""
        self._known = await self._read() or AdapterIndex()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            try:
                await self.poll()
            except Exception:
                # What is served goes on being served.
                LOGGER.exception("the adapters on the share could not be served")
            await asyncio.sleep(POLL_S)

    async def poll(self) -> None:
        """Read the index, and serve what is new or has changed. Problems are logged once."""
        if self._service.state != "ready":
            return
        index = await self._read()
        if index is not None and (index.generation != self._known.generation or self._is_first):
            await self._apply(index)
            self._is_first = False

    async def _read(self) -> AdapterIndex | None:
        try:
            index = await asyncio.to_thread(read_index, self._mount)
        except (OSError, ValueError) as error:
            self._log_problem(str(error))
            return None
        self._problem = ""
        return index

    async def _apply(self, index: AdapterIndex) -> None:
        served = {model.name for model in self._service.models}
        for name in self._known.adapters.keys() - index.adapters.keys():
            if name in served or name in self._service.failed_adapters:
                with suppress(KeyError):
                    await self._adapters.remove(name)
        for name, entry in index.adapters.items():
            is_new = name not in served and name not in self._service.failed_adapters
            if selects(self._setting, entry.folder) and (is_new or self._known.adapters.get(name) != entry):
                await self._add(name, entry.folder)
        self._known = index
        self._service.adapter_generation = index.generation

    async def _add(self, name: str, folder: str) -> None:
        try:
            await self._adapters.add(name, self._mount / folder)
        except LoadError:
            pass  # It is logged, and the service lists it.
        except InferenceError as error:
            self._log_problem(f"the adapter {name} is not loaded: {error}")

    def _log_problem(self, problem: str) -> None:
        if problem != self._problem:
            LOGGER.warning("%s", problem)
        self._problem = problem

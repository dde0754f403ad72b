"""Notice that `push` has changed the adapters on the share, and serve what it left there."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from inference.errors import InferenceError, LoadError
from inference.models.adapter_index import AdapterIndex, IndexedAdapter, read_index, selects, split_name
from inference.service.model_names import ModelNames

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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
        # What is served is not known yet: names are looked up among what is.
        self._service.names = ModelNames(tuple(self._selected(self._known)))

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
        service = self._service
        wanted = {adapter.model: adapter for adapter in self._selected(index)}
        known = {adapter.model: adapter for adapter in self._known.adapters.values()}
        # Without an index before, what is served was found in the folders that the index lists.
        is_first_index = not self._known.generation
        for model, adapter in wanted.items():
            before = known.get(model)
            is_changed = before is not None and before.version != adapter.version
            is_other = before is None and not is_first_index
            if not self._is_known(model) or is_changed or is_other:
                await self._add(model, adapter.folder)
        service.names = ModelNames(tuple(self._served(wanted.values())))
        kept = {adapter.model for adapter in service.names.versions} | wanted.keys()
        for model in (known.keys() | self._hidden() | self._versions()) - kept:
            if self._is_known(model):
                with suppress(KeyError):
                    await self._adapters.remove(model)
        self._known = index
        service.adapter_generation = index.generation

    def _selected(self, index: AdapterIndex) -> Iterator[IndexedAdapter]:
        return (adapter for adapter in index.adapters.values() if selects(self._setting, adapter))

    def _is_known(self, model: str) -> bool:
        served = (each.name for each in self._service.models)
        return model in served or model in self._service.failed_adapters

    def _served(self, wanted: Iterable[IndexedAdapter]) -> Iterator[IndexedAdapter]:
        """Yield the versions that are served; where one has failed, what has served under its name."""
        served = {model.name for model in self._service.models}
        before = {adapter.name: adapter for adapter in self._service.names.versions}
        for adapter in wanted:
            is_served = adapter.model in served and adapter.model not in self._service.failed_adapters
            found = adapter if is_served else before.get(adapter.name)
            if found is not None and found.model in served:
                yield found

    def _hidden(self) -> set[str]:
        """Return the adapters that requests cannot name any more, since their name is that of a version."""
        adapters = {model.name for model in self._service.models if model.parent is not None}
        return adapters - {listed.model.name for listed in self._service.listed_models}

    def _versions(self) -> set[str]:
        """Return the versions that the engine has: a server before this one may have loaded them."""
        models = (model for model in self._service.models if model.parent is not None)
        return {model.name for model in models if split_name(model.name)[1] is not None}

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

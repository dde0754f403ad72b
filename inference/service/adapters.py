"""Adapters that come and go while the server serves."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from inference.errors import LoadError
from inference.service.warm_up import warm_up

if TYPE_CHECKING:
    from pathlib import Path

    from inference.engines.protocol import ServedModel
    from inference.service.service import Service

LOGGER: Final = logging.getLogger(__name__)


class Adapters:
    """The adapters of a service that serves. Changes are made one after another.

    Args:
        service: The service, once it is ready.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._changing = asyncio.Lock()
        self._unloading: set[asyncio.Task[None]] = set()

    async def add(self, name: str, folder: Path) -> None:
        """Load an adapter, and serve it from now on in place of one of its name.

        Raises:
            LoadError: If it cannot be served, or not before a restart. An adapter of its name is served as
                before, and the service lists the reason.
            EngineError: If the engine is dead.
        """
        async with self._changing:
            try:
                model = await self._load(name, folder)
            except LoadError as error:
                LOGGER.error("an adapter is not served: %s", error)  # noqa: TRY400 - it says what is wrong
                self._service.add_failure(name, error)
                raise
            self._service.add_model(model)
            LOGGER.info("serving the adapter %s", name)

    async def remove(self, name: str) -> None:
        """Accept no more requests for an adapter, and have it unloaded once those that run have ended.

        Args:
            name: The name under which the engine has it.

        Raises:
            KeyError: If there is no such adapter.
        """
        service = self._service
        async with self._changing:
            engine = service.require_ready()
            had_failed = service.forget_failure(name)
            if all(model.name != name or model.parent is None for model in service.models):
                if had_failed:
                    return
                raise KeyError(name)
            service.remove_model(name)
            task = asyncio.create_task(engine.remove_adapter(name))
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)
        LOGGER.info("the adapter %s is no longer served", name)

    async def _load(self, name: str, folder: Path) -> ServedModel:
        engine = self._service.require_ready()
        model = await engine.add_adapter(name, folder)
        try:
            await warm_up(engine, model)
        except LoadError:
            if any(each.name == name for each in self._service.models):
                self._service.remove_model(name)
            await engine.remove_adapter(name)
            raise
        return model

"""Import the engine that the settings and the machine ask for, and start it."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

from inference.engines.catalogue import ENGINES, engine_requirements, find_engine, has_package
from inference.errors import LoadError, UnsuitedEngineError

if TYPE_CHECKING:
    from inference.engines.protocol import ProgressCallback, StartedEngine
    from inference.models.weights import Weights
    from inference.settings import Settings

LOGGER: Final = logging.getLogger(__name__)


class EngineModule(Protocol):
    """The module of an engine."""

    def start_engine(self, weights: Weights, settings: Settings, report: ProgressCallback) -> StartedEngine:
        """Load the weights and start the engine on them. Takes seconds to minutes; for a thread.

        Raises:
            LoadError: If the engine cannot serve these weights.
        """
        ...


def start_engine(weights: Weights, settings: Settings, report: ProgressCallback) -> StartedEngine:
    """Start the engine that the settings and the machine ask for.

    Raises:
        LoadError: If its packages are missing, or it cannot serve these weights.
    """
    _warn_of_unsafe_settings(settings)
    try:
        return import_engine(settings).start_engine(weights, settings, report)
    except UnsuitedEngineError as error:
        if settings.engine != "auto":
            raise
        LOGGER.warning("the engine is transformers, because %s", error)
        settings = replace(settings, engine="transformers")
        return import_engine(settings).start_engine(weights, settings, report)


def import_engine(settings: Settings) -> EngineModule:
    """Import the module of the engine that the settings and the machine ask for. Takes seconds.

    Raises:
        LoadError: If its packages are missing.
    """
    name = find_engine(settings.engine, settings.device)
    kind = ENGINES[name]
    if not has_package(kind.package):
        requirements = engine_requirements(settings.engine, settings.device)
        raise LoadError(
            f"FJARR_ENGINE={name}, but the package {kind.package} is not installed"
            f" (install it with: pip install -r {requirements})"
        )
    module: EngineModule = import_module(kind.module)
    return module


def _warn_of_unsafe_settings(settings: Settings) -> None:
    if settings.allow_pickle:
        LOGGER.warning(
            "FJARR_ALLOW_PICKLE is on: pickled weights are loaded with torch's restricted unpickler"
        )
    if settings.trust_remote_code:
        LOGGER.warning(
            "FJARR_TRUST_REMOTE_CODE is on: Python code in a model's repository runs in this server"
        )

"""Read an adapter that a running engine is to load, and check that it fits the base."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from inference.errors import LoadError
from inference.models.weights import adapter_problem, read_adapter, read_base_shapes

if TYPE_CHECKING:
    from pathlib import Path

    from inference.models.weights import Adapter, BaseModel
    from inference.settings import Settings


def read_new_adapter(name: str, folder: Path, base: BaseModel, settings: Settings) -> Adapter:
    """Return an adapter whose files fit the base.

    Args:
        name: The name to serve it under.
        folder: Its folder.
        base: The base that the engine has loaded.
        settings: The mount, and whether pickled weights are allowed.

    Raises:
        LoadError: If its files are not complete, or do not fit the base.
    """
    if name == base.name:
        raise LoadError(f"the adapter {folder} has the name of the base, {name}")
    try:
        adapter = replace(
            read_adapter(settings.mount, folder, allows_pickle=settings.allow_pickle), name=name
        )
        problem = adapter_problem(adapter, read_base_shapes(base))
    except OSError as error:
        raise LoadError(f"the adapter {name} cannot be read: {error}") from error
    if problem is not None:
        raise LoadError(f"the adapter {name} does not fit {base.name}: {problem}")
    return adapter

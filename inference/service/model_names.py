"""The names of models in the API: an adapter's bare name is its current version's, `mine@3` is one version's.

Engines know each version by one name, which does not change when another becomes the current one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inference.models.adapter_index import split_name

if TYPE_CHECKING:
    from collections.abc import Collection

    from inference.engines.protocol import ServedModel
    from inference.models.adapter_index import IndexedAdapter


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A name in the API, and the model that it means.

    Attributes:
        version: The number of the adapter's version; None for the base, and for an adapter without versions.
        is_second_name: Whether the same model is listed under its bare name, too.
    """

    name: str
    model: ServedModel
    version: int | None = None
    is_second_name: bool = False


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The versions of adapters that are served. All other models are served under their engine's names.

    Attributes:
        versions: The versions, as the share's index lists them.
    """

    versions: tuple[IndexedAdapter, ...] = ()

    def find(self, name: str, models: Collection[str]) -> str | None:
        """Return the engine's name of the model that a name means; None if it means none.

        Args:
            name: The name of a request.
            models: The engine's names of what is served.
        """
        wanted = self._aliases().get(name)
        if wanted is not None:
            return wanted if wanted in models else None
        if name in models:
            return name
        if any(version.bare_name == name for version in self.versions):
            return None
        # Nothing says which version is the current one: a share without an index.
        numbers = [number for bare, number in map(split_name, models) if bare == name and number is not None]
        return f"{name}@{max(numbers)}" if numbers else None

    def list_models(self, models: Collection[ServedModel]) -> tuple[ListedModel, ...]:
        """Return the names of all models, in the models' order, the bare name of each before the others."""
        served = {model.name for model in models}
        aliases = self._aliases()
        listed: list[ListedModel] = []
        for model in models:
            bare, number = split_name(model.name)
            number = next((each.number for each in self.versions if each.model == model.name), number) or None
            candidates = (
                *(name for name, target in aliases.items() if target == model.name),
                bare,
                model.name,
            )
            names = [name for name in dict.fromkeys(candidates) if self.find(name, served) == model.name]
            listed += (ListedModel(name, model, number, is_second_name=name != names[0]) for name in names)
        return tuple(listed)

    def without(self, name: str) -> ModelNames:
        """Return the names after one was given to a model of that name."""
        return replace(self, versions=tuple(each for each in self.versions if each.name != name))

    def _aliases(self) -> dict[str, str]:
        """Return the engine's name for each name of a version; bare names come first."""
        own = {version.name: version.model for version in self.versions}
        return own | {version.id: version.model for version in self.versions}

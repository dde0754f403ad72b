"""Values of JSON: a default for one that is missing or null, and objects without what is null. Pure."""

from __future__ import annotations

from typing import Any


def value_or(value: Any, default: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a value, or the default if it is null."""
    return default if value is None else value


def without_nulls(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a value without members that are null, at any depth: Azure reads them as missing."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value

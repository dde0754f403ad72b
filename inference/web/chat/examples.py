"""The example questions on the page, from a file beside the adapter."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from inference.models.adapter_folders import adapter_name
from inference.models.adapter_index import MODELS

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

LOGGER: Final = logging.getLogger(__name__)

EXAMPLES_FILE: Final = "chat-examples.json"
"""In an adapter's folder; `invoke push` uploads it with the adapter."""

MAX_EXAMPLES: Final = 6


class Example(BaseModel):
    """A question that the page offers.

    Attributes:
        title: What it shows, in a few words; empty shows the message itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    message: str = Field(min_length=1, max_length=8000)
    title: str = Field(default="", max_length=80)


EXAMPLES: Final = TypeAdapter(list[Example])


def read_examples(mount: Path, models: Collection[str]) -> list[Example]:
    """Return the examples of the adapters that are served, by their engine's names, a few at most.

    A file that cannot be used is left out, and logged: the page works without it.
    """
    found: list[Example] = []
    for path in sorted((mount / MODELS).glob(f"**/{EXAMPLES_FILE}")):
        if adapter_name(mount, path.parent) not in models:
            continue
        try:
            found += EXAMPLES.validate_python(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            LOGGER.warning("the examples in %s are left out: %s", path, _reason(error))
    return found[:MAX_EXAMPLES]


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)

"""Load and unload adapters at run time, with vLLM's paths, bodies and answers, and a key of its own.

A client may name folders of the share only. What is loaded this way is gone after a restart, unless
`FJARR_ADAPTER` selects its folder; `invoke push` keeps adapters.

Source: vLLM 0.32, "LoRA Adapters", "Dynamically serving LoRA Adapters", and
`entrypoints/openai/models/serving.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from inference.errors import (
    ForbiddenError,
    InvalidRequestError,
    LoadError,
    NotFoundError,
    RestartRequiredError,
)
from inference.models.adapter_folders import ADAPTER_CONFIG, find_named

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI

    from inference.service.adapters import Adapters
    from inference.service.service import Service

HOW_TO_ENABLE: Final = (
    "Adapters are loaded over HTTP only with an admin key: set FJARR_ADMIN_KEY, and send that key."
    " 'invoke push' needs no such key: a server notices what it uploads, and serves it without a restart."
)


class LoadAdapterRequest(BaseModel):
    """The body of `POST /v1/load_lora_adapter`.

    `lora_path` is a folder of the share, or an adapter or a version by its name, such as `models/mine@2`.
    """

    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: Annotated[str, Field(min_length=1)]
    load_inplace: bool = False


class UnloadAdapterRequest(BaseModel):
    """The body of `POST /v1/unload_lora_adapter`."""

    lora_name: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class AdapterAdministration:
    """What the routes need.

    Attributes:
        adapters: Changes the service's adapters.
        mount: The share.
        has_key: Whether there is an admin key; the middleware checks it.
    """

    adapters: Adapters
    mount: Path
    has_key: bool


def add_adapter_routes(api: FastAPI, service: Service, administration: AdapterAdministration) -> None:
    """Add the two routes."""

    @api.post("/load_lora_adapter", response_class=PlainTextResponse)
    async def load_lora_adapter(body: LoadAdapterRequest) -> str:
        """Load an adapter from a folder of the share. Needs the admin key."""
        service.require_ready()
        _require_key(administration)
        name = body.lora_name
        if not body.load_inplace and any(listed.name == name for listed in service.listed_models):
            raise InvalidRequestError(
                f"The lora adapter {name!r} has already been loaded. If you want to load the adapter in"
                " place, set 'load_inplace' to True.",
                param="lora_name",
            )
        folder = _find_folder(administration.mount, body.lora_path)
        try:
            await administration.adapters.add(name, folder)
        except LoadError as error:
            code = "needs_restart" if isinstance(error, RestartRequiredError) else "adapter_failed"
            raise InvalidRequestError(f"{error}.", param="lora_path", code=code) from error
        # From now on the name is that of what was loaded, and not of a version that the share lists.
        service.names = service.names.without(name)
        return f"Success: LoRA adapter '{name}' added successfully."

    @api.post("/unload_lora_adapter", response_class=PlainTextResponse)
    async def unload_lora_adapter(body: UnloadAdapterRequest) -> str:
        """Stop serving an adapter; requests that run are completed. Needs the admin key."""
        service.require_ready()
        _require_key(administration)
        try:
            served = {model.name for model in service.models}
            await administration.adapters.remove(service.names.find(body.lora_name, served) or body.lora_name)
        except KeyError:
            raise NotFoundError(
                f"The lora adapter {body.lora_name!r} cannot be found.", param="lora_name"
            ) from None
        return f"Success: LoRA adapter '{body.lora_name}' removed successfully."


def _require_key(administration: AdapterAdministration) -> None:
    if not administration.has_key:
        raise ForbiddenError(HOW_TO_ENABLE)


def _find_folder(mount: Path, path: str) -> Path:
    """Return the folder of an adapter on the share, by its path or by its name."""
    root = mount.resolve()
    if not (root / path).resolve().is_relative_to(root):
        raise InvalidRequestError(
            f"{path!r} is not on the share: 'lora_path' is a folder below it, such as models/NAME.",
            param="lora_path",
        )
    found = find_named(root, path)
    if found:
        return found[0]
    raise NotFoundError(f"No adapter found for {path!r}: there is no {ADAPTER_CONFIG}.", param="lora_path")

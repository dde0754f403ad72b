"""Explain how adapters are loaded to clients that try to load one at run time, as vLLM can.

Source: vLLM, "LoRA Adapters", "Dynamically serving LoRA Adapters".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from inference.errors import InvalidRequestError

if TYPE_CHECKING:
    from fastapi import FastAPI

HOW_TO_LOAD: Final = (
    "Adapters are loaded when the server starts, not at run time. Upload one with 'invoke push' and restart"
    " the server with 'invoke deploy'; FJARR_ADAPTER names the adapters that are served, and '*' serves all."
    " GET /v1/models lists them."
)


def add_adapter_routes(api: FastAPI) -> None:
    """Add the routes that explain it."""

    @api.post("/load_lora_adapter", include_in_schema=False, response_model=None)
    @api.post("/unload_lora_adapter", include_in_schema=False, response_model=None)
    async def explain() -> NoReturn:
        """Reject the request, with the way to do it."""
        raise InvalidRequestError(HOW_TO_LOAD, code="unsupported")

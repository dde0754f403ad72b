"""Warm a model up before its first client asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.engines.protocol import GenerationRequest, Sampling
from inference.errors import EngineError, LoadError

if TYPE_CHECKING:
    from inference.engines.protocol import Engine, ServedModel


async def warm_up(engine: Engine, model: ServedModel) -> None:
    """Generate two tokens, so that the first client's request does not include one-time costs.

    Raises:
        LoadError: If the engine has loaded the model, and cannot generate with it.
    """
    request = GenerationRequest(
        "warm-up-" + model.name, model.name, model.codec.encode("Hello")[:8] or (0,), 2, Sampling(0.0)
    )
    try:
        stream = engine.submit(request)
        try:
            async for _ in stream:
                pass
        finally:
            stream.cancel()
    except EngineError as error:
        raise LoadError(f"{model.name} was loaded and cannot be served: {error}") from error

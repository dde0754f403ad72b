"""Warm a model up before its first client asks, and check that models answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from inference.engines.protocol import GenerationRequest, Sampling
from inference.errors import EngineError, LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inference.engines.protocol import Engine, ServedModel

CHECK_TIMEOUT_S: Final = 120.0
"""How long a model may take for the two tokens of a check, behind the requests of others."""


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


async def check_models(
    engine: Engine, models: Sequence[ServedModel], timeout_s: float = CHECK_TIMEOUT_S
) -> dict[str, str | None]:
    """Have each model complete a text. Return None, or why it failed, by the models' names."""
    found: dict[str, str | None] = {}
    for model in models:
        try:
            async with asyncio.timeout(timeout_s):
                await warm_up(engine, model)
        except TimeoutError:
            found[model.name] = f"there was no answer within {timeout_s:g} s"
        except KeyError:  # it was removed meanwhile, and another check follows
            found[model.name] = "the engine has it no more"
        except LoadError as error:
            found[model.name] = str(error)
        else:
            found[model.name] = None
    return found

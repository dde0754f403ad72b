"""A random model, so small that a step takes a millisecond, with an adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inference.engines.transformers.loading import LoadedModel, load_models
from inference.models.hardware import CacheSize
from inference.models.weights import find_weights
from tests.doubles.tiny import byte_tokenizer, save_adapter, save_base
from tests.doubles.transformers_engine import SETTINGS, TEMPLATE, TUNED, start_on_copies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from inference.engines.transformers.engine import TransformersEngine


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A share with a tiny base, and an adapter that changes its answers."""
    mount = tmp_path_factory.mktemp("mount")
    tokenizer = byte_tokenizer("<end>")
    tokenizer.chat_template = TEMPLATE
    save_base(mount, tokenizer, heads=4)
    save_adapter(mount, TUNED)
    return mount


@pytest.fixture(scope="module")
def loaded(mount: Path) -> tuple[LoadedModel, ...]:
    weights = find_weights(mount, None, "models/mine")
    return load_models(weights, SETTINGS, lambda _phase, _percent: None).models


@pytest.fixture
async def engine(loaded: tuple[LoadedModel, ...]) -> AsyncIterator[TransformersEngine]:
    engine = start_on_copies(loaded, CacheSize(64, 64), 16)
    yield engine
    await engine.close()

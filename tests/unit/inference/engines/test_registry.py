from __future__ import annotations

import pytest

from inference.engines import registry
from inference.engines.catalogue import has_package
from inference.engines.registry import start_engine
from inference.errors import LoadError, UnsuitedEngineError
from inference.models.weights import BaseModel, Weights
from inference.settings import Settings

BARE = Weights(BaseModel("org/base", "/share/base"))


class Module:
    """Be the module of an engine."""

    def __init__(self, name: str, error: LoadError | None = None) -> None:
        self.name, self.error = name, error

    def start_engine(self, *_: object) -> str:
        if self.error is not None:
            raise self.error
        return self.name


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Module]:
    """Engines whose starts are scripted; vLLM is installed and there is a GPU."""
    found = {name: Module(name) for name in ("vllm", "transformers")}
    monkeypatch.setattr(
        registry, "import_engine", lambda settings: found[settings.engine.replace("auto", "vllm")]
    )
    return found


def start(engine: str) -> object:
    return start_engine(BARE, Settings(engine=engine), lambda _phase, _percent: None)


def test_auto_takes_transformers_for_what_vllm_cannot_serve(
    modules: dict[str, Module], caplog: pytest.LogCaptureFixture
) -> None:
    assert start("auto") == "vllm"
    modules["vllm"].error = UnsuitedEngineError("the adapter mine carries embeddings")
    assert start("auto") == "transformers"
    assert "the engine is transformers, because the adapter mine carries embeddings" in caplog.text
    with pytest.raises(UnsuitedEngineError):
        start("vllm")


def test_what_no_engine_can_load_is_not_tried_twice(modules: dict[str, Module]) -> None:
    modules["vllm"].error = LoadError("the model does not fit")
    with pytest.raises(LoadError, match="does not fit"):
        start("auto")


@pytest.mark.skipif(has_package("vllm"), reason="vLLM is installed")
def test_an_engine_that_is_not_installed_says_how_to_install_it() -> None:
    with pytest.raises(LoadError, match=r"FJARR_ENGINE=vllm, .* not installed .*requirements-vllm-cpu\.txt"):
        start_engine(BARE, Settings(engine="vllm", device="cpu"), lambda _phase, _percent: None)

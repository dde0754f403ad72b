"""What vLLM does not take ends its own request. Modules in vLLM's place are enough to show it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from inference.engines.protocol import GenerationRequest, Sampling, ServedModel
from inference.engines.vllm.engine import Network, VllmEngine
from inference.errors import RequestRefusedError
from inference.models.weights import BaseModel
from tests.doubles.byte_codec import ByteCodec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class ClientError(Exception):
    """Be vLLM's `VLLMClientError`."""


@pytest.mark.parametrize("error", [ValueError, TypeError, ClientError])
async def test_what_vllm_does_not_take_is_refused_and_the_engine_lives(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(**_parameters: object) -> None:
        raise error("top_k must be smaller")

    install_fake_vllm(monkeypatch, refuse)
    engine = VllmEngine(((NETWORK, SimpleNamespace(**LLM)),), (SERVED,))
    with pytest.raises(RequestRefusedError, match="vLLM does not take the request: top_k must be smaller"):
        engine.submit(REQUEST)
    assert engine.is_alive


async def test_what_vllm_s_own_checks_refuse_later_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def generate(*_: object, **__: object) -> AsyncIterator[None]:
        raise ClientError("the prompt has a token that the model has not")
        yield

    install_fake_vllm(monkeypatch, SimpleNamespace)
    engine = VllmEngine(((NETWORK, SimpleNamespace(**LLM, generate=generate)),), (SERVED,))
    with pytest.raises(RequestRefusedError, match="vLLM does not take the request: the prompt has a token"):
        await anext(engine.submit(REQUEST))
    assert engine.is_alive


SERVED = ServedModel("org/base", None, ByteCodec(), frozenset({0}), 0)
NETWORK = Network(BaseModel("org/base", "/share/base"), ("org/base",))
REQUEST = GenerationRequest("r", "org/base", (1,), 4, Sampling())
LLM: dict[str, Any] = {"model_config": SimpleNamespace(max_model_len=64), "errored": False}


def install_fake_vllm(monkeypatch: pytest.MonkeyPatch, sampling_params: Any) -> None:
    """Put modules in vLLM's place that have what a request needs."""
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"SamplingParams": sampling_params},
        "vllm.sampling_params": {
            "RequestOutputKind": SimpleNamespace(DELTA=1),
            "StructuredOutputsParams": SimpleNamespace,
        },
        "vllm.exceptions": {"VLLMClientError": ClientError},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": SimpleNamespace},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)

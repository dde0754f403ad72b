"""What vLLM does not take ends its own request. Modules in vLLM's place are enough to show it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import pytest

from inference.engines.protocol import GenerationRequest, Sampling, ServedModel
from inference.engines.vllm.engine import ABILITIES, VllmEngine
from inference.engines.vllm.networks import Network, reject_adapters
from inference.engines.vllm.options import LoraSlots
from inference.errors import RequestRefusedError, RestartRequiredError, UnsuitedEngineError
from inference.models.weights import Adapter, BaseModel, Weights
from inference.settings import Settings
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
        "vllm.config": {},
        "vllm.config.lora": {"MaxLoRARanks": Literal[8, 16, 512]},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": SimpleNamespace},
    }
    for name, values in contents.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)


A, B = (f"base_model.model.model.layers.0.q_proj.lora_{part}.weight" for part in "AB")


def make_adapter(mount: Path, name: str, **config: Any) -> Adapter:
    """Put the configuration of an adapter on a share, and return the adapter."""
    folder = mount / name
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    return Adapter(name, folder, "org/base", None, has_tokenizer=False, shapes={A: (2, 8), B: (8, 2)})


def test_an_adapter_that_vllm_does_not_support_is_left_out_and_the_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_fake_vllm(monkeypatch, SimpleNamespace)
    fine, dora = make_adapter(tmp_path, "fine"), make_adapter(tmp_path, "dora", use_dora=True)
    huge = replace(make_adapter(tmp_path, "huge"), shapes={A: (4096, 8), B: (8, 4096)})
    loha = replace(make_adapter(tmp_path, "loha"), shapes={A.replace("lora_A", "hada_w1_a"): (2, 8)})
    weights = Weights(BaseModel("org/base", "org/base"), (fine, dora, huge, loha))
    kept = reject_adapters(weights, None, Settings(engine="vllm"))
    assert kept.adapters == (fine,)
    assert {each.name: each.reason for each in kept.rejected} == {
        "dora": "the adapter dora is more than low-rank updates, which vLLM does not support: set"
        " FJARR_ENGINE=transformers",
        "huge": "vLLM does not support the adapter huge, of rank 4096: set FJARR_ENGINE=transformers",
        "loha": "the adapter loha is more than low-rank updates: it has"
        " base_model.model.model.layers.0.q_proj.hada_w1_a.weight, which vLLM does not support: set"
        " FJARR_ENGINE=transformers",
    }
    # Where the settings leave the engine open, the other one serves them all.
    with pytest.raises(UnsuitedEngineError, match="the adapter dora is more than low-rank updates"):
        reject_adapters(weights, None, Settings(engine="auto"))


def test_what_would_end_vllm_s_process_is_no_ability_of_the_engine() -> None:
    llm: Any = SimpleNamespace(**LLM)
    on_cpu, on_card = (
        VllmEngine([(NETWORK, llm)], [SERVED], LoraSlots(2, 8, is_on_cpu=is_on_cpu))
        for is_on_cpu in (True, False)
    )
    assert ABILITIES - on_cpu.abilities == {"prompt_logprobs"}
    assert on_card.abilities == VllmEngine([(NETWORK, llm)], [SERVED]).abilities == ABILITIES


async def test_an_adapter_without_a_free_slot_needs_a_restart() -> None:
    llm: Any = SimpleNamespace(**LLM)
    with pytest.raises(RestartRequiredError, match="FJARR_LORA_SLOTS sets how many there are"):
        await VllmEngine([(NETWORK, llm)], [SERVED]).add_adapter("new", Path("/share/models/new/adapter"))

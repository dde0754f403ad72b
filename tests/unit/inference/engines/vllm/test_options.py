from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig

from inference.engines.catalogue import has_package
from inference.engines.vllm.options import (
    CPU_BLOCK_TOKENS,
    MAX_LOGPROBS,
    engine_options,
    environment_variables,
    size_cache_bytes,
)
from inference.errors import LoadError
from inference.models.hardware import Cores, Placement
from inference.models.weights import Adapter, BaseModel, Weights
from inference.settings import Settings

CPU = Placement("cpu", "bfloat16", "none")
CARD = Placement("cuda", "bfloat16", "none")
BARE = Weights(BaseModel("org/base", "/share/base"))
LLAMA = LlamaConfig(
    num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=32, head_dim=8
)


def test_vllm_uses_llguidance_for_grammars_and_has_a_tokenizer_for_it() -> None:
    weights = Weights(BaseModel("org/base", "/share/base"), ())
    options = engine_options(weights, Settings(), Placement("cpu", "bfloat16", "none"), 8192)
    assert options["structured_outputs_config"] == {"backend": "guidance"}
    assert options["max_logprobs"] == MAX_LOGPROBS == 20
    assert not options.get("skip_tokenizer_init")


@pytest.mark.parametrize(
    ("cores", "threads", "expected"),
    [
        # All of a few: vLLM would leave one of them idle.
        (Cores((0, 1), None), None, {"VLLM_CPU_OMP_THREADS_BIND": "0,1"}),
        (Cores((4, 6, 7), 3), None, {"VLLM_CPU_OMP_THREADS_BIND": "4,6,7"}),
        # A share of many: no particular ones.
        (Cores(tuple(range(32)), 4), None, {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "4"}),
        (Cores((0, 1), None), 1, {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}),
        # All of many: vLLM knows which of them are a pair.
        (Cores(tuple(range(32)), None), None, {}),
    ],
)
def test_vllm_computes_on_the_cores_that_are_ours(
    cores: Cores, threads: int | None, expected: dict[str, str]
) -> None:
    found = environment_variables(cores, threads, is_local=True)
    assert {name: found[name] for name in found if "THREADS" in name} == expected


def test_vllm_asks_no_hub_for_files_that_are_here_and_calls_nobody() -> None:
    assert environment_variables(Cores((0,), None), None, is_local=True)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment_variables(Cores((0,), None), None, is_local=False)
    assert environment_variables(Cores((0,), None), None, is_local=False)["VLLM_NO_USAGE_STATS"] == "1"


def test_the_cache_has_what_the_setting_says_else_a_share_of_the_memory() -> None:
    token_bytes = 2 * 2 * 2 * 8 * 2
    wanted = Settings(kv_cache_tokens=1000)
    assert size_cache_bytes(LLAMA, CPU, 10**9, wanted) == (1000 + CPU_BLOCK_TOKENS) * token_bytes
    assert size_cache_bytes(LLAMA, CPU, 10**9, Settings()) == 10**8
    # vLLM measures what a card has left.
    assert size_cache_bytes(LLAMA, CARD, 10**9, Settings()) is None


def test_vllm_loads_safetensors_only_and_runs_no_code_of_a_model() -> None:
    options = engine_options(BARE, Settings(max_concurrent=7), CPU, 8192)
    assert (options["load_format"], options["trust_remote_code"]) == ("safetensors", False)
    assert (options["model"], options["max_num_seqs"]) == ("/share/base", 7)
    assert "enable_lora" not in options


def test_the_context_is_the_model_s_unless_the_setting_is_less() -> None:
    assert engine_options(BARE, Settings(), CPU, 8192)["max_model_len"] == -1
    assert engine_options(BARE, Settings(max_context_tokens=100), CPU, 8192)["max_model_len"] == 100
    assert engine_options(BARE, Settings(max_context_tokens=9999), CPU, 8192)["max_model_len"] == 8192


def test_vllm_refuses_what_it_cannot_do() -> None:
    with pytest.raises(LoadError, match="FJARR_QUANTIZATION=nf4, or FJARR_ENGINE=transformers"):
        engine_options(BARE, Settings(), Placement("cuda", "bfloat16", "int8"), 8192)


@pytest.mark.skipif(has_package("vllm_bnb_plugin"), reason="the plugin is installed")
def test_vllm_without_its_plugin_has_no_nf4() -> None:
    with pytest.raises(LoadError) as caught:
        engine_options(BARE, Settings(), Placement("cuda", "bfloat16", "nf4"), 8192)
    assert str(caught.value) == (
        "vLLM quantises to nf4 with its plugin vllm-bnb-plugin, which is not installed: install it with: pip"
        " install vllm-bnb-plugin, or set FJARR_ENGINE=transformers"
    )


def test_vllm_may_load_pickles_and_run_a_model_s_code_where_the_settings_say_so(tmp_path: Path) -> None:
    allowed = Settings(allow_pickle=True, trust_remote_code=True)
    pickled = Weights(BaseModel("org/base", str(tmp_path)))
    (tmp_path / "pytorch_model.bin").touch()
    options = engine_options(pickled, allowed, CPU, 8192)
    assert (options["load_format"], options["trust_remote_code"]) == ("hf", True)
    (tmp_path / "model.safetensors").touch()
    assert engine_options(pickled, allowed, CPU, 8192)["load_format"] == "safetensors"


def lora(name: str, rank: int) -> Adapter:
    shapes = {"layers.0.q_proj.lora_A.weight": (rank, 32), "layers.0.q_proj.lora_B.weight": (32, rank)}
    return Adapter(name, Path("/share") / name, "org/base", None, has_tokenizer=False, shapes=shapes)


@pytest.mark.skipif(not has_package("vllm"), reason="vLLM is not installed: run nox -s vllm")
def test_vllm_has_a_slot_for_each_adapter_and_room_for_the_largest_rank() -> None:
    weights = Weights(BARE.base, (lora("one", 4), lora("two", 24), lora("three", 16)))
    on_cpu, on_card = (engine_options(weights, Settings(), each, 8192) for each in (CPU, CARD))
    assert (on_cpu["max_loras"], on_cpu["max_lora_rank"]) == (4, 32)
    assert (on_card["max_loras"], on_card["max_lora_rank"]) == (3, 32)


@pytest.mark.skipif(not has_package("vllm"), reason="vLLM is not installed: run nox -s vllm")
def test_vllm_refuses_an_adapter_with_embeddings() -> None:
    adapter = Adapter("mine", Path("/share/mine"), "org/base", 258, has_tokenizer=False)
    with pytest.raises(LoadError, match="mine carries embeddings"):
        engine_options(Weights(BARE.base, (adapter,)), Settings(), CPU, 8192)

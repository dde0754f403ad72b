from __future__ import annotations

from pathlib import Path

import pytest

from inference.engines.catalogue import has_package
from inference.engines.vllm.options import (
    CPU_BLOCK_TOKENS,
    MAX_LOGPROBS,
    LoraSlots,
    collective_variables,
    engine_options,
    environment_variables,
    lora_slots,
    memory_options,
    thread_variables,
)
from inference.errors import LoadError
from inference.models.hardware import Cores, Hardware, Placement
from inference.models.memory import ModelSize
from inference.models.plan import Model, ModelShape, ServingPlan
from inference.models.weights import Adapter, BaseModel, Weights
from inference.settings import Settings

GIB = 2**30


def planned(placement: Placement, cards: int = 1) -> ServingPlan:
    return ServingPlan("vllm", placement, cards, 8192, 8192)


CPU = planned(Placement("cpu", "bfloat16", "none"))
CARD = planned(Placement("cuda", "bfloat16", "none"))
BARE = Weights(BaseModel("org/base", "/share/base"))
# One of two layers, two heads of keys and values, eight numbers each; a weight has a thousand numbers.
TINY = Model(ModelSize(1000, 0, (), 2 * 2 * 2 * 8), ModelShape(4, 2, 64, 512))
MACHINE = Hardware(None, None, 0, 10**10, has_cpu_bf16=True)
# Llama-3.1-8B.
MIDDLE = Model(ModelSize(8_030_261_248, 1_050_673_152, (), 65_536), ModelShape(32, 8, 14336, 131_072))
A100 = Hardware(
    "NVIDIA A100", (8, 0), 79 * GIB, 200 * GIB, has_cpu_bf16=True, gpu_count=2, gpu_total_bytes=80 * GIB
)


def test_vllm_uses_llguidance_for_grammars_and_has_a_tokenizer_for_it() -> None:
    options = engine_options(BaseModel("org/base", "/share/base"), Settings(), CPU, 8192)
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
    expected = {"kv_cache_memory_bytes": (1000 + CPU_BLOCK_TOKENS) * token_bytes}
    assert memory_options(CPU, TINY, MACHINE, wanted, 1, is_main=True) == expected
    assert memory_options(CARD, TINY, A100, wanted, 2, is_main=False) == expected
    assert memory_options(CPU, TINY, MACHINE, Settings(), 1, is_main=True) == {"kv_cache_memory_bytes": 10**9}
    # vLLM measures what a card has left.
    assert memory_options(CARD, MIDDLE, A100, Settings(), 1, is_main=True) == {}


def test_on_two_cards_each_caches_half_of_the_heads() -> None:
    wanted, token_bytes = Settings(kv_cache_tokens=1000), 2 * 2 * 8 * 2
    found = memory_options(planned(CARD.placement, 2), TINY, A100, wanted, 1, is_main=True)
    assert found == {"kv_cache_memory_bytes": (1000 + CPU_BLOCK_TOKENS) * token_bytes}


def test_a_merged_adapter_and_its_base_share_a_card_and_the_adapter_gets_more() -> None:
    shares = [
        memory_options(CARD, MIDDLE, A100, Settings(), 2, is_main=is_main)["gpu_memory_utilization"]
        for is_main in (True, False)
    ]
    assert shares[0] > shares[1]
    # Each has its weights, and all stays below what one engine would take.
    assert min(shares) * 80 * GIB > 16 * 10**9
    assert sum(shares) == pytest.approx(0.92 * 79 / 80, abs=0.002)


def test_on_a_cpu_a_merged_adapter_and_its_base_share_what_their_weights_leave() -> None:
    both = [
        memory_options(CPU, TINY, MACHINE, Settings(), 2, is_main=is_main)["kv_cache_memory_bytes"]
        for is_main in (True, False)
    ]
    assert sum(both) == pytest.approx(0.1 * (10**10 - 2 * (GIB + 2000)), abs=2)
    assert both[0] == pytest.approx(3 * both[1], abs=4)


def test_a_model_is_split_over_the_cards_of_the_plan() -> None:
    assert engine_options(BARE.base, Settings(), CARD, 8192)["tensor_parallel_size"] == 1
    assert (
        engine_options(BARE.base, Settings(), planned(CARD.placement, 4), 8192)["tensor_parallel_size"] == 4
    )


@pytest.mark.parametrize(
    ("cores", "threads", "expected"),
    [
        (Cores((0, 1), None), None, {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}),
        (Cores((0, 1, 2, 3, 4), None), None, {"VLLM_CPU_OMP_THREADS_BIND": "0,1|2,3"}),
        (Cores(tuple(range(8)), 4), None, {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}),
        (Cores((0,), None), None, {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}),
    ],
)
def test_each_process_of_a_split_model_has_cores_of_its_own(
    cores: Cores, threads: int | None, expected: dict[str, str]
) -> None:
    assert thread_variables(cores, threads, 2) == expected


def test_cards_do_without_shared_memory_where_a_container_has_little() -> None:
    assert collective_variables(64 * 2**20) == {"NCCL_SHM_DISABLE": "1"}
    assert collective_variables(8 * GIB) == {}


def test_vllm_loads_safetensors_only_and_runs_no_code_of_a_model() -> None:
    options = engine_options(BARE.base, Settings(max_concurrent=7), CPU, 8192)
    assert (options["load_format"], options["trust_remote_code"]) == ("safetensors", False)
    assert (options["model"], options["max_num_seqs"]) == ("/share/base", 7)
    assert "enable_lora" not in options


def test_the_context_is_the_model_s_unless_the_setting_is_less() -> None:
    assert engine_options(BARE.base, Settings(), CPU, 8192)["max_model_len"] == -1
    assert engine_options(BARE.base, Settings(max_context_tokens=100), CPU, 8192)["max_model_len"] == 100
    assert engine_options(BARE.base, Settings(max_context_tokens=9999), CPU, 8192)["max_model_len"] == 8192


def test_vllm_refuses_what_it_cannot_do() -> None:
    with pytest.raises(LoadError, match="FJARR_QUANTIZATION=nf4, or FJARR_ENGINE=transformers"):
        engine_options(BARE.base, Settings(), planned(Placement("cuda", "bfloat16", "int8")), 8192)


@pytest.mark.skipif(has_package("vllm_bnb_plugin"), reason="the plugin is installed")
def test_vllm_without_its_plugin_has_no_nf4() -> None:
    with pytest.raises(LoadError) as caught:
        engine_options(BARE.base, Settings(), planned(Placement("cuda", "bfloat16", "nf4")), 8192)
    assert str(caught.value) == (
        "vLLM quantises to nf4 with its plugin vllm-bnb-plugin, which is not installed: install it with: pip"
        " install vllm-bnb-plugin, or set FJARR_ENGINE=transformers"
    )


def test_vllm_may_load_pickles_and_run_a_model_s_code_where_the_settings_say_so(tmp_path: Path) -> None:
    allowed = Settings(allow_pickle=True, trust_remote_code=True)
    pickled = BaseModel("org/base", str(tmp_path))
    (tmp_path / "pytorch_model.bin").touch()
    options = engine_options(pickled, allowed, CPU, 8192)
    assert (options["load_format"], options["trust_remote_code"]) == ("hf", True)
    (tmp_path / "model.safetensors").touch()
    assert engine_options(pickled, allowed, CPU, 8192)["load_format"] == "safetensors"


def lora(name: str, rank: int) -> Adapter:
    shapes = {"layers.0.q_proj.lora_A.weight": (rank, 32), "layers.0.q_proj.lora_B.weight": (32, rank)}
    return Adapter(name, Path("/share") / name, "org/base", None, has_tokenizer=False, shapes=shapes)


@pytest.mark.skipif(not has_package("vllm"), reason="vLLM is not installed: run nox -s vllm")
def test_vllm_has_a_slot_for_each_adapter_and_some_more_and_room_for_the_largest_rank() -> None:
    adapters = (lora("one", 4), lora("two", 24), lora("three", 16))
    slots = lora_slots(adapters, Settings(), "cpu")
    assert slots == LoraSlots(count=5, max_rank=32, is_on_cpu=True)
    options = engine_options(BARE.base, Settings(), CPU, 8192, slots)
    # The last slot has to stay empty on a CPU.
    assert (options["max_loras"], options["max_lora_rank"]) == (6, 32)
    slots = lora_slots(adapters, Settings(lora_slots=0), "cuda")
    assert slots is not None
    assert engine_options(BARE.base, Settings(), CARD, 8192, slots)["max_loras"] == 3


def test_vllm_without_adapters_has_slots_only_if_the_settings_say_so() -> None:
    assert lora_slots((), Settings(), "cuda") is None
    assert lora_slots((), Settings(lora_slots=0), "cuda") is None
    assert lora_slots((), Settings(lora_slots=4), "cuda") == LoraSlots(4, 32, is_on_cpu=False)
    assert "enable_lora" not in engine_options(BARE.base, Settings(), CARD, 8192)


@pytest.mark.skipif(not has_package("vllm"), reason="vLLM is not installed: run nox -s vllm")
def test_vllm_refuses_an_adapter_with_embeddings() -> None:
    adapter = Adapter("mine", Path("/share/mine"), "org/base", 258, has_tokenizer=False)
    with pytest.raises(LoadError, match="mine carries embeddings"):
        lora_slots((adapter,), Settings(), "cpu")

"""Every kind of adapter that PEFT 0.21 makes is answered as PEFT answers, or rejected with one sentence.

The network is a random one with two layers; an adapter's trained weights are random numbers.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from inference.engines.protocol import GenerationRequest, Sampling
from inference.engines.registry import start_engine
from inference.engines.transformers import adapter_checks, loading
from inference.engines.transformers.loading import LoadedModels, load_models
from inference.models.weights import find_weights
from inference.settings import Settings
from tests.doubles.tiny import BASE, load_base, save_adapter, save_base, word_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("one_thread"),
    # PEFT warns of its own deprecations and of paths that hold on the share only.
    pytest.mark.filterwarnings("ignore"),
]

VOCABULARY: Final = 64
TOKENS: Final = torch.tensor([[5, 6, 7, 8, 9]])
SETTINGS: Final = Settings(
    engine="transformers", dtype="float32", device="cpu", auth=False, kv_cache_tokens=1024, threads=1
)
TARGETS: Final = ["q_proj", "v_proj"]


def lora(**options: Any) -> peft.LoraConfig:
    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | options
    return peft.LoraConfig(**options)


def other(name: str, **options: Any) -> Callable[[], Any]:
    """Return a function that makes the configuration of another kind of adapter."""
    options = {"target_modules": TARGETS, "task_type": "CAUSAL_LM"} | options
    return lambda: getattr(peft, name)(**{key: value for key, value in options.items() if value is not None})


SERVED: Final[dict[str, Callable[[], Any]]] = {
    "LoRA": lora,
    "DoRA": lambda: lora(use_dora=True),
    "rsLoRA": lambda: lora(use_rslora=True),
    "PiSSA": lambda: lora(init_lora_weights="pissa"),
    "OLoRA": lambda: lora(init_lora_weights="olora"),
    "EVA": lambda: lora(init_lora_weights="eva"),
    "LoRA with biases": lambda: lora(lora_bias=True),
    "LoRA with patterns": lambda: lora(rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 3}),
    "LoRA and a saved head": lambda: lora(modules_to_save=["lm_head"]),
    "LoRA and saved embeddings": lambda: lora(modules_to_save=["embed_tokens"]),
    "LoRA and a saved norm": lambda: lora(modules_to_save=["norm"]),
    "LoRA on embeddings": lambda: lora(target_modules=[*TARGETS, "embed_tokens"]),
    "LoRA on the head": lambda: lora(target_modules=[*TARGETS, "lm_head"]),
    "LoRA on parameters": lambda: lora(target_modules=[], target_parameters=["self_attn.q_proj.weight"]),
    "LoRA and trained tokens": lambda: lora(trainable_token_indices=[3, 4, 5]),
    "LoRA with replicated layers": lambda: lora(layer_replication=[(0, 2), (1, 2)]),
    "AdaLoRA": other("AdaLoraConfig", init_r=6, target_r=4, total_step=10, tinit=1, tfinal=1),
    "LoHa": other("LoHaConfig", r=4),
    "LoKr": other("LoKrConfig", r=4),
    "OFT": other("OFTConfig", r=0, oft_block_size=4),
    "BOFT": other("BOFTConfig", boft_block_size=4),
    "IA3": other("IA3Config", target_modules=[*TARGETS, "down_proj"], feedforward_modules=["down_proj"]),
    "VeRA": other("VeraConfig", r=8),
    "FourierFT": other("FourierFTConfig", n_frequency=20),
    "RandLoRA": other("RandLoraConfig", r=4),
    "HRA": other("HRAConfig", r=4),
    "LN tuning": other("LNTuningConfig", target_modules=["input_layernorm", "norm"]),
    "trainable tokens": other(
        "TrainableTokensConfig", target_modules=["embed_tokens"], token_indices=[3, 4, 5]
    ),
    "VB-LoRA": other("VBLoRAConfig", r=4, num_vectors=16, vector_length=8),
    "MiSS": other("MissConfig", r=4),
    "RoAd": other("RoadConfig", group_size=4),
    "SHiRA": other("ShiraConfig", r=4),
    "C3A": other("C3AConfig", block_size=8),
    "WaveFT": other("WaveFTConfig", n_frequency=20),
    "BEFT": other("BeftConfig"),
}

REJECTED: Final[dict[str, tuple[Callable[[], Any], str]]] = {
    "prompt tuning": (
        other("PromptTuningConfig", num_virtual_tokens=4, target_modules=None),
        "PROMPT_TUNING, which adds virtual tokens",
    ),
    "prefix tuning": (
        other("PrefixTuningConfig", num_virtual_tokens=4, target_modules=None),
        "PREFIX_TUNING, which adds virtual tokens",
    ),
    "p-tuning": (
        other("PromptEncoderConfig", num_virtual_tokens=4, encoder_hidden_size=16, target_modules=None),
        "P_TUNING, which adds virtual tokens",
    ),
    "activated LoRA": (lambda: lora(alora_invocation_tokens=[5, 6]), "it is an activated LoRA"),
    "Lily": (other("LilyConfig", r=4), "LILY, whose weights depend on the request"),
    "Poly": (other("PolyConfig", r=4, n_tasks=1, n_skills=1), "POLY, whose weights depend on the request"),
}


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A share with a tiny base."""
    mount = tmp_path_factory.mktemp("mount")
    save_base(mount, word_tokenizer(VOCABULARY), seed=3, context=128)
    return mount


def save(mount: Path, name: str, config: Any) -> Path:
    """Put an adapter of any kind on a share, its trained weights random, and return its folder."""
    torch.manual_seed(1)
    tuned: Any = get_peft_model(load_base(mount), config)
    keeps_initial = getattr(config, "init_lora_weights", None) in {"pissa", "olora"}
    with torch.no_grad():
        for key, parameter in tuned.named_parameters():
            if not parameter.requires_grad or (keeps_initial and "lora_A" in key):
                continue
            noise = torch.randn_like(parameter)
            if any(part in key for part in ("modules_to_save", "norm", "magnitude", "oft")):
                parameter.add_(noise, alpha=0.1)
            else:
                parameter.copy_(noise * 0.3)
    tuned.peft_config["default"].base_model_name_or_path = "model-cache/" + BASE
    folder = mount / "models" / name.replace(" ", "-") / "adapter"
    tuned.save_pretrained(folder)
    return folder


def load(mount: Path, folder: Path, merges: str = "on") -> LoadedModels:
    weights = find_weights(mount, None, str(folder.relative_to(mount)))
    assert weights.rejected == ()
    return load_models(weights, replace(SETTINGS, merge_adapters=merges), lambda _phase, _percent: None)


@torch.no_grad()
def logits(network: Any) -> torch.Tensor:
    found: torch.Tensor = network(TOKENS).logits
    return found


def peft_logits(mount: Path, folder: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(load_base(mount).eval(), str(folder)).eval())


@pytest.mark.parametrize("merges", ["on", "off", "impossible"])
@pytest.mark.parametrize("kind", SERVED)
async def test_a_kind_of_adapter_answers_as_with_peft_and_leaves_the_base_alone(
    share: Path, monkeypatch: pytest.MonkeyPatch, kind: str, merges: str
) -> None:
    folder = share / "models" / kind.replace(" ", "-") / "adapter"
    if not folder.exists():
        save(share, kind, SERVED[kind]())
    if merges == "impossible":
        monkeypatch.setattr(loading, "find_merge_obstacle", lambda _network: "it is a test")
    options = replace(SETTINGS, merge_adapters="off" if merges == "off" else "on")
    weights = find_weights(share, None, str(folder.relative_to(share)))
    expected_base, expected = logits(load_base(share).eval()), peft_logits(share, folder)
    assert not torch.allclose(expected, expected_base, atol=1e-2)
    base, tuned = load_models(weights, options, lambda _phase, _percent: None).models
    if tuned.network is not base.network:
        torch.testing.assert_close(logits(tuned.network), expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(logits(base.network), expected_base)
    # And so it does through the engine, whose layers and attention are its own.
    started = start_engine(weights, options, lambda _phase, _percent: None)
    try:
        answers = [await answer(started.engine, name) for name in (BASE, tuned.name)]
    finally:
        await started.engine.close()
    assert answers == [expected_base[0, -1].argmax().item(), expected[0, -1].argmax().item()]


async def answer(engine: Any, model: str) -> int:
    request = GenerationRequest("r", model, tuple(TOKENS[0].tolist()), 1, Sampling(0.0))
    (token,) = [token async for increment in engine.submit(request) for token in increment.token_ids]
    return int(token)


@pytest.mark.parametrize("kind", REJECTED)
def test_a_kind_that_cannot_be_served_is_rejected_with_one_sentence(share: Path, kind: str) -> None:
    make, reason = REJECTED[kind]
    folder = save(share, kind, make())
    weights = find_weights(share, None, str(folder.relative_to(share)))
    assert weights.adapters == ()
    assert reason in weights.rejected[0].reason
    assert "\n" not in weights.rejected[0].reason


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A share of the test's own, with a base, and an adapter that is right."""
    save_base(tmp_path, word_tokenizer(VOCABULARY), seed=3, context=128)
    save_adapter(tmp_path, "right")
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of an adapter's file."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def replace_all(tensors: dict[str, torch.Tensor], old: str, new: str) -> None:
    for key in list(tensors):
        tensors[key.replace(old, new)] = tensors.pop(key)


Q: Final = "base_model.model.model.layers.0.self_attn.q_proj"
BREAKAGES: Final[dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]]] = {
    "NaN": (
        lambda tensors: tensors[f"{Q}.lora_B.weight"].view(-1)[3].fill_(math.nan),
        f"its tensor {Q}.lora_B.weight has NaN or infinity: was the training stable?",
    ),
    "infinity": (
        lambda tensors: tensors[f"{Q}.lora_A.weight"].view(-1)[3].fill_(-math.inf),
        f"its tensor {Q}.lora_A.weight has NaN or infinity: was the training stable?",
    ),
    "no lora_B": (
        lambda tensors: [tensors.pop(key) for key in list(tensors) if "lora_B" in key],
        f"it has the tensor {Q}.lora_A.weight, and not {Q}.lora_B.weight",
    ),
    "no tensors": (lambda tensors: tensors.clear(), "its file has no tensors"),
    "another network's names": (
        lambda tensors: replace_all(tensors, "model.layers", "transformer.h"),
        "its tensors are for the layer transformer.h.0.self_attn.q_proj, which the base does not have",
    ),
    "fewer layers": (
        lambda tensors: [tensors.pop(key) for key in list(tensors) if "layers.1" in key],
        "its file lacks 4 of 8 tensors, such as " + Q.replace("0", "1") + ".lora_A.weight",
    ),
    "a tensor too many": (
        lambda tensors: replace_all(tensors, "layers.1.self_attn.v_proj", "layers.1.self_attn.k_proj"),
        "its file lacks 2 of 8 tensors, such as base_model.model.model.layers.1.self_attn.v_proj",
    ),
    "an unknown tensor": (
        lambda tensors: tensors.update({f"{Q}.lora_magnitude_vector": torch.ones(32)}),
        f"its file has 1 tensors that belong to no layer, such as {Q}.lora_magnitude_vector",
    ),
}  # fmt: skip


@pytest.mark.parametrize("merges", ["on", "off"])
@pytest.mark.parametrize("breakage", BREAKAGES)
def test_an_adapter_that_does_not_fit_is_rejected_and_the_others_are_served(
    mount: Path, breakage: str, merges: str
) -> None:
    change, reason = BREAKAGES[breakage]
    edit(save_adapter(mount, "wrong"), change)
    weights = find_weights(mount, None, "models/wrong,models/right")
    loaded = load_models(weights, replace(SETTINGS, merge_adapters=merges), lambda _phase, _percent: None)
    (rejected,) = (*weights.rejected, *loaded.rejected)
    assert rejected.name == "wrong"
    assert reason in rejected.reason
    assert "\n" not in rejected.reason
    assert [model.name for model in loaded.models] == [BASE, "right"]
    assert torch.equal(logits(loaded.models[0].network), logits(load_base(mount).eval()))


def test_the_base_alone_is_served_if_no_adapter_is_right(mount: Path) -> None:
    edit(save_adapter(mount, "wrong"), lambda tensors: tensors.clear())
    weights = find_weights(mount, None, "models/wrong")
    assert [model.name for model in load_models(weights, SETTINGS, lambda *_: None).models] == [BASE]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_that_overflow_only_in_the_network_s_precision_are_rejected(mount: Path, dtype: str) -> None:
    huge = 1e5 if dtype == "float16" else 3.3e38
    edit(save_adapter(mount, "wrong"), lambda tensors: tensors[f"{Q}.lora_B.weight"].fill_(huge))
    weights = find_weights(mount, None, "models/wrong,models/right")
    assert len(weights.adapters) == 2
    loaded = load_models(weights, replace(SETTINGS, dtype=dtype, merge_adapters="off"), lambda *_: None)
    (rejected,) = loaded.rejected
    assert rejected.reason.startswith(
        "the adapter wrong cannot be applied to org/tiny: its weights for the layer"
        f" model.layers.0.self_attn.q_proj are too large for {dtype}"
    )
    assert [model.name for model in loaded.models] == [BASE, "right"]


def test_a_merge_that_would_change_answers_is_not_made(
    share: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from peft.tuners.adalora.layer import SVDLinear  # noqa: PLC0415 - only this test needs it

    folder = save(share, "other AdaLoRA", SERVED["AdaLoRA"]())
    expected, original = peft_logits(share, folder), SVDLinear.get_delta_weight
    monkeypatch.setattr(SVDLinear, "get_delta_weight", lambda self, name: 2 * original(self, name))
    with caplog.at_level(logging.WARNING):
        _, tuned = load(share, folder).models
    torch.testing.assert_close(logits(tuned.network), expected, atol=1e-4, rtol=1e-4)
    assert "stays unmerged, which is slower: merged, the layer base_model.model.model.layers.0" in caplog.text


def test_rounding_to_bfloat16_is_no_reason_to_leave_a_plain_adapter_unmerged(
    share: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save(share, "plain LoRA", lora())
    weights = find_weights(share, None, str(folder.relative_to(share)))
    with caplog.at_level(logging.WARNING):
        load_models(weights, replace(SETTINGS, dtype="bfloat16"), lambda *_: None)
    assert "stays unmerged" not in caplog.text


def test_layers_of_one_kind_are_compared_once_for_lora(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[object] = []

    def compare(layer: object) -> float:
        compared.append(layer)
        return 0.0

    monkeypatch.setattr(adapter_checks, "_merge_error", compare)
    load(share, save(share, "again LoRA", lora()))
    assert len(compared) == 2
    load(share, save(share, "again LoHa", SERVED["LoHa"]()))
    assert len(compared) == 2 + 4

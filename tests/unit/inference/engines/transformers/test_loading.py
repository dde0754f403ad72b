"""Loading, placement and sharing of weights, on a random model so small that it loads at once."""

from __future__ import annotations

import itertools
import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import dynamic_module_utils

from inference.engines import registry as engines
from inference.engines.catalogue import has_package, quantization_requirements
from inference.engines.transformers import loading
from inference.engines.transformers.loading import (
    LoadedModel,
    apply_adapter,
    copy_sharing_tensors,
    load_adapters,
    load_base,
    load_models,
)
from inference.errors import LoadError
from inference.models import placement as placing
from inference.models.configuration import bytes_per_cached_token, read_config
from inference.models.hardware import Hardware, Placement
from inference.models.memory import estimate, measure
from inference.models.placement import place
from inference.models.weights import find_weights
from inference.settings import Settings
from tests.doubles.tiny import BASE, save_adapter, save_base, word_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from inference.models.hardware import Quantization

SETTINGS = Settings(dtype="float32", device="cpu", auth=False)
PICKLES = Settings(dtype="float32", device="cpu", auth=False, allow_pickle=True)
TRUSTING = Settings(dtype="float32", device="cpu", auth=False, trust_remote_code=True)
PROMPT = torch.tensor([[5, 6, 7]])
T4 = Hardware("Tesla T4", (7, 5), 15 * 2**30, 50 * 2**30, has_cpu_bf16=False)
CPU = Hardware(None, None, 0, 2**30, has_cpu_bf16=True)

OWN_CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM

Path({witness!r}).touch()

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""

pytestmark = [
    pytest.mark.model,
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
]


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A share with a tiny base."""
    save_base(tmp_path, word_tokenizer(64), layers=1, context=128)
    return tmp_path


@pytest.fixture
def adapter(mount: Path) -> Path:
    """An adapter on it, with random values."""
    return save_adapter(mount, "mine", targets=["q_proj"], std=1.0)


def load(mount: Path, settings: Settings = SETTINGS) -> tuple[LoadedModel, ...]:
    weights = find_weights(mount, BASE, settings.adapter, allows_pickle=settings.allow_pickle)
    return load_models(weights, settings, lambda _phase, _percent: None).models


def logits(model: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.network(PROMPT).logits
    return found


def error_of(mount: Path, settings: Settings) -> str:
    with pytest.raises(LoadError) as caught:
        load(mount, settings)
    return str(caught.value)


def pickle_base(mount: Path, content: object | None = None) -> None:
    folder = mount / "model-cache" / BASE
    weights = folder / "model.safetensors"
    torch.save(content or load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()


class Malice:
    """A pickle that would write a file as it is read."""

    def __init__(self, witness: Path) -> None:
        self._witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self._witness).touch, (self._witness,))


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_base_is_loaded_from_a_copy_as_from_its_own_folder(mount: Path, tmp_path: Path, place: str) -> None:
    (before,) = load(mount)
    settings = replace(SETTINGS, local_weights=place, weights_folder=tmp_path / "copies")
    (after,) = load(mount, settings)
    assert torch.equal(logits(before), logits(after))
    # The folder of a copy in memory is gone by now, and the engine reads headers and tokenizers again.
    assert after.tokenizer.name_or_path == str(mount / "model-cache" / BASE)
    assert (tmp_path / "copies").exists() == (place == "disk")


def test_a_pickled_base_is_loaded_from_a_copy_in_memory(mount: Path) -> None:
    (before,) = load(mount)
    pickle_base(mount)
    (after,) = load(mount, replace(PICKLES, local_weights="memory"))
    assert torch.equal(logits(before), logits(after))


def test_a_pickled_base_is_loaded_where_the_setting_allows_it(mount: Path) -> None:
    (before,) = load(mount)
    pickle_base(mount)
    assert "set FJARR_ALLOW_PICKLE=on" in error_of(mount, SETTINGS)
    (after,) = load(mount, PICKLES)
    assert torch.equal(logits(before), logits(after))


def test_a_pickled_adapter_is_loaded_where_the_setting_allows_it(mount: Path, adapter: Path) -> None:
    before = load(mount)
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    (rejected,) = find_weights(mount, BASE, None).rejected
    assert "set FJARR_ALLOW_PICKLE=on" in rejected.reason
    after = load(mount, PICKLES)
    assert torch.equal(logits(before[1]), logits(after[1]))
    assert not torch.allclose(logits(after[0]), logits(after[1]))


def test_a_pickle_that_is_more_than_tensors_is_refused_even_so(mount: Path, adapter: Path) -> None:
    witness = mount / "witness"
    torch.save({"weight": Malice(witness)}, adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    (rejected,) = find_weights(mount, BASE, None, allows_pickle=True).rejected
    assert "adapter_model.bin cannot be read as pickled tensors: " in rejected.reason
    for file in adapter.iterdir():
        file.unlink()
    pickle_base(mount, {"weight": Malice(witness)})
    assert "the base model org/tiny cannot be loaded from " in error_of(mount, PICKLES)
    assert not witness.exists()


@pytest.fixture
def own_code(mount: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base that brings its own code, and the file that the code writes."""
    # Read when transformers is imported, so a test's home comes too late for it.
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(mount / "modules"))
    monkeypatch.syspath_prepend(str(mount / "modules"))
    folder, witness = mount / "model-cache" / BASE, mount / "witness"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(OWN_CODE.format(witness=str(witness)))
    return witness


def test_a_model_s_own_code_is_not_run(mount: Path, own_code: Path) -> None:
    assert error_of(mount, SETTINGS) == (
        "the base model org/tiny needs code from its own repository, and no such code is run: use a model"
        " that transformers supports, or set FJARR_TRUST_REMOTE_CODE=on if you trust its author"
    )
    assert not own_code.exists()


def test_a_model_s_own_code_is_run_where_the_setting_says_so(mount: Path, own_code: Path) -> None:
    (model,) = load(mount, TRUSTING)
    assert type(model.network).__name__ == "OwnModel"
    assert own_code.exists()


def test_what_is_dangerous_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mount: Path
) -> None:
    class Module:
        @staticmethod
        def start_engine(*_arguments: object) -> None:
            return None

    monkeypatch.setattr(engines, "import_module", lambda _name: Module)
    weights = find_weights(mount, BASE, None)
    for settings in (SETTINGS, PICKLES, TRUSTING):
        with caplog.at_level(logging.WARNING):
            engines.start_engine(weights, settings, lambda _phase, _percent: None)
    assert caplog.messages == [
        "FJARR_ALLOW_PICKLE is on: pickled weights are loaded with torch's restricted unpickler",
        "FJARR_TRUST_REMOTE_CODE is on: Python code in a model's repository runs in this server",
    ]


def test_attention_is_the_setting_s(mount: Path) -> None:
    (usual,) = load(mount)
    (eager,) = load(mount, Settings(dtype="float32", device="cpu", auth=False, attention="eager"))
    assert usual.network.config._attn_implementation == "sdpa"
    assert eager.network.config._attn_implementation == "eager"
    torch.testing.assert_close(logits(usual), logits(eager))


def test_flash_attention_on_a_cpu_is_an_error(mount: Path) -> None:
    settings = Settings(dtype="float32", device="cpu", auth=False, attention="flash_attention_2")
    assert error_of(mount, settings) == (
        "FJARR_ATTENTION=flash_attention_2 is not available: it needs a CUDA device, and the model is on the"
        " CPU; leave it at auto"
    )


def test_the_context_is_no_longer_than_the_setting_says(mount: Path, adapter: Path) -> None:
    assert adapter.is_dir()
    limited = Settings(dtype="float32", device="cpu", auth=False, max_context_tokens=100)
    assert [model.context_tokens for model in load(mount, limited)] == [100, 100]
    assert [model.context_tokens for model in load(mount)] == [128, 128]


def test_what_does_not_fit_is_not_begun(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "detect_hardware", lambda: Hardware(None, None, 0, 2**14, has_cpu_bf16=True))
    assert error_of(mount, SETTINGS).startswith("the model does not fit: it needs 1 MiB (the base 1 MiB, ")


@pytest.mark.skipif(has_package("bitsandbytes"), reason="bitsandbytes is installed")
def test_what_quantises_is_asked_for_before_anything_is_loaded(mount: Path) -> None:
    settings = Settings(auth=False, quantization="nf4")
    weights = find_weights(mount, BASE, None)
    with pytest.raises(LoadError) as caught:
        place(weights, read_config(weights.base, settings), T4, settings)
    assert str(caught.value) == (
        "the weights are to be quantised (nf4), and the package bitsandbytes is not installed (install it"
        f" with: pip install -r {quantization_requirements('transformers')}; a container does so by itself"
        " with FJARR_QUANTIZATION=nf4)"
    )


def load_quantized(
    mount: Path, adapter: Path, quantization: Quantization
) -> tuple[LoadedModel, torch.Tensor, torch.Tensor]:
    """Load a base; return it, and what the base and PEFT's model on another copy of it answer.

    On a CPU, which bitsandbytes can do, if slowly; the server itself quantises on a card only.
    """
    base = find_weights(mount, BASE, None).base
    placement, config = Placement("cpu", "bfloat16", quantization), read_config(base, SETTINGS)
    loaded, lone = (load_base(base, config, placement, SETTINGS) for _ in range(2))
    for module in itertools.chain(loaded.network.modules(), lone.network.modules()):
        # As on a GPU: on some CPUs a layer's first use changes weights that others share.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    expected_base = logits(lone)
    peft_network = PeftModel.from_pretrained(lone.network, str(adapter)).eval()
    expected_tuned = logits(replace(lone, network=peft_network))
    assert not torch.equal(expected_base, expected_tuned)
    return loaded, expected_base, expected_tuned


@pytest.mark.skipif(not has_package("bitsandbytes"), reason="bitsandbytes is not installed")
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_networks_that_share_quantised_weights_answer_as_peft_does_on_separate_weights(
    mount: Path, adapter: Path, quantization: Quantization
) -> None:
    base, expected_base, expected_tuned = load_quantized(mount, adapter, quantization)
    (found,) = find_weights(mount, BASE, None).adapters
    tuned = apply_adapter(base, found, base.tokenizer, is_quantized=True)
    # Twice: the first use of a layer changes what it keeps.
    for _ in range(2):
        assert torch.equal(logits(base), expected_base)
        assert torch.equal(logits(tuned), expected_tuned)


@pytest.mark.skipif(not has_package("bitsandbytes"), reason="bitsandbytes is not installed")
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_an_unmerged_adapter_on_quantised_weights_answers_as_peft_does_on_separate_weights(
    mount: Path, adapter: Path, quantization: Quantization
) -> None:
    plain, expected_base, expected_tuned = load_quantized(mount, adapter, quantization)
    found = find_weights(mount, BASE, None).adapters
    placement = Placement("cpu", "bfloat16", quantization, merge_adapters=False)
    base, tuned = load_adapters(plain, found, placement, SETTINGS, lambda _phase, _percent: None).models
    assert base.lora_batch is not None
    for _ in range(2):
        base.lora_batch.begin_step([(base.adapter_id, PROMPT.shape[1])])
        assert torch.equal(logits(base), expected_base)
        base.lora_batch.begin_step([(tuned.adapter_id, PROMPT.shape[1])])
        # PEFT computes lora_A and lora_B in float32, and ours are in the network's bfloat16.
        torch.testing.assert_close(logits(tuned), expected_tuned, atol=0.2, rtol=0.05)


@pytest.mark.parametrize(
    ("merges", "adapters", "is_tight", "expected"),
    [
        ("auto", 1, False, True),
        ("auto", 2, False, False),
        ("auto", 1, True, False),
        ("on", 2, False, True),
        ("off", 1, False, False),
    ],
)
def test_a_single_adapter_that_fits_is_merged_unless_the_settings_say_otherwise(
    mount: Path,
    merges: str,
    adapters: int,
    is_tight: bool,  # noqa: FBT001 - a parameter of a test
    expected: bool,  # noqa: FBT001 - as above
) -> None:
    for number in range(adapters):
        save_adapter(mount, f"number-{number}")
    settings = replace(SETTINGS, merge_adapters=merges)
    weights = find_weights(mount, BASE, "*")
    config = read_config(weights.base, settings)
    size = measure(weights, bytes_per_cached_token(config, 1))
    merged = estimate(size, Placement("cpu", "float32", "none"), None).total
    hardware = replace(CPU, cpu_free_bytes=merged - 1 if is_tight else 2**30)
    placement = place(weights, config, hardware, settings)
    assert placement.merge_adapters is expected


def test_quantised_weights_are_never_merged_into(
    mount: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert adapter.is_dir()
    monkeypatch.setattr(placing, "has_package", lambda _name: True)
    for merges in ("auto", "on", "off"):
        settings = Settings(auth=False, quantization="nf4", merge_adapters=merges)
        weights = find_weights(mount, BASE, None)
        assert not place(weights, read_config(weights.base, settings), T4, settings).merge_adapters


@pytest.mark.parametrize("extra", [{"use_dora": True}, {}])
def test_an_adapter_that_cannot_be_batched_gets_a_network_of_its_own(
    mount: Path, extra: dict[str, Any]
) -> None:
    save_adapter(mount, "more", extra=extra)
    save_adapter(mount, "plain")
    base, more, plain = load(
        mount, replace(SETTINGS, merge_adapters="off", adapter="models/more,models/plain")
    )
    assert plain.network is base.network
    assert (more.network is base.network) == (not extra)
    assert [model.adapter_id for model in (base, plain)] == [0, 1 if extra else 2]


@pytest.mark.parametrize("merges", ["on", "off"])
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_initialised_from_the_weights_does_not_change_the_base(
    mount: Path, init: str, merges: str
) -> None:
    (lone,), (other,) = load(mount), load(mount)
    folder = save_adapter(mount, "mine", extra={"init_lora_weights": init})
    expected_base = logits(lone)
    expected_tuned = logits(
        replace(other, network=PeftModel.from_pretrained(other.network, str(folder)).eval())
    )
    base, tuned = load(mount, replace(SETTINGS, merge_adapters=merges))
    assert tuned.network is not base.network
    assert torch.equal(logits(base), expected_base)
    torch.testing.assert_close(logits(tuned), expected_tuned, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(expected_tuned, expected_base, atol=1e-2)


def test_a_copy_that_shares_its_tensors_shares_the_state_of_quantised_layers() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.state = object()  # type: ignore[assignment]  # as bitsandbytes does
    tree = torch.nn.Sequential(layer)
    other: Any = copy_sharing_tensors(tree)
    assert other[0] is not layer
    assert other[0].weight is layer.weight
    assert other[0].state is layer.state

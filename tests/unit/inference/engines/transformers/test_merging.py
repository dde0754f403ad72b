"""A base and a merged adapter, compared with PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from inference.engines.transformers.loading import LoadedModel, load_models
from inference.models.configuration import bytes_per_cached_token
from inference.models.weights import find_weights
from inference.text.codec import Message, TokenizerCodec
from tests.doubles.tiny import BASE, byte_tokenizer, load_base, save_adapter
from tests.doubles.transformers_engine import SETTINGS, TEMPLATE, prompts

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.model,
    pytest.mark.usefixtures("one_thread"),
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
]


def test_the_two_networks_share_every_tensor_that_the_adapter_does_not_change(
    loaded: tuple[LoadedModel, ...],
) -> None:
    base, tuned = (dict(model.network.named_parameters()) for model in loaded)
    assert base.keys() == tuned.keys()
    own = {name for name in base if base[name].data_ptr() != tuned[name].data_ptr()}
    assert own == {
        f"model.layers.{layer}.self_attn.{name}.weight" for layer in (0, 1) for name in ("q_proj", "v_proj")
    }
    assert loaded[1].parent == BASE


def test_the_adapter_is_merged_as_peft_merges_it_and_the_base_is_untouched(
    mount: Path, loaded: tuple[LoadedModel, ...]
) -> None:
    folder = mount / "model-cache" / BASE
    fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt_ids = torch.tensor([prompts(1)[0]])
    with torch.no_grad():
        assert torch.equal(loaded[0].network(prompt_ids).logits, fresh(prompt_ids).logits)
        peft = PeftModel.from_pretrained(fresh, str(mount / "models/mine/adapter"))
        torch.testing.assert_close(loaded[1].network(prompt_ids).logits, peft(prompt_ids).logits)
        assert not torch.allclose(loaded[0].network(prompt_ids).logits, loaded[1].network(prompt_ids).logits)


def test_an_adapter_with_resized_embeddings_gets_a_base_that_fits(mount: Path) -> None:
    network = load_base(mount)
    network.resize_token_embeddings(258, mean_resizing=False)
    network.get_input_embeddings().weight.data[257] = 7.0
    folder = save_adapter(mount, "padded", network=network, has_embeddings=True)
    tokenizer = byte_tokenizer("<end>")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    weights = find_weights(mount, None, "models/padded")
    assert [adapter.embedding_rows for adapter in weights.adapters] == [258]
    base, tuned = load_models(weights, SETTINGS, lambda _phase, _percent: None).models
    assert base.network.get_input_embeddings().weight.shape == (257, 32)
    assert tuned.network.get_input_embeddings().weight.shape == (258, 32)
    assert tuned.network.get_input_embeddings().weight[257, 0] == 7.0
    assert len(tuned.tokenizer) == 258
    assert tuned.tokenizer.chat_template == TEMPLATE


def test_an_adapter_of_another_base_says_so(mount: Path) -> None:
    config = LlamaConfig(
        vocab_size=257, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    save_adapter(mount, "alien", network=LlamaForCausalLM(config))
    weights = find_weights(mount, None, "models/alien")
    assert weights.adapters == ()
    assert weights.rejected[0].reason == (
        "the adapter alien does not fit org/tiny: its tensor"
        " base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is for 64 inputs, and the weight"
        " of that layer has the shape [32, 32]"
    )
    (base,) = load_models(weights, SETTINGS, lambda _phase, _percent: None).models
    assert base.name == BASE


def test_a_cached_token_has_the_size_of_its_keys_and_values(loaded: tuple[LoadedModel, ...]) -> None:
    assert bytes_per_cached_token(loaded[0].network.config, 4) == 2 * 2 * 2 * 8 * 4


def test_the_codec_speaks_the_model_s_template(loaded: tuple[LoadedModel, ...]) -> None:
    tokenizer = loaded[0].tokenizer
    codec = TokenizerCodec(tokenizer)
    conversation = (Message("system", "Be brief."), Message("user", "Hé?"))
    assert codec.decode(codec.encode_chat(conversation)) == "<system>Be brief.<user>Hé?<assistant>"
    assert codec.decode((*codec.encode("a <end> b"), 0)) == "a  b"

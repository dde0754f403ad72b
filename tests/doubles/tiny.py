"""Random networks, adapters and tokenizers for tests, so small that a step takes a millisecond."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BASE = "org/tiny"
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_tokenizer(*ends: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of end tokens and the 256 bytes, which can encode any text."""
    names = [*ends, *BYTES]
    backend = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(ends))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=ends[0])


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the words t0, which ends a text, t1, t2 and so on."""
    words = {f"t{index}": index for index in range(size)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab=words, unk_token="t0")), eos_token="t0"
    )


def save_base(  # noqa: PLR0913 - what differs between tests
    mount: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int = 0,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 2,
    context: int = 512,
    ends: int | list[int] = 0,
) -> Path:
    """Put a Llama with random weights on a share, and return its folder."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads // 2, max_position_embeddings=context,
        eos_token_id=ends, bos_token_id=None, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    folder = mount / "model-cache" / BASE
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load_base(mount: Path) -> LlamaForCausalLM:
    """Load the base from the share."""
    return LlamaForCausalLM.from_pretrained(mount / "model-cache" / BASE)


def save_adapter(  # noqa: PLR0913 - what differs between tests
    mount: Path,
    name: str,
    *,
    network: LlamaForCausalLM | None = None,
    rank: int = 4,
    targets: Sequence[str] = ("q_proj", "v_proj"),
    std: float = 0.5,
    has_embeddings: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Put an adapter with random weights on a share, and return its folder.

    Args:
        network: The network to put it on, which changes; None loads the base.
        std: The standard deviation of `lora_B`, which is zero before training.
        has_embeddings: Whether the network's embeddings are saved with it.
        extra: Additional options of its configuration.
    """
    lora = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(targets), task_type="CAUSAL_LM", **(extra or {})
    )
    tuned: Any = get_peft_model(load_base(mount) if network is None else network, lora)
    for key, parameter in tuned.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=std)
    tuned.peft_config["default"].base_model_name_or_path = "model-cache/" + BASE
    folder = mount / "models" / name / "adapter"
    tuned.save_pretrained(folder, save_embedding_layers=has_embeddings)
    return folder

"""A Llama model in a GGUF file, small enough to be made in a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize

if TYPE_CHECKING:
    from pathlib import Path

LAYERS, HIDDEN, FEED_FORWARD, HEADS, KEY_VALUE_HEADS = 2, 64, 96, 4, 2
PIECES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"ehlo1234Ġw", "he", "hell", "ll", "ĠĠ"]
MERGES = ["h e", "l l", "he ll", "Ġ Ġ"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"


def add_header(writer: GGUFWriter) -> None:
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_VALUE_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(PIECES))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(PIECES)
    writer.add_token_types([3, 3, 3, *[1] * (len(PIECES) - 3)])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)


def add_tensors(writer: GGUFWriter) -> None:
    """Add random weights: norms in float32, the others in Q8_0 and Q4_1, as in the real file."""
    generator = np.random.default_rng(0)

    def add(name: str, *shape: int, kind: GGMLQuantizationType = GGMLQuantizationType.Q4_1) -> None:
        weights = generator.standard_normal(shape, dtype=np.float32)
        is_norm = len(shape) == 1
        writer.add_tensor(
            name, weights if is_norm else quantize(weights, kind), raw_dtype=None if is_norm else kind
        )

    kept = HIDDEN * KEY_VALUE_HEADS // HEADS
    add("token_embd.weight", len(PIECES), HIDDEN, kind=GGMLQuantizationType.Q8_0)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        add(f"blk.{layer}.attn_norm.weight", HIDDEN)
        add(f"blk.{layer}.attn_q.weight", HIDDEN, HIDDEN)
        add(f"blk.{layer}.attn_k.weight", kept, HIDDEN)
        add(f"blk.{layer}.attn_v.weight", kept, HIDDEN)
        add(f"blk.{layer}.attn_output.weight", HIDDEN, HIDDEN)
        add(f"blk.{layer}.ffn_norm.weight", HIDDEN)
        add(f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, HIDDEN)
        add(f"blk.{layer}.ffn_up.weight", FEED_FORWARD, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, FEED_FORWARD)


def write_gguf(path: Path, architecture: str = "llama") -> None:
    writer = GGUFWriter(path, architecture)
    add_header(writer)
    add_tensors(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

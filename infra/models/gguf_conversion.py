"""Convert a GGUF file of a Llama model to the folder of safetensors that `transformers` loads.

A GGUF file holds everything: quantized weights, the vocabulary with its merges, the chat template and the
special tokens. transformers can read such a file too, but takes several times as long, since it parses the
header once for each part and builds its table of names once for each module. The tests compare the results.

Only what the example's base model needs is supported: architecture `llama`, and a byte-level BPE vocabulary
whose pre-tokenizer is `smollm`. Anything else is rejected, since a wrong guess would only show as worse
answers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from infra.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from gguf import GGUFReader
    from tokenizers import Tokenizer

WEIGHTS_FILE: Final = "model.safetensors"

# GGUF's names and transformers' names of the weights outside and inside of a layer.
_OUTER: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN: Final = 3


class Progress(Protocol):
    """Receives the number of bytes of the GGUF file's tensors that were converted since the last call."""

    def __call__(self, size_bytes: int, /) -> object:
        """Take the next portion, in bytes."""


def convert(source: Path, target: Path, *, progress: Progress = lambda _: None) -> None:
    """Write the model in the GGUF file `source` to the existing, empty folder `target`.

    Writes `config.json`, `generation_config.json`, `model.safetensors` (bfloat16), `tokenizer.json` and
    `tokenizer_config.json`.

    Raises:
        UsageError: The file is not a Llama model with a vocabulary of the supported kind.
    """
    # These imports take seconds, and most verbs need none of them.
    from gguf import GGUFReader  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    reader = GGUFReader(source)
    _require_support(reader)
    _write_json(target / "config.json", _model_config(reader))
    _write_json(target / "generation_config.json", _token_ids(reader))
    _write_json(target / "tokenizer_config.json", _tokenizer_config(reader))
    _tokenizer(reader).save(str(target / "tokenizer.json"))
    save_file(_tensors(reader, progress), target / WEIGHTS_FILE, metadata={"format": "pt"})
    (target / WEIGHTS_FILE).chmod(0o644)  # safetensors makes it its owner's alone; a cache may be shared


def tensor_bytes(source: Path) -> int:
    """Return how many bytes of tensors `convert` will report as progress."""
    from gguf import GGUFReader  # noqa: PLC0415 - as in convert

    return sum(int(tensor.n_bytes) for tensor in GGUFReader(source).tensors)


def transformers_name(name: str) -> str:
    """Return transformers' name of the weight that GGUF calls `name`.

    Raises:
        UsageError: A Llama model has no such weight.
    """
    if name in _OUTER:
        return _OUTER[name]
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in _INNER:
            return f"model.layers.{layer}.{_INNER[part]}.weight"
    raise UsageError(f"cannot convert the GGUF file: a Llama model has no weight {name!r}")


def _require_support(reader: GGUFReader) -> None:
    architecture = _field(reader, "general.architecture")
    if architecture != "llama":
        raise UsageError(
            f"cannot convert a GGUF file of architecture {architecture!r}: only 'llama' is supported"
        )
    tokenizer = f"{_field(reader, 'tokenizer.ggml.model')}/{_field(reader, 'tokenizer.ggml.pre')}"
    if tokenizer != "gpt2/smollm":
        raise UsageError(
            f"cannot convert a GGUF file with tokenizer {tokenizer}: only gpt2/smollm is supported"
        )


def _model_config(reader: GGUFReader) -> dict[str, Any]:
    hidden, heads = _field(reader, "llama.embedding_length"), _field(reader, "llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "num_hidden_layers": _field(reader, "llama.block_count"),
        "hidden_size": hidden,
        "intermediate_size": _field(reader, "llama.feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": _field(reader, "llama.attention.head_count_kv"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": _field(reader, "llama.context_length"),
        # A 32 bit float in the file: the shortest decimal that rounds to it is the number that was meant.
        "rms_norm_eps": float(f"{_field(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": _field(reader, "llama.rope.freq_base"),
        },
        "vocab_size": _field(reader, "llama.vocab_size"),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        **_token_ids(reader),
    }


def _token_ids(reader: GGUFReader) -> dict[str, int]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {key: _field(reader, f"tokenizer.ggml.{name}_token_id") for key, name in names.items()}


def _tokenizer_config(reader: GGUFReader) -> dict[str, Any]:
    tokens = _field(reader, "tokenizer.ggml.tokens")
    ids = _token_ids(reader) | {"unk_token_id": _field(reader, "tokenizer.ggml.unknown_token_id")}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{key.removesuffix("_id"): tokens[index] for key, index in ids.items()},
        "model_max_length": _field(reader, "llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": _field(reader, "tokenizer.chat_template"),
    }


def _tokenizer(reader: GGUFReader) -> Tokenizer:
    """Return the byte-level BPE tokenizer.

    Source: llama.cpp, `llama-vocab.cpp`, pre-tokenizer `smollm`: every digit alone, then GPT-2's pattern.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415 - as in convert

    tokens = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    )
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = _field(reader, "tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _tensors(reader: GGUFReader, progress: Progress) -> dict[str, torch.Tensor]:
    """Return every weight, dequantized to bfloat16, by transformers' name."""
    import torch  # noqa: PLC0415 - as in convert
    from gguf import dequantize  # noqa: PLC0415 - as in convert

    heads = {
        "attn_q": _field(reader, "llama.attention.head_count"),
        "attn_k": _field(reader, "llama.attention.head_count_kv"),
    }
    tensors = {}
    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[-2]
        if part in heads:
            weights = _half_split_rotary(weights, heads[part])
        tensors[transformers_name(tensor.name)] = torch.tensor(weights, dtype=torch.bfloat16)
        progress(int(tensor.n_bytes))
    return tensors


def _half_split_rotary(weights: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Restore transformers' order of each head's rows in the query and key weights.

    GGUF interleaves the two halves that the rotary embedding rotates against each other; transformers keeps
    the first half before the second.
    """
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _field(reader: GGUFReader, name: str) -> Any:  # noqa: ANN401 - a header holds values of any type
    field = reader.get_field(name)
    if field is None:
        raise UsageError(f"cannot convert the GGUF file: its header has no {name!r}")
    return field.contents()


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

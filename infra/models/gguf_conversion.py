"""Turn a GGUF file of a Llama model into the folder of safetensors that `transformers` loads.

A GGUF file carries everything: quantised weights, the vocabulary with its merges, the chat template and the
special tokens. One tensor at a time is dequantised, rounded to bfloat16 and written, so that memory stays
small. No network, no cache, no terminal here: `base_models` decides what is converted, where to, and who is
told.

Only what the example's base model needs is understood: architecture `llama`, a byte-level BPE vocabulary
whose pre-tokenizer is `smollm`. Anything else is refused, since a wrong guess would still answer, only
worse.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from infra.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from gguf import GGUFReader, ReaderTensor

WEIGHTS_FILE = "model.safetensors"

# GGUF's short names against transformers' long ones, for the weights outside and inside of a layer.
_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_INNER = {
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
_CONTROL_TOKEN = 3


class Progress(Protocol):
    """Is told how many bytes of the GGUF file's tensors have been converted since it was last told."""

    def __call__(self, size_bytes: int, /) -> object:
        """Take the next portion, in bytes."""


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Hold what the header of a GGUF file says about a Llama model.

    Attributes:
        layers: Number of transformer blocks.
        hidden: Width of the residual stream.
        feed_forward: Width inside the MLP.
        heads: Number of query heads.
        key_value_heads: Number of key and value heads, a divisor of `heads`.
        context: Number of positions the model was trained for.
        vocabulary: Number of tokens.
        rope_theta: Base of the rotary embedding's frequencies.
        norm_epsilon: Epsilon of the RMS norms.
        is_tied: True if the output layer is the embedding.
    """

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    context: int
    vocabulary: int
    rope_theta: float
    norm_epsilon: float
    is_tied: bool


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Hold the tokenizer of a GGUF file: byte-level BPE with its special tokens and chat template.

    Attributes:
        tokens: The tokens in the order of their ids, as byte-level text.
        merges: The BPE merges, best first, each two tokens.
        control_ids: Ids of the tokens that text never produces, such as `<|im_start|>`.
        bos_id: Id of the token that begins a text.
        eos_id: Id of the token that ends an answer.
        pad_id: Id of the token that fills a batch up.
        unknown_id: Id of the token for what cannot be written.
        chat_template: A Jinja2 template over `messages` and `add_generation_prompt`.
    """

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    control_ids: tuple[int, ...]
    bos_id: int
    eos_id: int
    pad_id: int
    unknown_id: int
    chat_template: str


def convert(source: Path, target: Path, *, progress: Progress = lambda _: None) -> None:
    """Write the model in the GGUF file `source` to the existing, empty folder `target`.

    Writes `config.json`, `generation_config.json`, `model.safetensors` (bfloat16), `tokenizer.json` and
    `tokenizer_config.json`.

    Raises:
        UsageError: If the file is not a Llama model with a vocabulary of the kind that we understand.
    """
    from gguf import GGUFReader  # noqa: PLC0415 - numpy comes with it, and most verbs need neither

    reader = GGUFReader(source)
    shape = read_shape(reader)
    vocabulary = read_vocabulary(reader)
    _write_json(target / "config.json", model_config(shape, vocabulary))
    _write_json(target / "generation_config.json", generation_config(vocabulary))
    _write_json(target / "tokenizer_config.json", tokenizer_config(vocabulary, shape.context))
    write_tokenizer(vocabulary, target / "tokenizer.json")
    write_weights(reader, shape, target / WEIGHTS_FILE, progress=progress)


def tensor_bytes(source: Path) -> int:
    """Return how many bytes of tensors `convert` will report as progress."""
    from gguf import GGUFReader  # noqa: PLC0415 - as in convert

    return sum(int(tensor.n_bytes) for tensor in GGUFReader(source).tensors)


def read_shape(reader: GGUFReader) -> LlamaShape:
    """Read the model's dimensions from the header.

    Raises:
        UsageError: If the architecture is not `llama`, or a dimension is missing.
    """
    architecture = _field(reader, "general.architecture")
    if architecture != "llama":
        raise UsageError(
            f"cannot convert a GGUF file of architecture {architecture!r}: only 'llama' is understood"
        )
    return LlamaShape(
        layers=_field(reader, "llama.block_count"),
        hidden=_field(reader, "llama.embedding_length"),
        feed_forward=_field(reader, "llama.feed_forward_length"),
        heads=_field(reader, "llama.attention.head_count"),
        key_value_heads=_field(reader, "llama.attention.head_count_kv"),
        context=_field(reader, "llama.context_length"),
        vocabulary=_field(reader, "llama.vocab_size"),
        rope_theta=_field(reader, "llama.rope.freq_base"),
        # A 32 bit float in the file: the shortest decimal that rounds to it is the number that was meant.
        norm_epsilon=float(f"{_field(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        is_tied=all(tensor.name != "output.weight" for tensor in reader.tensors),
    )


def read_vocabulary(reader: GGUFReader) -> Vocabulary:
    """Read the tokenizer from the header.

    Raises:
        UsageError: If it is not a byte-level BPE with the pre-tokenizer `smollm`, or a part is missing.
    """
    model, pre_tokenizer = _field(reader, "tokenizer.ggml.model"), _field(reader, "tokenizer.ggml.pre")
    if (model, pre_tokenizer) != ("gpt2", "smollm"):
        raise UsageError(
            f"cannot convert a GGUF file with tokenizer {model}/{pre_tokenizer}: "
            "only gpt2/smollm is understood"
        )
    kinds = _field(reader, "tokenizer.ggml.token_type")
    return Vocabulary(
        tokens=tuple(_field(reader, "tokenizer.ggml.tokens")),
        merges=tuple(_pair(merge) for merge in _field(reader, "tokenizer.ggml.merges")),
        control_ids=tuple(index for index, kind in enumerate(kinds) if kind == _CONTROL_TOKEN),
        bos_id=_field(reader, "tokenizer.ggml.bos_token_id"),
        eos_id=_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_id=_field(reader, "tokenizer.ggml.padding_token_id"),
        unknown_id=_field(reader, "tokenizer.ggml.unknown_token_id"),
        chat_template=_field(reader, "tokenizer.chat_template"),
    )


def model_config(shape: LlamaShape, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return `config.json` of a `LlamaForCausalLM`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.hidden // shape.heads,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.is_tied,
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "pad_token_id": vocabulary.pad_id,
    }


def generation_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return `generation_config.json`: where an answer ends; how to sample is the caller's to say."""
    return {
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "pad_token_id": vocabulary.pad_id,
    }


def tokenizer_config(vocabulary: Vocabulary, context: int) -> dict[str, Any]:
    """Return `tokenizer_config.json`, the chat template in it."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": vocabulary.tokens[vocabulary.bos_id],
        "eos_token": vocabulary.tokens[vocabulary.eos_id],
        "pad_token": vocabulary.tokens[vocabulary.pad_id],
        "unk_token": vocabulary.tokens[vocabulary.unknown_id],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "chat_template": vocabulary.chat_template,
    }


def write_tokenizer(vocabulary: Vocabulary, target: Path) -> None:
    """Write `tokenizer.json`.

    Source: llama.cpp, `llama-vocab.cpp`, pre-tokenizer `smollm`: every digit alone, then GPT-2's pattern.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415 - as in convert

    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=list(vocabulary.merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(vocabulary.tokens[index], special=True, normalized=False)
            for index in vocabulary.control_ids
        ]
    )
    tokenizer.save(str(target))


def write_weights(reader: GGUFReader, shape: LlamaShape, target: Path, *, progress: Progress) -> None:
    """Write the weights as bfloat16 safetensors, one tensor in memory at a time.

    Source: safetensors' format: eight bytes with the header's length, the header in JSON, then the tensors
    one after another. The library's own writer has no bfloat16 without torch, which takes seconds to import.
    """
    with target.open("wb") as file:
        header = safetensors_header(reader)
        file.write(len(header).to_bytes(8, "little") + header)
        for weights in dequantised(reader, shape, progress=progress):
            file.write(to_bfloat16(weights).astype("<u2").tobytes())


def safetensors_header(reader: GGUFReader) -> bytes:
    """Return the JSON that says where each weight will stand, padded so that the first is 8 byte aligned."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in reader.tensors:
        start, end = end, end + 2 * int(tensor.n_elements)
        # GGUF writes the fastest running axis first, everybody else last.
        sizes = [int(size) for size in reversed(tensor.shape)]
        header[transformers_name(tensor.name)] = {
            "dtype": "BF16",
            "shape": sizes,
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def dequantised(
    reader: GGUFReader, shape: LlamaShape, *, progress: Progress
) -> Iterator[np.ndarray[Any, Any]]:
    """Yield every weight in the file's order, as float32 in transformers' layout."""
    from gguf import dequantize  # noqa: PLC0415 - as in convert

    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type)
        yield _half_split_rotary(weights, tensor, shape)
        progress(int(tensor.n_bytes))


def transformers_name(name: str) -> str:
    """Return transformers' name of the weight that GGUF calls `name`.

    Raises:
        UsageError: If a Llama model has no such weight.
    """
    if name in _OUTER:
        return _OUTER[name]
    match name.split("."):
        case ["blk", layer, part, "weight"] if part in _INNER:
            return f"model.layers.{layer}.{_INNER[part]}.weight"
    raise UsageError(f"cannot convert the GGUF file: a Llama model has no weight {name!r}")


def to_bfloat16(weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Round float32 to the bit patterns (uint16) of the nearest bfloat16, ties to even, as torch does.

    Numpy has no bfloat16, and torch takes seconds to import.
    """
    import numpy as np  # noqa: PLC0415 - as in convert

    bits = np.ascontiguousarray(weights, dtype=np.float32).view(np.uint32)
    rounding = ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return ((bits + rounding) >> 16).astype(np.uint16)


def _half_split_rotary(
    weights: np.ndarray[Any, Any], tensor: ReaderTensor, shape: LlamaShape
) -> np.ndarray[Any, Any]:
    """Undo GGUF's order of a head's rows in the query and key weights.

    GGUF interleaves the two halves that the rotary embedding turns against each other; transformers keeps the
    first half before the second.
    """
    heads = {"attn_q": shape.heads, "attn_k": shape.key_value_heads}.get(tensor.name.split(".")[-2])
    if heads is None:
        return weights
    rows, columns = weights.shape
    return weights.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _field(reader: GGUFReader, name: str) -> Any:  # noqa: ANN401 - a header holds values of any type
    field = reader.get_field(name)
    if field is None:
        raise UsageError(f"cannot convert the GGUF file: its header has no {name!r}")
    return field.contents()


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

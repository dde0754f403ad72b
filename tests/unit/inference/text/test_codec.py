from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from inference.text.codec import Token, TokenizerCodec
from infra.models.base_models import ensure_example_base
from tests.doubles.byte_codec import ByteCodec


def byte_level() -> TokenizerCodec:
    """A byte-level vocabulary with one word, in GPT-2's alphabet."""
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġx", "Ġxy"]
    tokenizer = Tokenizer(
        models.BPE({piece: index for index, piece in enumerate(pieces)}, [("Ġ", "x"), ("Ġx", "y")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TokenizerCodec(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<|end|>"])
    )


def sentence_piece() -> TokenizerCodec:
    """A vocabulary of words with byte fallback, as in Llama 2 and Mistral."""
    pieces = ["<unk>", "▁Hello", "▁there", *[f"<0x{byte:02X}>" for byte in range(256)]]
    tokenizer = Tokenizer(
        models.BPE(
            {piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True
        )
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return TokenizerCodec(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"))


@given(st.text())
def test_the_bytes_of_a_text_s_tokens_are_the_text_s(text: str) -> None:
    for codec in (BYTE_LEVEL, ByteCodec()):
        data = [codec.token(token_id).data for token_id in codec.encode(text)]
        assert b"".join(piece or b"" for piece in data) == text.encode()


BYTE_LEVEL = byte_level()


def test_a_token_of_whole_characters_is_shown_as_text() -> None:
    (token_id,) = BYTE_LEVEL.encode(" xy")
    assert BYTE_LEVEL.token(token_id) == Token(" xy", b" xy")


def test_a_token_of_part_of_a_character_is_shown_as_bytes() -> None:
    first, second = BYTE_LEVEL.encode("é")
    assert BYTE_LEVEL.token(first) == Token("bytes:\\xc3", b"\xc3")
    assert BYTE_LEVEL.token(second) == Token("bytes:\\xa9", b"\xa9")


def test_a_special_token_has_a_name_and_adds_nothing() -> None:
    (token_id,) = BYTE_LEVEL.encode("<|end|>")
    assert BYTE_LEVEL.token(token_id) == Token("<|end|>", None)
    assert ByteCodec().token(256) == Token("", None)


def test_an_id_beyond_the_tokenizer_s_last_is_empty() -> None:
    # The network's vocabulary may be padded.
    assert BYTE_LEVEL.token(BYTE_LEVEL.vocabulary_size + 5) == Token("", None)


def test_sentence_pieces_have_their_spaces_and_their_bytes() -> None:
    codec = sentence_piece()
    assert codec.token(1) == Token(" Hello", b" Hello")
    assert codec.token(3 + 0xC3) == Token("bytes:\\xc3", b"\xc3")
    assert codec.token(3 + ord("a")) == Token("a", b"a")
    assert codec.decode((1, 2, 3 + 0xC3, 3 + 0xA9)) == "Hello thereé"


def test_kept_special_tokens_are_part_of_the_text() -> None:
    (end,) = BYTE_LEVEL.encode("<|end|>")
    tokens = (*BYTE_LEVEL.encode("a"), end, *BYTE_LEVEL.encode("é"), end)
    assert BYTE_LEVEL.decode(tokens) == "aé"
    assert BYTE_LEVEL.decode(tokens, {end: "<|end|>"}) == "a<|end|>é<|end|>"
    assert BYTE_LEVEL.decode(tokens, {0: "!"}) == "aé"


@pytest.mark.model
def test_the_example_s_tokens_are_bytes_of_their_text() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(ensure_example_base())
    codec = TokenizerCodec(tokenizer)
    text = "The weather in Zürich: 😀 日本語\n\tok  twice"
    tokens = codec.encode(text)
    assert b"".join(codec.token(token_id).data or b"" for token_id in tokens) == text.encode()
    assert any(codec.token(token_id).text.startswith("bytes:") for token_id in tokens)
    assert codec.token(tokenizer.eos_token_id) == Token("<|im_end|>", None)
    assert not codec.has_tools

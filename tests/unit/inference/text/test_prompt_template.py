"""Prompts of models without a chat template, or with one that rejects a conversation."""

from __future__ import annotations

import pytest

from inference.errors import InvalidRequestError
from inference.text.codec import Message, TokenizerCodec
from tests.doubles.tiny import byte_tokenizer


def test_a_prompt_template_goes_around_the_last_user_message() -> None:
    codec = TokenizerCodec(byte_tokenizer("<end>"), "### Text: {}\n### The tone is:\n")
    conversation = (Message("user", "one"), Message("assistant", "two"), Message("user", "{three}"))
    assert codec.decode(codec.encode_chat(conversation)) == "### Text: {three}\n### The tone is:\n"
    with pytest.raises(InvalidRequestError, match="there is none"):
        codec.encode_chat((Message("system", "x"),))


def test_without_any_template_a_single_message_is_the_prompt() -> None:
    codec = TokenizerCodec(byte_tokenizer("<end>"))
    assert codec.decode(codec.encode_chat((Message("user", "bare"),))) == "bare"
    with pytest.raises(InvalidRequestError, match="no chat template"):
        codec.encode_chat((Message("user", "one"), Message("assistant", "two"), Message("user", "three")))


def test_what_the_template_refuses_is_the_client_s_error() -> None:
    tokenizer = byte_tokenizer("<end>")
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InvalidRequestError, match="roles must alternate"):
        TokenizerCodec(tokenizer).encode_chat((Message("user", "x"),))

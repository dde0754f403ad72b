"""Roles as the templates of known models treat them: what they render, and what they reject."""

from __future__ import annotations

import pytest

from inference.errors import InvalidRequestError
from inference.text.codec import Message, TokenizerCodec
from tests.doubles.tiny import byte_tokenizer

# No system role, and the assistant is called model, as in Gemma 2.
NO_SYSTEM = """
{%- if messages[0].role == "system" %}{{ raise_exception("System role not supported") }}{% endif %}
{%- for message in messages %}
{%- if (message.role == "user") != (loop.index0 % 2 == 0) %}
{{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
{%- endif %}
{%- set role = "model" if message.role == "assistant" else message.role %}
{{- "<" ~ role ~ ">" ~ message.content | trim }}
{%- endfor %}
{%- if add_generation_prompt %}<model>{% endif %}"""

# A system message is part of the first user message, as in Llama 2 and Gemma 3.
FOLDED_SYSTEM = """
{%- set first = messages[0].content ~ "\\n\\n" if messages[0].role == "system" else "" %}
{%- for message in messages if message.role != "system" %}
{{- "<" ~ message.role ~ ">" ~ (first if loop.first else "") ~ message.content }}
{%- endfor %}"""

# Strict alternation after an optional system message, as in Mistral 7B v0.3.
ALTERNATING = """
{%- set rest = messages[1:] if messages[0].role == "system" else messages %}
{%- for message in rest %}
{%- if (message.role == "user") != (loop.index0 % 2 == 0) %}
{{- raise_exception("After the optional system message, roles must alternate user/assistant/...") }}
{%- endif %}
{{- "<" ~ message.role ~ ">" ~ message.content }}
{%- endfor %}"""

# Any order of roles, as in ChatML.
ANY_ORDER = """
{%- for message in messages %}{{ "<" ~ message.role ~ ">" ~ message.content }}{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""

SYSTEM, ASK, ANSWER, AGAIN = (
    Message("system", "S"), Message("user", "A"), Message("assistant", "B"), Message("user", "C"),
)  # fmt: skip


def make_codec(template: str) -> TokenizerCodec:
    tokenizer = byte_tokenizer("<|end|>")
    tokenizer.chat_template = template
    return TokenizerCodec(tokenizer)


@pytest.mark.parametrize(
    ("template", "messages", "rendered"),
    [
        (NO_SYSTEM, (ASK, ANSWER, AGAIN), "<user>A<model>B<user>C<model>"),
        (FOLDED_SYSTEM, (SYSTEM, ASK), "<user>S\n\nA"),
        (FOLDED_SYSTEM, (ASK, AGAIN), "<user>A<user>C"),
        (ALTERNATING, (SYSTEM, ASK, ANSWER), "<user>A<assistant>B"),
        (ANY_ORDER, (ASK, AGAIN), "<user>A<user>C<assistant>"),
        (ANY_ORDER, (ASK, SYSTEM, ANSWER, ANSWER), "<user>A<system>S<assistant>B<assistant>B<assistant>"),
        (ANY_ORDER, (ANSWER, ASK), "<assistant>B<user>A<assistant>"),
    ],
)
def test_messages_are_rendered_in_their_order_and_never_merged(
    template: str, messages: tuple[Message, ...], rendered: str
) -> None:
    codec = make_codec(template)
    assert codec.decode(codec.encode_chat(messages)) == rendered


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (NO_SYSTEM, (SYSTEM, ASK), "System role not supported"),
        (NO_SYSTEM, (ASK, AGAIN), "Conversation roles must alternate user/assistant/user/assistant/..."),
        (ALTERNATING, (SYSTEM, ASK, AGAIN), "After the optional system message, roles must alternate"),
        (ALTERNATING, (ASK, ANSWER, SYSTEM), "After the optional system message, roles must alternate"),
        # A template is a program, and can fail as one.
        ("{{ messages[0].nothing.more }}", (ASK,), "has no attribute 'nothing'"),
        ("{{ messages[0].content + 1 }}", (ASK,), "can only concatenate str"),
        ("{{ 1 / (messages | length - 1) }}", (ASK,), "division by zero"),
        ("{% for n in range(10 ** 9) %}{% endfor %}", (ASK,), "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", (ASK,), "maximum recursion depth exceeded"),
        ("{{ messages[0].content.__class__.__mro__ }}", (ASK,), "unsafe"),
    ],
)
def test_what_a_template_rejects_is_the_client_s_error_in_the_template_s_words(
    template: str, messages: tuple[Message, ...], words: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make_codec(template).encode_chat(messages)
    assert caught.value.message.startswith("The model's chat template rejects this conversation: ")
    assert words in caught.value.message
    assert caught.value.param == "messages"

"""The parser of tool calls, and the grammars that enforce them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher

from inference.text.codec import Message
from inference.text.tools import HERMES, LLAMA, MISTRAL, CallFormat, CallParser, Tool, ToolUse
from tests.doubles.tool_server import CALL_TEXTS, FORMS, HERMES_TEMPLATE, WEATHER_SCHEMA, accepts, make_codec


@pytest.mark.parametrize("name", CALL_TEXTS)
@pytest.mark.parametrize("is_forced", [False, True])
def test_wherever_a_call_is_cut_off_its_tags_are_no_text(name: str, *, is_forced: bool) -> None:
    text, form = CALL_TEXTS[name], FORMS[name]
    for length in range(1, len(text) + 1):
        parser = CallParser(form, {"get_weather", "get_time"}, is_forced)
        outputs = [*map(parser.push, text[:length]), parser.finish(is_cut=True)]
        shown = "".join(output.text for output in outputs)
        calls = [call for output in outputs for call in output.calls]
        begins = text.index("{", text.index(form.arguments_key))
        assert len(calls) == (length > begins)
        if calls:
            arguments = calls[0].arguments
            assert arguments == text[begins:length] or json.loads(arguments) == {"city": "Zürich"}
        # Of a free answer, what may be text is: the beginning of a tag, and JSON without one.
        may_be_text = not is_forced and not calls and (not form.start_tag or length < len(form.start_tag))
        assert shown == (text[:length] if may_be_text else "")


@pytest.mark.parametrize("call_format", [HERMES, LLAMA, MISTRAL], ids=["hermes", "llama", "mistral"])
@pytest.mark.parametrize("special", [(), ((1, "[TOOL_CALLS]"), (2, "<tool_call>"))], ids=["text", "special"])
def test_every_grammar_of_calls_is_one(call_format: CallFormat, special: tuple[tuple[int, str], ...]) -> None:
    call_format = CallFormat(
        **{name: getattr(call_format, name) for name in call_format.__slots__} | {"special": special}
    )
    tools = (Tool("a", None, WEATHER_SCHEMA, is_strict=True), Tool("b"))
    for is_parallel in (True, False):
        use = ToolUse(tools, "required", is_parallel=is_parallel)
        assert LLMatcher.validate_grammar("start: " + call_format.calls_rule(use)) == ""
        assert LLMatcher.validate_grammar(call_format.free_grammar(use)) == ""


def test_a_strict_function_is_kept_to_its_schema_in_each_form() -> None:
    tools = (Tool("get_weather", None, WEATHER_SCHEMA, is_strict=True), Tool("get_time"))
    for name, call_format in FORMS.items():
        grammar = call_format.free_grammar(ToolUse(tools))
        text = CALL_TEXTS[name].replace("[TOOL_CALLS] ", "[TOOL_CALLS]")
        assert accepts(grammar, text), name
        assert not accepts(grammar, text.replace('"Zürich"', "5")), name
        assert accepts(grammar, "  Just text, and { too"), name
        assert accepts(grammar, ""), name
    assert accepts(
        HERMES.free_grammar(ToolUse(tools)), f"Hm. {CALL_TEXTS['hermes']}\n{CALL_TEXTS['hermes']}\nDone."
    )


PIECES = [
    "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[", "]", ",", "{", "}", '"', "\\", " ", "\n", "text", "é",
    CALL_TEXTS["hermes"], CALL_TEXTS["llama"], CALL_TEXTS["mistral"], '{"name": "get_time", "arguments": {}}',
]  # fmt: skip


@given(
    st.sampled_from([HERMES, LLAMA, MISTRAL]),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.integers(1, 9), max_size=80),
)
def test_nothing_depends_on_where_the_text_was_cut_and_without_calls_nothing_is_lost(
    call_format: CallFormat, text: str, sizes: list[int]
) -> None:
    whole = read([text], call_format)
    pieces, start = [], 0
    for size in sizes:
        pieces.append(text[start : start + size])
        start += size
    assert read([*pieces, text[start:]], call_format) == whole
    shown, calls = whole
    if not calls:
        assert shown == text
    for name, arguments in calls:
        assert name in {"get_weather", "get_time"}
        assert isinstance(json.loads(arguments), dict)


def read(pieces: list[str], call_format: CallFormat) -> tuple[str, list[tuple[str, str]]]:
    parser = CallParser(call_format, {"get_weather", "get_time"})
    outputs = [*[parser.push(piece) for piece in pieces], parser.finish()]
    calls = [(call.name, call.arguments) for each in outputs for call in each.calls]
    return "".join(each.text for each in outputs), calls


def test_a_conversation_with_tools_is_rendered() -> None:
    codec = make_codec(HERMES_TEMPLATE)
    prompt = codec.decode(codec.encode_chat([Message("user", "Hi")], [Tool("f", "Do.", None)]))
    schema = '{"type": "object", "properties": {}, "additionalProperties": false}'
    function = f'{{"name": "f", "description": "Do.", "parameters": {schema}}}'
    assert f'{{"type": "function", "function": {function}}}' in prompt

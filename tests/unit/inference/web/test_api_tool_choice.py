"""Calls that a request forces or forbids, and models that have no tools."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from inference.text.tools import HERMES
from tests.doubles.tool_server import CALL_TEXTS, CLOCK, HERMES_TEMPLATE, ToolServer, accepts, make_codec


async def test_a_forced_call_that_a_stop_string_cut_off_shows_no_tag(tool_server: ToolServer) -> None:
    tool_server.play(CALL_TEXTS["hermes"])
    completion = await tool_server.ask(stop="Zür", tool_choice="required")
    choice = completion.choices[0]
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("stop", "", None)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("plain", "This model does not support tools: its chat template renders none. Leave 'tools' out."),
        (
            "xml",
            "This model writes its calls in a format that this server does not support. Leave 'tools' out.",
        ),
    ],
)
async def test_a_model_without_tools_refuses_them(tool_server: ToolServer, model: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await tool_server.ask(model=model)
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported")
    assert message in caught.value.message


async def test_a_model_with_a_prompt_template_has_no_tools() -> None:
    assert not make_codec(HERMES_TEMPLATE, "### {}").has_tools
    assert not make_codec(None).has_tools
    assert make_codec(HERMES_TEMPLATE).call_format == HERMES


async def test_a_choice_of_none_leaves_the_tools_out(tool_server: ToolServer) -> None:
    tool_server.play(CALL_TEXTS["hermes"])
    completion = await tool_server.ask(tool_choice="none")
    assert completion.choices[0].message.content == CALL_TEXTS["hermes"]
    assert "get_weather" not in tool_server.codecs["hermes"].decode(
        tool_server.engine.requests[0].prompt_token_ids
    )


async def test_a_named_function_has_to_be_there(tool_server: ToolServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await tool_server.ask(tool_choice={"type": "function", "function": {"name": "other"}})
    assert caught.value.param == "tool_choice"
    assert "'tool_choice': there is no tool of this name." in caught.value.message
    with pytest.raises(openai.BadRequestError, match="two functions have the same name"):
        await tool_server.ask(tools=[CLOCK, CLOCK])


async def test_a_schema_that_cannot_be_kept_is_refused_with_the_reason(tool_server: ToolServer) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        await tool_server.ask(
            tools=[CLOCK, {"type": "function", "function": function}], tool_choice="required"
        )
    assert caught.value.param == "tools[1].function.parameters"
    assert "'not' forbids every value" in caught.value.message
    function["parameters"] = {"type": "string"}
    with pytest.raises(openai.BadRequestError, match="has the type 'object'"):
        await tool_server.ask(tools=[{"type": "function", "function": function}])


async def test_an_engine_without_grammars_cannot_be_made_to_call(tool_server: ToolServer) -> None:
    tool_server.engine.abilities = frozenset()
    with pytest.raises(openai.BadRequestError) as caught:
        await tool_server.ask(tool_choice="required")
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported")


@pytest.mark.parametrize("model", ["hermes", "llama"])
async def test_a_required_call_is_forced(tool_server: ToolServer, model: str) -> None:
    text = CALL_TEXTS[model]
    tool_server.play(text, model=model)
    completion = await tool_server.ask(model=model, tool_choice="required")
    assert completion.choices[0].finish_reason == "tool_calls"
    grammar = tool_server.engine.requests[0].grammar
    assert accepts(grammar, text)
    assert accepts(grammar, text.replace("get_weather", "get_time").replace('"city": "Zürich"', ""))
    assert not accepts(grammar, text.replace('"Zürich"', "5"))
    assert not accepts(grammar, "Hello")
    assert not accepts(grammar, "")
    assert accepts(grammar, f"{text}\n{text}") == (model == "hermes")


async def test_a_required_call_may_be_the_only_one(tool_server: ToolServer) -> None:
    tool_server.play(CALL_TEXTS["hermes"])
    await tool_server.ask(tool_choice="required", parallel_tool_calls=False)
    grammar = tool_server.engine.requests[0].grammar
    assert accepts(grammar, CALL_TEXTS["hermes"])
    assert not accepts(grammar, f"{CALL_TEXTS['hermes']}\n{CALL_TEXTS['hermes']}")


async def test_a_named_call_is_forced_once(tool_server: ToolServer) -> None:
    tool_server.play(CALL_TEXTS["hermes"])
    await tool_server.ask(tool_choice={"type": "function", "function": {"name": "get_weather"}})
    grammar = tool_server.engine.requests[0].grammar
    assert accepts(grammar, CALL_TEXTS["hermes"])
    assert not accepts(grammar, CALL_TEXTS["hermes"].replace("get_weather", "get_time"))
    assert not accepts(grammar, f"{CALL_TEXTS['hermes']}\n{CALL_TEXTS['hermes']}")


async def test_a_mark_that_is_a_special_token_is_forced_and_read_as_one(tool_server: ToolServer) -> None:
    tool_server.play(CALL_TEXTS["mistral"], model="mistral")
    completion = await tool_server.ask(model="mistral", tool_choice="required")
    assert completion.choices[0].finish_reason == "tool_calls"
    mark = tool_server.codecs["mistral"].encode("[TOOL_CALLS]")[0]
    grammar = tool_server.engine.requests[0].grammar
    assert grammar is not None
    assert f'start: <[{mark}]> "["' in grammar
    assert accepts(
        grammar.replace(f"<[{mark}]>", '"!"'), "!" + CALL_TEXTS["mistral"].removeprefix("[TOOL_CALLS] ")
    )


async def test_an_answer_is_a_call_or_what_the_format_says(tool_server: ToolServer) -> None:
    tool_server.play('{"sun": true}')
    answer = {"type": "object", "properties": {"sun": {"type": "boolean"}}, "required": ["sun"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": answer}}
    completion = await tool_server.ask(response_format=wanted)
    assert completion.choices[0].message.content == '{"sun": true}'
    grammar = tool_server.engine.requests[0].grammar
    assert accepts(grammar, CALL_TEXTS["hermes"])
    assert accepts(grammar, '{"sun": false}')
    assert not accepts(grammar, "Sunny.")


def allowed(mode: str, *names: str) -> Any:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_some_of_the_functions_may_be_allowed(tool_server: ToolServer, mode: str) -> None:
    call, other = CALL_TEXTS["hermes"], '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    tool_server.play(call)
    completion = await tool_server.ask(tool_choice=allowed(mode, "get_weather"))
    assert completion.choices[0].message.tool_calls[0].function.name == "get_weather"
    # The model is shown all of them, and cannot call the others.
    assert "get_time" in tool_server.prompt()
    grammar = tool_server.engine.requests[-1].grammar
    assert accepts(grammar, call)
    assert not accepts(grammar, other)
    assert accepts(grammar, "Hello") == (mode == "auto")
    tool_server.play("Hi")
    await tool_server.ask(tool_choice=allowed(mode, "get_time", "get_weather"))
    assert accepts(tool_server.engine.requests[-1].grammar, other)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (allowed("auto", "other"), "'tool_choice': there is no tool of this name."),
        (allowed("auto"), "'tool_choice': it is 'none', 'auto', 'required', or {"),
        (allowed("none", "get_time"), "'tool_choice': it is 'none', 'auto', 'required', or {"),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, "'tool_choice': it is 'none', "),
        ({"type": ["function"]}, "'tool_choice': it is 'none', "),
    ],
)
async def test_a_choice_that_is_none_is_an_error(tool_server: ToolServer, choice: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await tool_server.ask(tool_choice=choice)
    assert message in caught.value.message
    assert tool_server.engine.requests == []


async def test_a_response_repeats_which_functions_are_allowed(tool_server: ToolServer) -> None:
    tool_server.play("Hi")
    choice: Any = {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "get_time"}],
    }
    tools: Any = [{"type": "function", "name": name} for name in ("get_time", "get_weather")]
    response = await tool_server.openai.responses.create(
        model="hermes", input="Hi", tools=tools, tool_choice=choice
    )
    assert response.to_dict()["tool_choice"] == choice
    assert not accepts(tool_server.engine.requests[-1].grammar, CALL_TEXTS["hermes"])

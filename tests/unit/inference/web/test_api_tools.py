from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2 as httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from pydantic import BaseModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inference.engines.protocol import Increment, ServedModel, TokenLogprobs
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.text.codec import Message, TokenizerCodec
from inference.text.tools import HERMES, LLAMA, MISTRAL, CallFormat, CallParser, Tool, ToolUse
from inference.web.application import ChatPage, Identity, make_application
from tests.doubles.scripted_engine import ScriptedEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONTEXT = 4000
HERMES_TEMPLATE = """
{%- if tools %}<|im_start|>system
Functions:{% for tool in tools %} {{ tool | tojson }}{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LLAMA_TEMPLATE = """
{%- for message in messages %}<|im_start|>{{ message.role }}:
{%- if loop.first and tools %}{% for tool in tools %} {{ tool | tojson }}{% endfor %}{% endif %}
{%- if message.tool_calls %}
{%- set call = message.tool_calls[0].function %}
{%- set arguments = call.arguments | tojson %} {"name": "{{ call.name }}", "parameters": {{ arguments }}}
{%- else %} {{ message.content }}{% endif %}<|im_end|>{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant:{% endif %}"""
MISTRAL_TEMPLATE = """
{%- if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}{% endif %}
{%- for message in messages %}
{%- if message.role == "user" %}[INST] {{ message.content }}[/INST]
{%- elif message.role == "tool" %}[TOOL_RESULTS] {{ message.content }} of {{ message.name }}
{%- elif message.tool_calls %}[TOOL_CALLS] [
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("Tool call ids have nine characters") }}{% endif %}
{%- set arguments = call.function.arguments | tojson %}
{"name": "{{ call.function.name }}", "arguments": {{ arguments }}, "id": "{{ call.id }}"}
{%- if not loop.last %}, {% endif %}{% endfor %}]<|im_end|>
{%- else %} {{ message.content }}<|im_end|>{% endif %}
{%- endfor %}"""
XML_TEMPLATE = """
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for message in messages %}{{ message.role }}: {{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call><function={{ call.function.name }}>{% endfor %}
{% endfor %}"""
PLAIN_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"

TEMPLATES = {
    "hermes": HERMES_TEMPLATE, "llama": LLAMA_TEMPLATE, "mistral": MISTRAL_TEMPLATE, "xml": XML_TEMPLATE,
    "plain": PLAIN_TEMPLATE,
}  # fmt: skip
SPECIAL = ["<|im_start|>", "<|im_end|>", "[TOOL_CALLS]"]

WEATHER_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Look outside.", "parameters": WEATHER_SCHEMA},
}
CLOCK: Any = {"type": "function", "function": {"name": "get_time"}}
TOOLS = [WEATHER, CLOCK]
JSON = {"Content-Type": "application/json"}
HELLO: Any = [{"role": "user", "content": "Hello"}]

ZURICH = '{"city": "Zürich"}'
CALL_TEXTS = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>',
    "llama": '{"name": "get_weather", "parameters": {"city": "Zürich"}}',
    "mistral": '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Zürich"}}]',
}
FORMS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL}


def make_codec(template: str | None, prompt_template: str | None = None) -> TokenizerCodec:
    """A tokenizer of bytes, with a template and some special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=SPECIAL, chat_template=template
    )
    return TokenizerCodec(fast, prompt_template)


class World:
    """A server whose models have templates with tools, each of its own format."""

    def __init__(self) -> None:
        self.codecs = {name: make_codec(template) for name, template in TEMPLATES.items()}
        end = self.codecs["plain"].encode("<|im_end|>")[0]
        self.end = (end,)
        self.engine = ScriptedEngine(dict.fromkeys(TEMPLATES, CONTEXT), frozenset({end}))
        self.service = Service(Limits(max_concurrent=2, max_waiting=1))
        models = [ServedModel(name, None, codec, frozenset({end}), 0) for name, codec in self.codecs.items()]
        self.service.begin_serving(self.engine, models)
        settings = Settings(auth=False, chat_sign_in=False)
        app = make_application(self.service, settings, Identity("", "", "", ""), ChatPage(self.service))
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")
        self.openai = openai.AsyncOpenAI(
            api_key="none", base_url="http://server/v1", http_client=self.http, max_retries=0
        )

    def play(self, text: str, *, size: int = 1, model: str = "hermes") -> None:
        """Let the model generate a text, some tokens at a time."""
        tokens = self.codecs[model].encode(text)
        self.engine.play(*[tokens[start : start + size] for start in range(0, len(tokens), size)], self.end)

    async def ask(self, **fields: Any) -> Any:
        fields = {"model": "hermes", "messages": HELLO, "tools": TOOLS} | fields
        return await self.openai.chat.completions.create(**fields)

    async def close(self) -> None:
        await self.engine.close()
        await self.http.aclose()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.close()


@pytest.mark.parametrize("model", CALL_TEXTS)
async def test_a_call_is_read_in_each_form(world: World, model: str) -> None:
    world.play(CALL_TEXTS[model], model=model)
    completion = await world.ask(model=model)
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "get_weather", ZURICH)
    assert len(call.id) == FORMS[model].id_length
    assert world.engine.requests[0].grammar is None
    prompt = world.codecs[model].decode(world.engine.requests[0].prompt_token_ids)
    assert '"name": "get_weather", "description": "Look outside.", "parameters": {"type": "object"' in prompt


@pytest.mark.parametrize("model", CALL_TEXTS)
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_call_is_streamed_in_each_form(world: World, model: str, size: int) -> None:
    world.play(CALL_TEXTS[model], model=model, size=size)
    chunks = [chunk async for chunk in await world.ask(model=model, stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == ""
    (call,) = [call for delta in deltas for call in delta.tool_calls or []]
    assert (call.index, call.type, call.function.name) == (0, "function", "get_weather")
    assert call.function.arguments == ZURICH
    assert call.id
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == [
        "tool_calls"
    ]


async def test_text_before_a_call_streams_as_it_comes(world: World) -> None:
    encode = world.codecs["hermes"].encode
    world.engine.play(
        encode("Let me look <b"),
        encode(">. <tool_"),
        encode(CALL_TEXTS["hermes"].removeprefix("<tool_")),
        world.end,
    )
    stream = await world.ask(stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert pieces[:3] == ["", "Let me look <b", ">. "]
    assert "".join(pieces) == "Let me look <b>. "


async def test_several_calls_are_numbered(world: World) -> None:
    text = (
        f'Both.\n{CALL_TEXTS["hermes"]}\n<tool_call>{{"name": "get_time", "arguments": {{}}}}</tool_call>\n'
    )
    world.play(text, size=5)
    chunks = [chunk async for chunk in await world.ask(stream=True)]
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(call.index, call.function.name) for call in calls] == [(0, "get_weather"), (1, "get_time")]
    assert len({call.id for call in calls}) == 2
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Both.\n"


async def test_with_one_call_allowed_the_first_ends_the_answer(world: World) -> None:
    tokens = world.codecs["hermes"].encode(CALL_TEXTS["hermes"])
    world.engine.play(tokens, tokens, asyncio.Event())
    completion = await world.ask(parallel_tool_calls=False)
    assert completion.choices[0].finish_reason == "tool_calls"
    assert len(completion.choices[0].message.tool_calls) == 1
    assert world.engine.cancelled


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city"\n</tool_call>',
        '<tool_call>\n{"name": "unknown", "arguments": {}}\n</tool_call> and more',
        '<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>',
        "<tool_call>none at all</tool_call>",
        '<tool_call>\n{"name": get_weather}\n</tool_call>',
        "<tool_call",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_malformed_call_stays_text(world: World, text: str, *, stream: bool) -> None:
    world.play("Well: " + text, size=3)
    answer = await world.ask(stream=stream)
    if stream:
        chunks = [chunk async for chunk in answer]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Well: " + text
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert not any(chunk.choices[0].delta.tool_calls for chunk in chunks)
    else:
        assert answer.choices[0].message.content == "Well: " + text
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_the_length_cut_off_keeps_the_arguments_so_far(
    world: World, choice: str, *, stream: bool
) -> None:
    world.play(CALL_TEXTS["hermes"], size=4)
    length = CALL_TEXTS["hermes"].index("Z") + 1
    answer = await world.ask(max_tokens=length, tool_choice=choice, stream=stream)
    if stream:
        deltas = [chunk.choices[0] async for chunk in answer]
        assert "".join(each.delta.content or "" for each in deltas) == ""
        (call,) = [call for each in deltas for call in each.delta.tool_calls or []]
        reasons = [each.finish_reason for each in deltas if each.finish_reason]
    else:
        (call,) = answer.choices[0].message.tool_calls
        assert answer.choices[0].message.content is None
        reasons = [answer.choices[0].finish_reason]
    assert reasons == ["length"]
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Z')


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


async def test_a_forced_call_that_a_stop_string_cut_off_shows_no_tag(world: World) -> None:
    world.play(CALL_TEXTS["hermes"])
    completion = await world.ask(stop="Zür", tool_choice="required")
    choice = completion.choices[0]
    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("stop", "", None)


async def test_half_a_character_breaks_nothing(world: World) -> None:
    world.play('<tool_call>{"name": "get_weather", "arguments": {"city": "\\ud800"}}</tool_call>')
    completion = await world.ask()
    assert completion.choices[0].message.tool_calls[0].function.arguments == '{"city": "\\ud800"}'
    function = {"name": "f", "description": "\ud800"}
    body = {"model": "hermes", "messages": HELLO, "tools": [{"type": "function", "function": function}]}
    response = await world.http.post("/v1/chat/completions", content=json.dumps(body), headers=JSON)
    assert response.status_code == 400
    assert "A name, a call or a tool contains a lone surrogate" in response.json()["error"]["message"]


async def test_without_a_closing_mark_a_whole_call_is_a_call(world: World) -> None:
    world.play(CALL_TEXTS["hermes"].removesuffix("</tool_call>"))
    completion = await world.ask()
    assert completion.choices[0].message.tool_calls[0].function.arguments == ZURICH
    assert completion.choices[0].message.content is None


async def test_an_answer_in_bare_json_that_is_no_call_stays_text(world: World) -> None:
    text = '{"name": "Zürich", "parameters": {"people": 400000}} and more'
    world.play(text, model="llama", size=4)
    completion = await world.ask(model="llama")
    assert completion.choices[0].message.content == text


async def test_calls_and_results_of_the_history_reach_the_template(world: World) -> None:
    world.play(CALL_TEXTS["mistral"], model="mistral")
    first = await world.ask(model="mistral")
    message = first.choices[0].message
    world.play("Sunny.", model="mistral")
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sun"}
    second = await world.ask(model="mistral", messages=[*HELLO, message, result])
    assert second.choices[0].message.content == "Sunny."
    prompt = world.codecs["mistral"].decode(world.engine.requests[1].prompt_token_ids)
    call = f'{{"name": "get_weather", "arguments": {{"city": "Zürich"}}, "id": "{message.tool_calls[0].id}"}}'
    assert prompt.endswith(f" [{call}][TOOL_RESULTS] sun of get_weather")


async def test_an_id_that_the_template_refuses_is_the_clients_mistake(world: World) -> None:
    call = {"id": "long-identifier", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    with pytest.raises(openai.BadRequestError) as caught:
        await world.ask(model="mistral", messages=messages)
    assert "Tool call ids have nine characters" in caught.value.message
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"city": "Zürich"}', '{"city": "Zürich"}'),
        ({"city": "Zürich"}, '{"city": "Zürich"}'),
        ("", "{}"),
        (" ", "{}"),
        (None, "{}"),
        # A model wrote these, and the client sends them back with the tool's complaint about them.
        ("not json", '"not json"'),
        ("[1]", '"[1]"'),
        ('{"city": "Zü', '"{\\"city\\": \\"Zü"'),
        ("[" * 10_000, None),
    ],
)
async def test_the_arguments_of_an_earlier_call_may_be_anything(
    world: World, arguments: Any, shown: str | None
) -> None:
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "c", "index": 0, "type": "function", "function": function}
    world.play("Sunny.")
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    response = await world.http.post("/v1/chat/completions", json={"model": "hermes", "messages": messages})
    if shown is None:
        assert response.json()["error"]["code"] == "context_length_exceeded"
        return
    assert response.status_code == 200, response.text
    prompt = world.codecs["hermes"].decode(world.engine.requests[0].prompt_token_ids)
    assert f'{{"name": "get_weather", "arguments": {shown}}}' in prompt


async def test_a_streamed_message_may_go_back_as_it_came(world: World) -> None:
    world.play(CALL_TEXTS["hermes"])
    async with world.openai.chat.completions.stream(model="hermes", messages=HELLO, tools=TOOLS) as stream:
        async for _ in stream:
            pass
        message = (await stream.get_final_completion()).choices[0].message
    call = message.model_dump()["tool_calls"][0]
    assert call["index"] == 0
    world.play("Sunny.")
    result = {"role": "tool", "tool_call_id": call["id"], "content": None}
    # A dump has every field, those that are null included.
    body = {"model": "hermes", "messages": [*HELLO, message.model_dump(), result]}
    response = await world.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    prompt = world.codecs["hermes"].decode(world.engine.requests[1].prompt_token_ids)
    assert f'"arguments": {ZURICH}' in prompt


async def test_the_older_words_for_calls_are_understood(world: World) -> None:
    world.play("Sunny.", model="mistral")
    call = {"name": "get_weather", "arguments": ZURICH}
    messages = [
        {"role": "assistant", "content": "", "function_call": call},
        {"role": "function", "name": "get_weather", "content": "sun"},
    ]
    template = world.codecs["mistral"]
    with pytest.raises(openai.BadRequestError, match="Tool call ids have nine characters"):
        await world.ask(model="mistral", messages=[*HELLO, *messages])
    await world.ask(model="mistral", messages=[*HELLO, messages[1]])
    prompt = template.decode(world.engine.requests[0].prompt_token_ids)
    assert prompt.endswith("[TOOL_RESULTS] sun of get_weather")
    world.play("Sunny.")
    await world.ask(messages=[*HELLO, *messages])
    prompt = world.codecs["hermes"].decode(world.engine.requests[1].prompt_token_ids)
    assert f'{{"name": "get_weather", "arguments": {ZURICH}}}' in prompt


async def test_the_template_gets_the_name_of_who_wrote_a_message() -> None:
    codec = make_codec("{% for message in messages %}{{ message.name }}: {{ message.content }}{% endfor %}")
    rendered = codec.decode(codec.encode_chat([Message("user", "Hello", name="ann")]))
    assert rendered == "ann: Hello"


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
async def test_a_model_without_tools_refuses_them(world: World, model: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await world.ask(model=model)
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported")
    assert message in caught.value.message


async def test_a_model_with_a_prompt_template_has_no_tools() -> None:
    assert not make_codec(HERMES_TEMPLATE, "### {}").has_tools
    assert not make_codec(None).has_tools
    assert make_codec(HERMES_TEMPLATE).call_format == HERMES


async def test_a_choice_of_none_leaves_the_tools_out(world: World) -> None:
    world.play(CALL_TEXTS["hermes"])
    completion = await world.ask(tool_choice="none")
    assert completion.choices[0].message.content == CALL_TEXTS["hermes"]
    assert "get_weather" not in world.codecs["hermes"].decode(world.engine.requests[0].prompt_token_ids)


async def test_a_named_function_has_to_be_there(world: World) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await world.ask(tool_choice={"type": "function", "function": {"name": "other"}})
    assert caught.value.param == "tool_choice"
    assert "'tool_choice': there is no tool of this name." in caught.value.message
    with pytest.raises(openai.BadRequestError, match="two functions have the same name"):
        await world.ask(tools=[CLOCK, CLOCK])


async def test_a_schema_that_cannot_be_kept_is_refused_with_the_reason(world: World) -> None:
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        await world.ask(tools=[CLOCK, {"type": "function", "function": function}], tool_choice="required")
    assert caught.value.param == "tools[1].function.parameters"
    assert "'not' forbids every value" in caught.value.message
    function["parameters"] = {"type": "string"}
    with pytest.raises(openai.BadRequestError, match="has the type 'object'"):
        await world.ask(tools=[{"type": "function", "function": function}])


async def test_an_engine_without_grammars_cannot_be_made_to_call(world: World) -> None:
    world.engine.abilities = frozenset()
    with pytest.raises(openai.BadRequestError) as caught:
        await world.ask(tool_choice="required")
    assert (caught.value.param, caught.value.code) == ("tools", "unsupported")


async def test_calls_and_logprobs_go_together(world: World) -> None:
    tokens = world.codecs["hermes"].encode("Hm. " + CALL_TEXTS["hermes"])
    logprobs = tuple(TokenLogprobs(-0.5, ((token, -0.5),)) for token in tokens)
    world.engine.play(Increment(tokens, "stop", logprobs))
    completion = await world.ask(logprobs=True, top_logprobs=1)
    assert [token.token for token in completion.choices[0].logprobs.content] == list("Hm. ")
    assert completion.choices[0].message.tool_calls[0].function.arguments == ZURICH


async def test_the_clients_own_helper_reads_the_arguments(world: World) -> None:
    class get_weather(BaseModel):  # noqa: N801 - it is the function's name
        city: str

    world.play(CALL_TEXTS["hermes"])
    completion = await world.openai.chat.completions.parse(
        model="hermes", messages=HELLO, tools=[openai.pydantic_function_tool(get_weather)]
    )
    (call,) = completion.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == get_weather(city="Zürich")
    world.play("Sunny.")
    history: Any = [
        *HELLO,
        completion.choices[0].message,
        {"role": "tool", "tool_call_id": call.id, "content": "sun"},
    ]
    await world.openai.chat.completions.create(model="hermes", messages=history)
    # A strict function's arguments are kept to its schema, wherever the model calls it.
    assert accepts(world.engine.requests[0].grammar, CALL_TEXTS["hermes"])
    assert not accepts(world.engine.requests[0].grammar, CALL_TEXTS["hermes"].replace("city", "town"))
    assert accepts(world.engine.requests[0].grammar, "no call at all")


def accepts(grammar: str | None, text: str) -> bool:
    """Whether a text, as bytes for tokens, is the whole of what a grammar allows."""
    assert grammar is not None
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    data = list(text.encode())
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())


@pytest.mark.parametrize("model", ["hermes", "llama"])
async def test_a_required_call_is_forced(world: World, model: str) -> None:
    text = CALL_TEXTS[model]
    world.play(text, model=model)
    completion = await world.ask(model=model, tool_choice="required")
    assert completion.choices[0].finish_reason == "tool_calls"
    grammar = world.engine.requests[0].grammar
    assert accepts(grammar, text)
    assert accepts(grammar, text.replace("get_weather", "get_time").replace('"city": "Zürich"', ""))
    assert not accepts(grammar, text.replace('"Zürich"', "5"))
    assert not accepts(grammar, "Hello")
    assert not accepts(grammar, "")
    assert accepts(grammar, f"{text}\n{text}") == (model == "hermes")


async def test_a_required_call_may_be_the_only_one(world: World) -> None:
    world.play(CALL_TEXTS["hermes"])
    await world.ask(tool_choice="required", parallel_tool_calls=False)
    grammar = world.engine.requests[0].grammar
    assert accepts(grammar, CALL_TEXTS["hermes"])
    assert not accepts(grammar, f"{CALL_TEXTS['hermes']}\n{CALL_TEXTS['hermes']}")


async def test_a_named_call_is_forced_once(world: World) -> None:
    world.play(CALL_TEXTS["hermes"])
    await world.ask(tool_choice={"type": "function", "function": {"name": "get_weather"}})
    grammar = world.engine.requests[0].grammar
    assert accepts(grammar, CALL_TEXTS["hermes"])
    assert not accepts(grammar, CALL_TEXTS["hermes"].replace("get_weather", "get_time"))
    assert not accepts(grammar, f"{CALL_TEXTS['hermes']}\n{CALL_TEXTS['hermes']}")


async def test_a_mark_that_is_a_special_token_is_forced_and_read_as_one(world: World) -> None:
    world.play(CALL_TEXTS["mistral"], model="mistral")
    completion = await world.ask(model="mistral", tool_choice="required")
    assert completion.choices[0].finish_reason == "tool_calls"
    mark = world.codecs["mistral"].encode("[TOOL_CALLS]")[0]
    grammar = world.engine.requests[0].grammar
    assert grammar is not None
    assert f'start: <[{mark}]> "["' in grammar
    assert accepts(
        grammar.replace(f"<[{mark}]>", '"!"'), "!" + CALL_TEXTS["mistral"].removeprefix("[TOOL_CALLS] ")
    )


async def test_an_answer_is_a_call_or_what_the_format_says(world: World) -> None:
    world.play('{"sun": true}')
    answer = {"type": "object", "properties": {"sun": {"type": "boolean"}}, "required": ["sun"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": answer}}
    completion = await world.ask(response_format=wanted)
    assert completion.choices[0].message.content == '{"sun": true}'
    grammar = world.engine.requests[0].grammar
    assert accepts(grammar, CALL_TEXTS["hermes"])
    assert accepts(grammar, '{"sun": false}')
    assert not accepts(grammar, "Sunny.")


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

"""What the API has beyond OpenAI's, as vLLM and other servers offer it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer

from inference.engines.protocol import Increment, Stopping, TokenLogprobs
from tests.doubles.model_server import CONTEXT, ModelServer, make_codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HELLO: Any = [{"role": "user", "content": "Hello"}]
CHAT_TEMPLATE = """
{%- for message in messages %}[{{ message.role }}]
{%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{- message.content }}{% if not loop.last or add_generation_prompt %}<|end|>{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}[assistant]
{%- if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
ALWAYS_TEMPLATE = """
{%- for message in messages %}[{{ message.role }}]{{ message.content.split("</think>")[-1] }}{% endfor %}
{%- if add_generation_prompt %}[assistant]<think>
{% endif %}"""
EFFORT_TEMPLATE = (
    "Reasoning: {{ reasoning_effort }}. {% for message in messages %}{{ message.content }}{% endfor %}"
)
CALL_TEMPLATE = """
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for message in messages %}[{{ message.role }}]{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endfor %}"""
CODECS = {
    "thinker": make_codec(CHAT_TEMPLATE),
    "special": make_codec(CHAT_TEMPLATE, "<think>", "</think>"),
    "always": make_codec(ALWAYS_TEMPLATE),
    "effort": make_codec(EFFORT_TEMPLATE),
    "plain": make_codec("{% for message in messages %}{{ message.content }}{% endfor %}{{ mood }}"),
    "caller": make_codec(CALL_TEMPLATE),
    "bare": make_codec(None),
}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    server = ModelServer(CODECS)
    yield server
    await server.close()


async def chat(server: ModelServer, model: str = "plain", **fields: Any) -> Any:
    extra = {name: fields.pop(name) for name in list(fields) if name not in OPENAI_FIELDS}
    return await server.openai.chat.completions.create(
        **({"model": model, "messages": HELLO, "extra_body": extra} | fields)
    )


async def complete(server: ModelServer, model: str = "plain", **fields: Any) -> Any:
    known = OPENAI_FIELDS - {"response_format"}
    extra = {name: fields.pop(name) for name in list(fields) if name not in known}
    return await server.openai.completions.create(
        **({"model": model, "prompt": "Once", "extra_body": extra} | fields)
    )


OPENAI_FIELDS = {
    "messages", "stop", "stream", "max_tokens", "logprobs", "top_logprobs", "echo", "best_of", "n", "prompt",
    "tools", "tool_choice", "response_format", "reasoning_effort", "seed", "stream_options",
}  # fmt: skip


async def refused(call: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        await call
    return caught.value


# Where an answer ends.


async def test_what_ends_an_answer_reaches_the_engine(server: ModelServer) -> None:
    server.play("plain", "Hi")
    await chat(server, stop_token_ids=[7, 9], min_tokens=2, ignore_eos=False)
    server.play("plain", "Hi")
    await complete(server, stop_token_ids=[7], min_tokens=0)
    assert [request.stopping for request in server.engine.requests] == [
        Stopping(2, stop_token_ids=(7, 9)), Stopping(stop_token_ids=(7,)),
    ]  # fmt: skip


@pytest.mark.parametrize("keeps", [False, True])
async def test_a_stop_token_is_a_part_of_the_text_if_it_is_to_be(server: ModelServer, *, keeps: bool) -> None:
    (stop,) = CODECS["plain"].encode("d")
    server.play("plain", "abcdef")
    completion = await chat(server, stop_token_ids=[stop], include_stop_str_in_output=keeps)
    assert completion.choices[0].message.content == ("abcd" if keeps else "abc")
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.completion_tokens == 4


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("size", [1, 3, 100])
async def test_a_stop_string_is_a_part_of_the_text_if_it_is_to_be(
    server: ModelServer, size: int, *, keeps: bool
) -> None:
    server.play("plain", "one END two", size)
    stream = await chat(server, stop=["END", "never"], include_stop_str_in_output=keeps, stream=True)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == ("one END" if keeps else "one ")


async def test_ignored_end_tokens_are_not_a_part_of_the_text(server: ModelServer) -> None:
    server.engine.play(*[(token,) for token in CODECS["plain"].encode("a<|end|>b<|end|>c")])
    completion = await chat(server, ignore_eos=True, max_tokens=5)
    assert completion.choices[0].message.content == "abc"
    assert completion.choices[0].finish_reason == "length"


@pytest.mark.parametrize("size", [1, 4, 100])
async def test_a_stop_string_within_the_least_length_does_not_end_the_answer(
    server: ModelServer, size: int
) -> None:
    server.play("plain", "a.b.c.d.", size)
    completion = await chat(server, stop=".", min_tokens=3)
    assert completion.choices[0].message.content == "a.b"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"stop_token_ids": [10**6]}, "stop_token_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"min_tokens": 2, "regex": "a*"}, "min_tokens"),
        ({"ignore_eos": True, "response_format": {"type": "json_object"}}, "ignore_eos"),
    ],
)
async def test_an_impossible_end_is_refused_by_its_field(
    server: ModelServer, fields: dict[str, Any], param: str
) -> None:
    assert (await refused(chat(server, **fields))).param == param
    assert server.engine.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"min_tokens": 1}, "min_tokens"), ({"ignore_eos": True}, "ignore_eos"),
        ({"stop_token_ids": [1]}, "stop_token_ids"), ({"echo": True, "logprobs": 1}, "echo"),
        ({"best_of": 2}, "best_of"), ({"guided_json": {}}, "guided_json"), ({"regex": "a"}, "regex"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
    ],
)  # fmt: skip
async def test_what_an_engine_cannot_do_is_refused_by_its_field(
    server: ModelServer, fields: dict[str, Any], param: str
) -> None:
    server.engine.abilities = frozenset({"logprobs"} if param == "echo" else ())
    error = await refused(complete(server, **fields))
    assert (error.param, error.code) == (param, "unsupported")


# Echo, the best of several answers, and token ids.


def scored(model: str, text: str, *logprobs: float, end: bool = True) -> Increment:
    """Tokens with their log-probabilities; at each, x is a little less likely."""
    tokens = (*CODECS[model].encode(text), *([0] if end else []))
    values = logprobs or tuple(-0.5 - index for index in range(len(tokens)))
    (other,) = CODECS[model].encode("x")
    entries = tuple(
        TokenLogprobs(value, ((token, value), (other, value - 1)))
        for token, value in zip(tokens, values, strict=True)
    )
    return Increment(tokens, "stop" if end else "length", entries)


def with_prompt(increment: Increment, prompt: str) -> Increment:
    entries = scored("plain", prompt, end=False).logprobs[1:]
    return Increment(increment.token_ids, increment.finish_reason, increment.logprobs, entries)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_echo_is_the_prompt_and_the_answer(server: ModelServer, *, stream: bool) -> None:
    prompts = ["Once, é", "END of it"]
    server.play("plain", " upon")
    server.play("plain", " all")
    answer = await complete(server, prompt=prompts, echo=True, stop="END", stream=stream)
    texts = ["", ""]
    for chunk in [each async for each in answer] if stream else [answer]:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    # A stop string is looked for in the answer, not in the prompt.
    assert texts == ["Once, é upon", "END of it all"]


async def test_an_echo_alone_generates_nothing(server: ModelServer) -> None:
    server.engine.play(with_prompt(scored("plain", "!", end=False), "Once"))
    completion = await complete(server, echo=True, max_tokens=0, logprobs=1)
    choice = completion.choices[0]
    assert (choice.text, choice.finish_reason) == ("Once", "length")
    assert choice.logprobs.tokens == ["O", "n", "c", "e"]
    assert completion.usage.completion_tokens == 0
    assert (await refused(complete(server, max_tokens=0))).param == "max_tokens"


@pytest.mark.parametrize("ends", [True, False])
async def test_an_echo_lists_every_token_of_prompt_and_answer(server: ModelServer, *, ends: bool) -> None:
    # lm-evaluation-harness leaves out the last token, which the answer has even if it ends with it.
    answer = Increment((0,), "stop", (TokenLogprobs(-0.1, ((0, -0.1),)),))
    server.engine.play(with_prompt(answer if ends else scored("plain", "!", end=False), "Once"))
    prompt = list(CODECS["plain"].encode("Once"))
    completion = await complete(server, prompt=prompt, echo=True, max_tokens=1, logprobs=2, seed=1)
    logprobs = completion.choices[0].logprobs
    assert len(logprobs.tokens) == len(prompt) + 1
    assert logprobs.tokens[:4] == ["O", "n", "c", "e"]
    assert logprobs.token_logprobs[:4] == [None, -1.5, -2.5, -3.5]
    assert logprobs.top_logprobs[0] is None
    assert logprobs.top_logprobs[2] == {"c": -2.5, "x": -3.5}
    assert logprobs.text_offset[:4] == [0, 1, 2, 3]
    assert server.engine.requests[0].prompt_logprobs == 2


async def test_the_best_of_several_answers_are_the_likeliest_a_token(server: ModelServer) -> None:
    answers = {"so so": -2.0, "best": -0.1, "bad": -9.0, "good": -1.0}
    for text, logprob in answers.items():
        server.engine.play(scored("plain", text, *[logprob] * (len(text) + 1)))
    completion = await complete(server, n=2, best_of=4)
    assert [(choice.index, choice.text) for choice in completion.choices] == [(0, "best"), (1, "good")]
    assert all(choice.logprobs is None for choice in completion.choices)
    assert completion.usage.completion_tokens == sum(len(text) + 1 for text in answers)
    wrong: list[dict[str, Any]] = [{"n": 3, "best_of": 2}, {"best_of": 2, "stream": True}, {"best_of": 17}]
    for fields in wrong:
        assert (await refused(complete(server, **fields))).param == "best_of"
    assert (await refused(complete(server, best_of=5))).param == "best_of"


@pytest.mark.parametrize("stream", [False, True])
async def test_token_ids_are_those_of_prompt_and_answer(server: ModelServer, *, stream: bool) -> None:
    codec = CODECS["plain"]
    for ask in (chat, complete):
        server.play("plain", "é!")
        answer = await ask(server, return_token_ids=True, stream=stream)
        chunks = [chunk async for chunk in answer] if stream else [answer]
        choices = [choice for chunk in chunks for choice in chunk.choices]
        ids = [token for choice in choices for token in choice.model_dump().get("token_ids") or []]
        whole = [*chunks, *choices]
        (prompt,) = [each.prompt_token_ids for each in whole if getattr(each, "prompt_token_ids", None)]
        assert ids == [*codec.encode("é!"), 0]
        assert prompt == list(server.engine.requests[-1].prompt_token_ids)


async def test_models_tell_their_context(server: ModelServer) -> None:
    models = await server.openai.models.list()
    assert {model.model_dump()["max_model_len"] for model in models.data} == {CONTEXT}
    assert (await server.openai.models.retrieve("plain")).model_dump()["max_model_len"] == CONTEXT


# The chat template.


async def test_variables_reach_the_template(server: ModelServer) -> None:
    server.play("plain", "Hi")
    await chat(server, chat_template_kwargs={"mood": " happily", "unknown": [1]})
    assert server.prompt() == "Hello happily"
    server.play("thinker", "Hi")
    await chat(server, "thinker", chat_template_kwargs={"enable_thinking": False})
    assert server.prompt().endswith("[assistant]<think>\n\n</think>\n\n")


async def test_the_last_message_is_continued(server: ModelServer) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Well, I"}]
    server.play("thinker", " am")
    completion = await chat(
        server, "thinker", messages=messages, continue_final_message=True, add_generation_prompt=False
    )
    assert server.prompt() == "[user]Hello<|end|>[assistant]Well, I"
    assert completion.choices[0].message.content == " am"
    server.play("thinker", "Hm")
    await chat(server, "thinker", add_generation_prompt=False)
    assert server.prompt() == "[user]Hello"


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        (
            "thinker",
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
        ("thinker", {"continue_final_message": True}, "continue_final_message"),
        ("thinker", {"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        ("thinker", {"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ("bare", {"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ("bare", {"add_generation_prompt": False}, "add_generation_prompt"),
        ("bare", {"reasoning_effort": "low"}, "reasoning_effort"),
        ("plain", {"reasoning_effort": "high"}, "reasoning_effort"),
        ("always", {"reasoning_effort": "none"}, "reasoning_effort"),
        ("plain", {"reasoning_effort": "enormous"}, "reasoning_effort"),
    ],
)
async def test_what_a_template_cannot_do_is_refused_by_its_field(
    server: ModelServer, model: str, fields: dict[str, Any], param: str
) -> None:
    assert (await refused(chat(server, model, **fields))).param == param


# Reasoning.


@pytest.mark.parametrize(
    ("model", "effort", "prompt"),
    [
        ("thinker", "none", "[assistant]<think>\n\n</think>\n\n"), ("thinker", "low", "<|end|>[assistant]"),
        ("thinker", None, "<|end|>[assistant]"), ("effort", "high", "Reasoning: high. Hello"),
        ("plain", "none", "Hello"), ("bare", "none", "Hello"),
    ],
)  # fmt: skip
async def test_effort_is_what_the_template_has_for_it(
    server: ModelServer, model: str, effort: str | None, prompt: str
) -> None:
    server.play(model, "Hi")
    await chat(server, model, reasoning_effort=effort)
    assert server.prompt().endswith(prompt)


ANSWERS: list[tuple[str, str, str | None, str]] = [
    ("thinker", "<think>\nHm, \nwell.\n</think>\n\nYes. ", "Hm, \nwell.", "Yes. "),
    ("special", "<think>Hm</think>Yes", "Hm", "Yes"),
    ("always", "Hm\n</think>\nYes", "Hm", "Yes"),
    ("thinker", "Yes <think> no", None, "Yes <think> no"),
    ("thinker", " \n<th", None, " \n<th"),
    ("thinker", "<think>\n\n</think>\n\nYes", None, "Yes"),
    ("thinker", "<think>Hm </thin", "Hm </thin", ""),
    ("always", "Hm", "Hm", ""),
    ("plain", "<think>Hm</think>Yes", None, "<think>Hm</think>Yes"),
]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_reasoning_is_apart_from_the_answer(
    server: ModelServer, answer: tuple[str, str, str | None, str], size: int
) -> None:
    model, text, reasoning, content = answer
    for _ in range(3):
        server.play(model, text, size)
    message = (await chat(server, model)).choices[0].message
    assert (getattr(message, "reasoning_content", None), message.content) == (reasoning, content)
    stream = await chat(server, model, stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    assert "".join(thoughts) == (reasoning or "")
    assert "".join(delta.content or "" for delta in deltas) == content
    hidden = (await chat(server, model, include_reasoning=False)).choices[0].message
    assert (getattr(hidden, "reasoning_content", None), hidden.content) == (None, content)


async def test_usage_tells_how_much_was_reasoning(server: ModelServer) -> None:
    server.play("thinker", "<think>Hm</think>Yes")
    usage = (await chat(server, "thinker")).usage
    assert usage.completion_tokens == len("<think>Hm</think>Yes") + 1
    assert usage.completion_tokens_details.reasoning_tokens == len("Hm</think>")


async def test_logprobs_list_the_tokens_of_the_reasoning_too(server: ModelServer) -> None:
    text = "<think>Hm</think>Yes"
    for _ in range(2):
        server.engine.play(scored("thinker", text))
    completion = await chat(server, "thinker", logprobs=True)
    assert "".join(each.token for each in completion.choices[0].logprobs.content) == text
    stream = await chat(server, "thinker", logprobs=True, stream=True)
    found = [chunk.choices[0].logprobs async for chunk in stream]
    assert "".join(each.token for logprobs in found if logprobs for each in logprobs.content) == text


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_earlier_reasoning_reaches_the_template(server: ModelServer, name: str) -> None:
    server.play("thinker", "Hi")
    messages = [*HELLO, {"role": "assistant", "content": "Yes", name: "Hm"}, *HELLO]
    await chat(server, "thinker", messages=messages)
    assert "[assistant]<think>Hm</think>Yes<|end|>" in server.prompt()


# The form of the answer.


def schema_of(grammar: str | None) -> Any:
    assert grammar is not None
    return json.loads(grammar.removeprefix("start: %json "))


SCHEMA = {"type": "object", "properties": {"a": {"const": 1}}}


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"json": SCHEMA}}, {"structured_outputs": {"json": json.dumps(SCHEMA)}},
        {"guided_json": SCHEMA}, {"guided_json": json.dumps(SCHEMA), "guided_decoding_backend": "xgrammar"},
        {"json_schema": SCHEMA}, {"json_schema": json.dumps(SCHEMA)},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
    ],
)  # fmt: skip
async def test_a_schema_goes_by_many_names(server: ModelServer, fields: dict[str, Any]) -> None:
    for ask in (chat, complete):
        server.play("plain", "{}")
        await ask(server, **fields)
        assert schema_of(server.engine.requests[-1].grammar)["properties"] == SCHEMA["properties"]


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"structured_outputs": {"choice": ["a", 'b"']}}, 'start: "a" | "b\\""'),
        ({"guided_choice": ["é"]}, 'start: "é"'),
        ({"response_format": {"type": "choice", "choice": ["a", "b"]}}, 'start: "a" | "b"'),
        ({"structured_outputs": {"regex": "a/b|c\\/d"}}, "start: /a\\/b|c\\/d/"),
        ({"guided_regex": "^\\d+$"}, "start: /\\d+/"),
        ({"regex": "a\\$"}, "start: /a\\$/"),
        ({"regex": "a\nb"}, "start: /a\\nb/"),
        ({"regex": "^$"}, 'start: ""'),
        ({"response_format": {"type": "regex", "regex": "a+"}}, "start: /a+/"),
        ({"guided_grammar": 'start: "a" b\nb: "b"'}, 'start: "a" b\nb: "b"'),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, 'start: "a"'),
        ({"response_format": {"type": "grammar", "grammar": 'start: "a"'}}, 'start: "a"'),
    ],
)
async def test_a_form_becomes_a_grammar(server: ModelServer, fields: dict[str, Any], grammar: str) -> None:
    for ask in (chat, complete):
        server.play("plain", "a")
        await ask(server, **fields)
        assert server.engine.requests[-1].grammar == grammar


@pytest.mark.parametrize("field", ["grammar", "ebnf", "guided_grammar"])
async def test_a_grammar_may_be_llama_cpps(server: ModelServer, field: str) -> None:
    server.play("plain", "a")
    await chat(server, **{field: 'root ::= "a" | word+\nword ::= [a-z]+'})
    grammar = server.engine.requests[-1].grammar
    assert grammar is not None
    assert 'start: "a"\n     | WORD+\n\nWORD: /[a-z]/+' in grammar


@pytest.mark.parametrize(
    ("fields", "param", "text"),
    [
        ({"structured_outputs": {}}, "structured_outputs", "it has one of"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "it has one of"),
        ({"structured_outputs": {"regex": "a", "whitespace": " "}}, "structured_outputs.whitespace", "Unk"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"regex": "a", "guided_json": {}}, "regex", "it cannot be combined with 'guided_json'"),
        ({"guided_json": "{"}, "guided_json", "the text is not a schema in JSON"),
        ({"guided_json": "5"}, "guided_json", "object"),
        ({"regex": "(?=a)"}, "regex", "cannot be enforced: "),
        ({"regex": "["}, "regex", "cannot be enforced: "),
        ({"grammar": "nonsense"}, "grammar", "cannot be enforced: it is neither Lark nor GBNF"),
        ({"grammar": "start: nothing"}, "grammar", "cannot be enforced: "),
        ({"grammar": "x" * 60_000}, "grammar", "60000 characters"),
        ({"structured_outputs": {"json": {"not": {}}}}, "structured_outputs.json", "'not' forbids every"),
        ({"response_format": {"type": "regex"}}, "response_format.regex", "missing"),
        ({"response_format": {"type": "choice", "choice": [1]}}, "response_format.choice[0]", "string"),
    ],
)  # fmt: skip
async def test_a_form_that_cannot_be_enforced_is_refused_by_its_field(
    server: ModelServer, fields: dict[str, Any], param: str, text: str
) -> None:
    error = await refused(chat(server, **fields))
    assert error.param == param
    assert text in error.message


async def test_a_grammar_of_its_own_does_not_go_with_tools(server: ModelServer) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f"}}]
    error = await refused(chat(server, "caller", grammar='start: "a"', tools=tools))
    assert error.param == "grammar"
    assert "a grammar cannot be combined with tools; leave one of them out" in error.message


@pytest.mark.parametrize(
    ("model", "texts", "wrong"),
    [
        (
            "thinker",
            ["<think>Hm, {1}</think>\n\n5", "5", "<think>\n</think>5"],
            ["Hm", "<think>5", "</think>5"],
        ),
        ("special", ["<think>Hm</think>\n\n5", "5"], ["Hm", "<think>5"]),
        ("always", ["Hm 6\n</think>\n\n5", "</think>5"], ["<think>x</think>6", "Hm</think>6"]),
    ],
)
async def test_a_form_is_that_of_the_answer_after_the_reasoning(
    server: ModelServer, model: str, texts: list[str], wrong: list[str]
) -> None:
    server.play(model, texts[0])
    completion = await chat(server, model, regex="5")
    assert completion.choices[0].message.content == "5"
    tokenizer = from_tokenizer(CODECS[model]._tokenizer, eos_token=0)
    for text in (*texts, *wrong):
        matcher = LLMatcher(tokenizer, str(server.engine.requests[-1].grammar), log_level=0)
        tokens = list(CODECS[model].encode(text))
        is_right = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()
        assert not matcher.is_error(), matcher.get_error()
        assert is_right == (text in texts), text


async def test_a_model_that_shall_not_reason_begins_with_the_answer(server: ModelServer) -> None:
    server.play("thinker", "5")
    await chat(server, "thinker", regex="5", reasoning_effort="none")
    assert server.engine.requests[-1].grammar == "start: /5/"
    server.play("thinker", "a")
    completion = await chat(server, "thinker", grammar='start: "a"')
    assert completion.choices[0].message.content == "a"


# Tokens.


async def test_a_text_becomes_tokens_and_the_tokens_a_text(server: ModelServer) -> None:
    for path in ("/tokenize", "/v1/tokenize"):
        response = await server.post(path, model="plain", prompt="aé<|end|>", return_token_strs=True)
        document = response.json()
        tokens = list(CODECS["plain"].encode("aé<|end|>"))
        assert document == {
            "count": 4, "max_model_len": CONTEXT, "tokens": tokens,
            "token_strs": ["a", "bytes:\\xc3", "bytes:\\xa9", "<|end|>"],
        }  # fmt: skip
        back = await server.post(path.replace("tokenize", "detokenize"), model="plain", tokens=tokens)
        assert back.json() == {"prompt": "aé<|end|>"}


async def test_a_conversation_becomes_the_tokens_of_its_prompt(server: ModelServer) -> None:
    for fields in (
        {},
        {"add_generation_prompt": False},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ):
        response = await server.post("/tokenize", model="thinker", messages=HELLO, **fields)
        server.play("thinker", "Hi")
        await chat(server, "thinker", **fields)
        assert response.json()["tokens"] == list(server.engine.requests[-1].prompt_token_ids)
        assert response.json()["token_strs"] is None


async def test_the_base_has_the_tokens_if_no_model_is_named(server: ModelServer) -> None:
    response = await server.post("/tokenize", messages=HELLO)
    assert response.json()["count"] == len("[user]Hello") + 1 + len("[assistant]")
    assert (await server.post("/detokenize", tokens=[])).json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "none"}, "model"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt"),
        ("/tokenize", {"messages": HELLO, "continue_final_message": True}, "continue_final_message"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"), ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"text": "a"}, "text"),
    ],
)  # fmt: skip
async def test_what_has_no_tokens_is_refused(
    server: ModelServer, path: str, body: dict[str, Any], param: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = await server.http.post(path, content=json.dumps(body), headers=headers)
    assert response.status_code in {400, 404}
    assert response.json()["error"]["param"] == param

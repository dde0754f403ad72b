"""The API with models whose chat templates have tools, each in its own format."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import openai
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inference.engines.protocol import ServedModel
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.text.codec import TokenizerCodec
from inference.text.tools import HERMES, LLAMA, MISTRAL
from inference.web.application import ChatPage, Identity, make_application
from tests.doubles.scripted_engine import ScriptedEngine

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


class ToolServer:
    """A server whose models have templates with tools, each of its own format."""

    def __init__(self, context: int = CONTEXT) -> None:
        self.codecs = {name: make_codec(template) for name, template in TEMPLATES.items()}
        end = self.codecs["plain"].encode("<|im_end|>")[0]
        self.end = (end,)
        self.engine = ScriptedEngine(dict.fromkeys(TEMPLATES, context), frozenset({end}))
        self.service = Service(Limits(max_concurrent=2, max_waiting=1))
        models = [ServedModel(name, None, codec, frozenset({end}), 0) for name, codec in self.codecs.items()]
        self.service.begin_serving(self.engine, models)
        settings = Settings(auth=False, chat_sign_in=False)
        self.app = make_application(self.service, settings, Identity("", "", "", ""), ChatPage(self.service))
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://server")
        self.openai = openai.AsyncOpenAI(
            api_key="none", base_url="http://server/v1", http_client=self.http, max_retries=0
        )

    def play(self, text: str, *, size: int = 1, model: str = "hermes") -> None:
        """Let the model generate a text, some tokens at a time."""
        tokens = self.codecs[model].encode(text)
        self.engine.play(*[tokens[start : start + size] for start in range(0, len(tokens), size)], self.end)

    def prompt(self, index: int = -1) -> str:
        """Return the prompt of a request that the engine got, without special tokens."""
        request = self.engine.requests[index]
        tokens = map(self.codecs[request.model].token, request.prompt_token_ids)
        return b"".join(token.data or b"" for token in tokens).decode()

    async def ask(self, **fields: Any) -> Any:
        fields = {"model": "hermes", "messages": HELLO, "tools": TOOLS} | fields
        return await self.openai.chat.completions.create(**fields)

    async def close(self) -> None:
        await self.engine.close()
        await self.http.aclose()


def accepts(grammar: str | None, text: str) -> bool:
    """Whether a text, as bytes for tokens, is the whole of what a grammar allows."""
    assert grammar is not None
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    data = list(text.encode())
    assert not matcher.is_error(), matcher.get_error()
    return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())

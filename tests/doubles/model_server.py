"""The application in process, with scripted models that have chat templates, and the official client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httpx2 as httpx
import openai

from inference.engines.protocol import ServedModel
from inference.service.requests import Limits
from inference.service.service import Service
from inference.settings import Settings
from inference.text.codec import TokenizerCodec
from inference.web.application import ChatPage, Identity, make_application
from tests.doubles.scripted_engine import ScriptedEngine
from tests.doubles.tiny import byte_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTEXT: Final = 4000
MESSAGES_TEMPLATE: Final = """
{%- for tool in tools or [] %}{{ tool | tojson }}{% endfor %}
{%- for message in messages %}[{{ message.role }}]
{%- if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}
{{- message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}
{%- if message.tool_call_id %}({{ message.name }}){% endif %}
{%- endfor %}
{%- if add_generation_prompt %}[assistant]{% endif %}"""
"""A chat template: each message in brackets, with its reasoning and its calls."""
SETTINGS: Final = Settings(auth=False, chat_sign_in=False, heartbeat_s=5)


def make_codec(template: str | None, *special: str) -> TokenizerCodec:
    """Return a codec with a chat template, whose tokens are `<|end|>`, the special ones and the bytes."""
    tokenizer = byte_tokenizer("<|end|>", *special)
    tokenizer.chat_template = template
    return TokenizerCodec(tokenizer)


class ModelServer:
    """A server of scripted models, each with a codec of its own.

    Args:
        codecs: The codecs by the models' names; their end token is 0.
    """

    def __init__(self, codecs: Mapping[str, TokenizerCodec]) -> None:
        self.codecs = codecs
        self.engine = ScriptedEngine(dict.fromkeys(codecs, CONTEXT), frozenset({0}))
        self.service = Service(Limits(max_concurrent=4, max_waiting=1))
        self.service.begin_serving(
            self.engine, [ServedModel(name, None, codec, frozenset({0}), 0) for name, codec in codecs.items()]
        )
        app = make_application(self.service, SETTINGS, Identity("", "", "", ""), ChatPage(self.service))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://server"
        )
        self.openai = openai.AsyncOpenAI(
            api_key="none", base_url="http://server/v1", http_client=self.http, max_retries=0
        )

    def play(self, model: str, text: str, size: int = 1) -> None:
        """Let the next request of a model be answered with a text, some tokens at a time."""
        tokens = self.codecs[model].encode(text)
        self.engine.play(*[tokens[start : start + size] for start in range(0, len(tokens), size)], (0,))

    def prompt(self, index: int = -1) -> str:
        """Return the prompt of a request that the engine got, special tokens included."""
        request = self.engine.requests[index]
        codec = self.codecs[request.model]
        tokens = map(codec.token, request.prompt_token_ids)
        return b"".join(
            token.text.encode() if token.data is None else token.data for token in tokens
        ).decode()

    async def post(self, path: str, **body: Any) -> Any:
        """Send a body, and return the response."""
        return await self.http.post(path, json=body)

    async def close(self) -> None:
        """Stop the engine and the client."""
        await self.engine.close()
        await self.http.aclose()

"""Build the chat page: its settings, its conversation, and what happens when the user asks.

It calls the same service as the API, in process and under the same limits, and needs no internet access.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator  # noqa: TC003 - Gradio reads the annotations of handlers
from dataclasses import dataclass
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final

import gradio
from fastapi import FastAPI
from starlette.requests import Request  # noqa: TC002 - Gradio reads the annotations of handlers

from inference.errors import ApiError
from inference.models.adapter_index import split_name
from inference.web.chat.answers import ask, refuse
from inference.web.chat.conversation import (
    MAX_COMPARED,
    MAX_SEED,
    Answered,
    Question,
    parse,
    parse_settings,
)
from inference.web.chat.examples import read_examples
from inference.web.chat.feedback import Feedback
from inference.web.chat.gateway import Chat, Sessions
from inference.web.chat.markdown import render
from inference.web.chat.probabilities import find_probabilities
from inference.web.chat.snippets import make_snippets
from inference.web.chat.theme import make_theme, read_frame, read_script, read_styles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from inference.service.model_names import ListedModel
    from inference.service.service import Service
    from inference.settings import Settings as ServerSettings

TITLE: Final = "Fjarr"
MAX_NEW_TOKENS: Final = 4096
POLL_S: Final = 0.05
"""The interval at which Gradio polls its queue. Its default is a millisecond, with or without visitors, and
each poll takes time from the engine."""

SETTINGS_KEY: Final = "fjarr.settings"
"""The name under which the browser keeps the settings."""


@dataclass(frozen=True, slots=True)
class Site:
    """The settings of the server that change its page.

    Attributes:
        mount: The share, with the adapters' examples.
        has_sign_in: Whether the user can sign out.
        feedback: Where thumbs are kept; None if the page has none.
    """

    mount: Path
    release: str = ""
    has_sign_in: bool = False
    feedback: Feedback | None = None


def make_site(settings: ServerSettings) -> Site:
    """Return the settings of the page for those of its server."""
    feedback = Feedback(settings.mount, settings.replica, settings.release) if settings.feedback else None
    return Site(settings.mount, settings.release, settings.chat_sign_in, feedback)


def make_chat(service: Service, site: Site) -> Chat:
    """Build the page. Takes a second, so call it in a thread."""
    # Gradio needs a running event loop while it builds; without one it creates some and leaves them open.
    return asyncio.run(_build(service, site))


async def _build(service: Service, site: Site) -> Chat:
    sessions = Sessions()
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gradio.mount_gradio_app(
        application,
        make_blocks(Handlers(service, site, sessions)),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=make_theme(),
        head=f"<style>{read_styles()}</style>",
    )
    return Chat(application, sessions)


class Handlers:
    """What the page asks the server for."""

    def __init__(self, service: Service, site: Site, sessions: Sessions) -> None:
        self.service = service
        self._site = site
        self._sessions = sessions

    async def describe(self, _nothing: object = None) -> dict[str, Any]:
        """Return what the page shows before the first question: models, examples, limits."""
        listed = tuple(each for each in self.service.listed_models if not each.is_second_name)
        names = {each.model.name for each in listed}
        return {
            "models": [describe_model(each, listed) for each in listed],
            "opens_with": opening_models(listed),
            "max_compared": MAX_COMPARED,
            "release": self._site.release,
            "has_sign_in": self._site.has_sign_in,
            "has_feedback": self._site.feedback is not None,
            "examples": [
                each.model_dump() for each in await asyncio.to_thread(read_examples, self._site.mount, names)
            ],
        }

    async def ask(  # noqa: PLR0913, PLR0917 - Gradio passes one argument per control
        self,
        system_prompt: Any,  # noqa: ANN401 - as the browser sends them
        temperature: Any,  # noqa: ANN401
        top_p: Any,  # noqa: ANN401
        max_tokens: Any,  # noqa: ANN401
        seed: Any,  # noqa: ANN401
        event: gradio.EventData,
        request: gradio.Request,
    ) -> AsyncIterator[dict[str, Any]]:
        """Put the question of an event to its models, and yield reports on their answers."""
        try:
            question = parse(Question, event.question)
        except ApiError as error:
            raise gradio.Error(error.message, title="Not sent", print_exception=False) from error
        try:
            settings = parse_settings(
                {
                    "system_prompt": system_prompt or "",
                    "temperature": temperature,
                    "top_p": top_p,
                    "max_tokens": max_tokens,
                    # Models that are compared get the same seed, and any answer can be repeated.
                    "seed": secrets.randbelow(MAX_SEED) if seed is None else seed,
                }
            )
        except ApiError as error:
            yield refuse(question, error.message)
            return
        track = partial(self._sessions.track, request.session_hash or "")
        async for report in ask(self.service, question, settings, track, client_of(request)):
            yield report

    async def render(self, texts: list[str]) -> list[list[str]]:
        """Return the blocks of answers that the browser has kept."""
        return await asyncio.to_thread(lambda: [render(str(text)) for text in texts])

    async def snippets(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the request that led to an answer, as code."""
        try:
            return dict(make_snippets(parse(Answered, document["answered"]), str(document["origin"])))
        except ApiError as error:
            return {"error": error.message}

    async def probabilities(self, document: dict[str, Any], request: gradio.Request) -> dict[str, Any]:
        """Return the probabilities of an answer's tokens."""
        try:
            answered = parse(Answered, document)
            return {"tokens": await find_probabilities(self.service, answered, client_of(request))}
        except ApiError as error:
            return {"error": error.message}

    async def rate(self, document: dict[str, Any]) -> dict[str, Any]:
        """Keep a thumb on an answer."""
        feedback = self._site.feedback
        if feedback is None:
            return {"error": "This server keeps no thumbs."}
        try:
            answered = parse(Answered, document["answered"])
            await asyncio.to_thread(feedback.keep, answered, is_good=document["is_good"])
        except ApiError as error:
            return {"error": error.message}
        except OSError as error:
            return {"error": f"The thumb could not be kept on the share: {error}."}
        return {}


def make_blocks(handlers: Handlers) -> gradio.Blocks:
    """Return the page."""
    with gradio.Blocks(title=TITLE, fill_height=True, fill_width=True, analytics_enabled=False) as blocks:
        conversation = gradio.HTML(
            html_template=read_frame(),
            js_on_load=read_script(),
            elem_id="fjarr",
            apply_default_css=False,
            server_functions=[
                _as_function(method)
                for method in (
                    handlers.describe,
                    handlers.render,
                    handlers.snippets,
                    handlers.probabilities,
                    handlers.rate,
                )
            ],
        )
        with gradio.Column(elem_id="settings"):
            controls = _make_controls(handlers.service)
        asking = conversation.ask(
            handlers.ask,
            inputs=controls,
            outputs=conversation,
            # Gradio would reject a value out of bounds by a notice that the conversation does not see.
            preprocess=False,
            # The admission queue limits how many requests run at once, together with the API's.
            concurrency_limit=None,
            # With "once", Gradio ignores a question if it takes the one before for unanswered, as it does
            # after a connection was lost.
            trigger_mode="multiple",
            show_progress="hidden",
            api_visibility="private",
        )
        conversation.stop(None, cancels=[asking], api_visibility="private")
        _keep_in_browser(blocks, controls)
    blocks.queue(default_concurrency_limit=None)
    queue = blocks._queue  # noqa: SLF001 - Gradio has no public setting for the following
    queue.sleep_when_free = POLL_S
    queue.progress_update_sleep_when_free = 1.0  # the page shows no progress
    # After each event, pandas would summarize all events so far, for a page of Gradio's that is closed here.
    queue.compute_analytics_summary = lambda _: None
    return blocks


def describe_model(listed: ListedModel, others: Sequence[ListedModel] = ()) -> dict[str, Any]:
    """Return what the page shows of a model.

    Args:
        listed: The model, and its name.
        others: All models. A bare name is shown with its version if they have another version of it.
    """
    name, is_tuned = listed.name, listed.model.parent is not None
    label = name if is_tuned else name.rpartition("/")[2]
    has_others = any(split_name(other.name)[0] == name != other.name for other in others)
    if has_others and listed.version is not None:
        label = f"{name}@{listed.version}"
    return {"name": name, "label": label, "kind": "fine-tuned" if is_tuned else "base"}


def opening_models(models: Sequence[ListedModel]) -> list[str]:
    """Return the models that are compared when the page opens: an adapter beside its base if there is one."""
    adapter = next((each for each in models if each.model.parent is not None), None)
    if adapter is None:
        return [each.name for each in models[:1]]
    return [each.name for each in models if each.name == adapter.model.parent] + [adapter.name]


def client_of(request: gradio.Request | Request) -> str:
    """Return the name for the admission queue: the session's key, counted apart from its API requests.

    Gradio passes events a request of its own, and server functions the one that it got.
    """
    received = request.request if isinstance(request, gradio.Request) else request
    name = "-" if received is None else received.scope.get("state", {}).get("key_name", "-")
    return "chat" if name == "-" else f"chat:{name}"


def _as_function(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return a method as a function: Gradio marks server functions, and a method takes no mark."""

    @wraps(method)
    async def call(*arguments: Any) -> Any:  # noqa: ANN401 - it passes on what Gradio passes
        return await method(*arguments)

    return call


def _make_controls(service: Service) -> list[gradio.components.Component]:
    """Return the settings, in the order in which `Handlers.ask` takes them."""
    system_prompt = gradio.Textbox("", label="System prompt", lines=3, placeholder="None: the model's own")
    temperature = _slider("Temperature", "0 always takes the likeliest token", 0, 2, 0.7, 0.05)
    top_p = _slider("Top p", "Samples from the likeliest tokens that have this share", 0.05, 1, 0.95, 0.05)
    length = min(512, service.limits.max_new_tokens)
    max_tokens = _slider("Length", "The most tokens of an answer", 1, MAX_NEW_TOKENS, length, 1)
    seed = gradio.Number(
        None,
        label="Seed",
        info="Empty: another one for each question",
        precision=0,
        minimum=0,
        maximum=MAX_SEED,
        placeholder="random",
    )
    return [system_prompt, temperature, top_p, max_tokens, seed]


def _slider(label: str, info: str, *numbers: float) -> gradio.Slider:
    """Return a slider with its minimum, maximum, initial value and step."""
    minimum, maximum, value, step = numbers
    return gradio.Slider(minimum, maximum, value, step=step, label=label, info=info, buttons=[])


def _keep_in_browser(blocks: gradio.Blocks, controls: list[gradio.components.Component]) -> None:
    """Keep the settings in the browser across reloads."""
    # In the page's own script, without a request to the server: Gradio's BrowserState makes one per change.
    initial = json.dumps([control.value for control in controls])
    load = f"""() => {{
        const kept = JSON.parse(localStorage.getItem("{SETTINGS_KEY}") || "null");
        return Array.isArray(kept) && kept.length === {len(controls)} ? kept : {initial};
    }}"""
    blocks.load(None, None, controls, js=load)
    save = f"""(...values) => {{ localStorage.setItem("{SETTINGS_KEY}", JSON.stringify(values)); }}"""
    for control in controls:
        control.change(None, controls, None, js=save)

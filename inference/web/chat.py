"""The chat page: talk to the fine-tuned model and to its base, in a browser.

It calls the same service as the API, in process and under the same limits, and needs no internet access. Of
Gradio's many paths only those are open that this page uses: no uploads, no files, no recording.
"""

from __future__ import annotations

import asyncio
import html
import uuid
from collections.abc import AsyncIterator  # noqa: TC003 - Gradio reads the annotations of `reply`
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import gradio
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from inference.engines.protocol import Sampling, ServedModel
from inference.errors import ApiError
from inference.service.requests import ChatPrompt, TextRequest
from inference.text.codec import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from starlette.types import Receive, Scope, Send

    from inference.service.answer import Answer
    from inference.service.service import Service

MAX_NEW_TOKENS: Final = 2048
TITLE: Final = "Fjarr"
POLL_S: Final = 0.05
"""The interval at which Gradio polls its queue. Its default is a millisecond, with or without visitors, and
each poll takes time from the engine."""

PATHS: Final = frozenset({
    "/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/gradio_api/app_id",
    "/gradio_api/cancel", "/gradio_api/info", "/gradio_api/login_check",
    "/gradio_api/queue/join", "/gradio_api/reset", "/gradio_api/run/predict", "/gradio_api/startup-events",
    "/gradio_api/theme.css", "/gradio_api/user",
})  # fmt: skip
EVENTS: Final = "/gradio_api/queue/data"
FOLDERS: Final = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")

CSS: Final = """
.gradio-container { width: 100% !important; max-width: 58rem !important; margin: 0 auto !important; }
footer { display: none !important; }
#heading { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem 1rem; }
#heading { justify-content: space-between; }
#heading h1 { font-size: 1.3rem; font-weight: 650; margin: 0; }
#heading p { margin: 0; color: var(--body-text-color-subdued); font-size: .85rem; overflow-wrap: anywhere; }
#heading a { color: var(--body-text-color-subdued); font-size: .85rem; }
#conversation { min-height: 14rem; }
@media (max-width: 640px) { .gradio-container { padding: .5rem !important; } }
"""


class Sessions:
    """The answers that are being generated for each open page, to stop them when the page is closed."""

    def __init__(self) -> None:
        self._answers: dict[str, set[Answer]] = {}

    @contextmanager
    def track(self, session: str, reply: Answer) -> Iterator[None]:
        """Register an answer as one of a session's."""
        answers = self._answers.setdefault(session, set())
        answers.add(reply)
        try:
            yield
        finally:
            answers.discard(reply)
            if not answers:
                self._answers.pop(session, None)

    def end(self, session: str) -> None:
        """Stop a session's answers."""
        for reply in tuple(self._answers.get(session, ())):
            reply.close()


class Chat:
    """The page as an ASGI application; `lifespan` must be entered while it serves."""

    def __init__(self, application: FastAPI, sessions: Sessions) -> None:
        self._application = application
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if its path is one that the page uses."""
        path = scope["path"].rstrip("/") or "/"
        if path == EVENTS:
            # Answers reach the page through this stream. If it ends before they do, the page was closed.
            # Gradio itself notices only at an answer's next token, and a queued request has none.
            try:
                await self._application(scope, receive, send)
            finally:
                self._sessions.end(_session_of(scope))
        elif path in PATHS or path.startswith(FOLDERS):
            await self._application(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse("There is nothing here.\n", 404)(scope, receive, send)

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """Return the context in which Gradio's own background work runs."""
        return self._application.router.lifespan_context(self._application)


def make_chat(service: Service, release: str, *, has_sign_in: bool) -> Chat:
    """Build the page. Takes a second, so call it in a thread."""
    # Gradio needs a running event loop while it builds; without one it creates some and leaves them open.
    return asyncio.run(_build(service, release, has_sign_in=has_sign_in))


@dataclass(frozen=True, slots=True)
class Controls:
    """The values of the page's controls.

    Attributes:
        model: The name of the model.
        system_prompt: Empty for none.
    """

    model: str
    system_prompt: str
    temperature: float
    top_p: float
    max_new_tokens: int


async def answer(  # noqa: PLR0913, PLR0917 - called in one place, with all of them
    service: Service,
    message: str,
    history: list[dict[str, Any]],
    controls: Controls,
    track: Callable[[Answer], AbstractContextManager[None]] = lambda _: nullcontext(),
    client: str = "chat",
) -> AsyncIterator[str]:
    """Yield the answer as it grows.

    Args:
        service: Generates the answer.
        message: The user's new message.
        history: The messages before it, in Gradio's form.
        controls: The values of the page's controls.
        track: Returns a context manager that is entered while the answer is read.
        client: The name under which the admission queue counts the user.

    Raises:
        gradio.Error: If there is no answer, with the reason for the user.
    """
    request = TextRequest(
        request_id="chat-" + uuid.uuid4().hex,
        model=controls.model,
        prompt=ChatPrompt((*_conversation(controls.system_prompt, history), Message("user", message))),
        max_new_tokens=controls.max_new_tokens,
        sampling=Sampling(controls.temperature, controls.top_p),
        client=client,
    )
    text = reasoning = ""
    try:
        async with await service.begin(request) as reply:
            with track(reply):
                async for delta in reply:
                    reasoning, text = reasoning + delta.reasoning, text + delta.text
                    if delta.text or (delta.reasoning and not text):
                        # The reasoning is shown until the answer begins.
                        yield text or reasoning
    except ApiError as error:
        raise gradio.Error(error.message, title="No answer", print_exception=False) from error


async def _build(service: Service, release: str, *, has_sign_in: bool) -> Chat:
    sessions = Sessions()
    application = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gradio.mount_gradio_app(
        application,
        _make_blocks(service, release, sessions, has_sign_in=has_sign_in),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=_make_theme(),
        css=CSS,
    )
    return Chat(application, sessions)


def _session_of(scope: Scope) -> str:
    query: dict[str, list[str]] = parse_qs(scope["query_string"].decode("latin-1"))
    return query.get("session_hash", [""])[0]


def _conversation(system_prompt: str, history: list[dict[str, Any]]) -> tuple[Message, ...]:
    system = (Message("system", system_prompt.strip()),) if system_prompt.strip() else ()
    return (*system, *(Message(entry["role"], _text_of(entry["content"])) for entry in history))


def _text_of(content: object) -> str:
    """Return a message's text, which Gradio keeps as a text or as a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text_of(part) for part in content)
    return str(content.get("text", "")) if isinstance(content, dict) else ""


def _make_blocks(service: Service, release: str, sessions: Sessions, *, has_sign_in: bool) -> gradio.Blocks:
    async def reply(  # noqa: PLR0913, PLR0917 - Gradio passes one argument per control
        message: str,
        history: list[dict[str, Any]],
        model: str,
        system_prompt: str,
        temperature: float,
        top_p: float,
        max_new_tokens: int,
        request: gradio.Request,
    ) -> AsyncIterator[str]:
        controls = Controls(model, system_prompt, float(temperature), float(top_p), int(max_new_tokens))
        track = partial(sessions.track, request.session_hash or "")
        async for text in answer(service, message, history, controls, track, _client_of(request)):
            yield text

    with gradio.Blocks(title=TITLE, fill_height=True, analytics_enabled=False) as blocks:
        gradio.HTML(_heading(service.models, release, has_sign_in=has_sign_in))
        model = _model_choice(service.models)
        with gradio.Accordion("Settings", open=False, render=False) as settings:
            system_prompt = gradio.Textbox(
                "", label="System prompt", lines=2, placeholder="None: the model's own"
            )
            with gradio.Row():
                temperature = _slider("Temperature", "0: always the likeliest", 0, 2, 0.7, 0.05)
                top_p = _slider("Top p", "Out of the likeliest tokens", 0.05, 1, 0.95, 0.05)
                length = min(512, service.limits.max_new_tokens)
                max_new_tokens = _slider("Length", "The most tokens", 1, MAX_NEW_TOKENS, length, 1)
        gradio.ChatInterface(
            reply,
            chatbot=gradio.Chatbot(
                elem_id="conversation",
                show_label=False,
                scale=1,
                buttons=["copy"],
                layout="bubble",
                placeholder="Say something to the model.",
            ),
            textbox=gradio.Textbox(
                elem_id="message",
                label="Your message",
                placeholder="Your message",
                show_label=False,
                container=False,
                autofocus=True,
                max_lines=12,
                scale=7,
                submit_btn=True,
                stop_btn=True,
            ),
            additional_inputs=[model, system_prompt, temperature, top_p, max_new_tokens],
            # The admission queue limits how many requests run at once, together with the API's.
            concurrency_limit=None,
            flagging_mode="never",
            analytics_enabled=False,
            api_visibility="private",
            show_progress="hidden",
        )
        settings.render()
    blocks.queue(default_concurrency_limit=None)
    queue = blocks._queue  # noqa: SLF001 - Gradio has no public setting for the following
    queue.sleep_when_free = POLL_S
    queue.progress_update_sleep_when_free = 1.0  # the page shows no progress
    return blocks


def _client_of(request: gradio.Request) -> str:
    """Return the name for the admission queue: the session's key, counted apart from its API requests."""
    state = request.request.scope.get("state", {}) if request.request is not None else {}
    name = state.get("key_name", "-")
    return "chat" if name == "-" else f"chat:{name}"


def _slider(label: str, info: str, *numbers: float) -> gradio.Slider:
    """Return a slider with its minimum, maximum, initial value and step."""
    minimum, maximum, value, step = numbers
    return gradio.Slider(minimum, maximum, value, step=step, label=label, info=info, min_width=200)


def _model_choice(models: tuple[ServedModel, ...]) -> gradio.Radio:
    """Return the choice of a model, with the fine-tuned models first."""
    choices = [
        (_label(model), model.name) for model in sorted(models, key=lambda model: model.parent is None)
    ]
    return gradio.Radio(
        choices, value=choices[0][1], show_label=False, container=False, visible=len(choices) > 1
    )


def _label(model: ServedModel) -> str:
    return (
        f"Fine-tuned: {model.name}" if model.parent is not None else f"Base: {model.name.rpartition('/')[2]}"
    )


def _heading(models: tuple[ServedModel, ...], release: str, *, has_sign_in: bool) -> str:
    adapters = ", ".join(html.escape(model.name) for model in models if model.parent is not None)
    bases = ", ".join(html.escape(model.name) for model in models if model.parent is None)
    names = f"{adapters} on {bases}" if adapters else bases
    facts = f"{names} · release {html.escape(release)}" if release else names
    sign_out = '<a href="/logout">Sign out</a>' if has_sign_in else ""
    return f'<div id="heading"><div><h1>{TITLE}</h1><p>{facts}</p></div>{sign_out}</div>'


def _make_theme() -> gradio.themes.Base:
    # System fonts only: nothing is fetched.
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gradio.themes.Default(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="slate",
        radius_size="lg",
        font=fonts,
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return theme.set(
        body_background_fill="*neutral_50",
        block_border_width="1px",
        block_shadow="none",
        block_title_text_weight="600",
        checkbox_label_background_fill_selected="*primary_100",
        checkbox_label_background_fill_selected_dark="*primary_900",
        checkbox_label_border_color_selected="*primary_500",
        checkbox_label_text_color_selected="*primary_900",
        checkbox_label_text_color_selected_dark="*primary_100",
    )

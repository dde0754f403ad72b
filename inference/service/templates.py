"""Check the options of a request for the chat template, and turn them into the template's variables.

Source: vLLM, "OpenAI-Compatible Server", "Chat API"; OpenAI API reference, `reasoning_effort`; the chat
templates of Qwen 3 (`enable_thinking`), DeepSeek V3.1 (`thinking`) and gpt-oss (`reasoning_effort`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from inference.errors import InvalidRequestError
from inference.text.codec import RESERVED_VARIABLES

if TYPE_CHECKING:
    from inference.service.requests import ChatPrompt
    from inference.text.codec import Codec, TemplateOptions

THINKING_SWITCHES: Final = ("enable_thinking", "thinking")
"""The variables by which templates let a model reason or not."""

NO_EFFORT: Final = "none"


def template_options(codec: Codec, prompt: ChatPrompt) -> TemplateOptions:
    """Return how the model's chat template is rendered.

    Raises:
        InvalidRequestError: If the model's template does not support what the request wants of it.
    """
    options, known = prompt.options, codec.template_variables
    if known is None:
        _require_no_template(prompt)
        return options
    reserved = sorted(options.variables.keys() & RESERVED_VARIABLES)
    if reserved:
        raise InvalidRequestError(
            f"'chat_template_kwargs.{reserved[0]}' is not a variable of the template that can be set.",
            param=f"chat_template_kwargs.{reserved[0]}",
        )
    if options.continues_last and (not prompt.messages or prompt.messages[-1].role != "assistant"):
        raise InvalidRequestError(
            "'continue_final_message' needs a last message of the role 'assistant'.",
            param="continue_final_message",
        )
    variables = {**_effort_variables(codec, known, prompt), **options.variables}
    return replace(options, variables=variables)


def _require_no_template(prompt: ChatPrompt) -> None:
    """Reject what only a chat template can do."""
    options = prompt.options
    wanted = {
        "chat_template_kwargs": bool(options.variables),
        "continue_final_message": options.continues_last,
        "add_generation_prompt": not options.is_answer_next,
        prompt.effort_param: prompt.effort not in {None, NO_EFFORT} and not prompt.is_effort_optional,
    }
    for param, is_wanted in wanted.items():
        if is_wanted:
            raise InvalidRequestError(
                f"'{param}' is not supported by this model: it has no chat template. Leave it out.",
                param=param,
                code="unsupported",
            )


def _effort_variables(codec: Codec, known: frozenset[str], prompt: ChatPrompt) -> dict[str, Any]:
    """Return the variables that make the model reason as much as OpenAI's word says."""
    effort = prompt.effort
    if effort is None:
        return {}
    found: dict[str, Any] = {name: effort != NO_EFFORT for name in THINKING_SWITCHES if name in known}
    if "reasoning_effort" in known:
        found["reasoning_effort"] = effort
    is_served = bool(found) or prompt.is_effort_optional
    if not is_served and (effort != NO_EFFORT or codec.reasoning_format is not None):
        raise InvalidRequestError(
            f"'{prompt.effort_param}': {effort!r} is not supported by this model: its chat template has no"
            " variable for it. Leave it out.",
            param=prompt.effort_param,
            code="unsupported",
        )
    return found

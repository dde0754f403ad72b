"""The bodies of `POST /v1/messages` and of `/v1/messages/count_tokens`, validated as `web.schemas` says.

Source: Anthropic API reference, "Create a Message" and "Count tokens in a Message"; the official client's
`types` and `types.beta`, which Claude Code uses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from inference.engines.protocol import Sampling
from inference.service.requests import ChatPrompt, TextRequest
from inference.service.templates import NO_EFFORT
from inference.text.codec import TemplateOptions
from inference.text.shapes import JsonShape
from inference.text.tools import Tool, ToolUse
from inference.web.message_schemas import ChosenTools, EmptyList, LenientModel, ObjectSchema, StrictModel
from inference.web.messages_api.input_messages import (
    Conversation,
    InputMessage,
    SystemBlocks,
    read_conversation,
)
from inference.web.schemas import MAX_TOOLS, SamplingFields, Stops, check_tools, make_tool_use, wrong

DEFAULT_EFFORT: Final = "high"
"""The effort of thinking that is switched on. Source: Anthropic, "Effort"."""

SCHEMA_PARAM: Final = "tools[{}].input_schema"


def _refuse_server_tools(tool: object) -> object:
    """Reject a tool that Anthropic's servers run, before its own fields are found to be unknown."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind not in (None, "custom"):
        raise PydanticCustomError(
            "tool_type", "only tools of the type 'custom' are supported, which the client runs itself"
        )
    return tool


class CustomTool(StrictModel):
    """A tool that the model may call, and that the client runs."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
    description: str | None = None
    input_schema: ObjectSchema
    strict: bool | None = None

    # Without effect: what is cached, loaded later, streamed in pieces, shown as an example, called by code.
    cache_control: dict[str, Any] | None = None
    defer_loading: bool | None = None
    eager_input_streaming: bool | None = None
    input_examples: list[dict[str, Any]] | None = None
    allowed_callers: list[str] | None = None

    def to_tool(self) -> Tool:
        """Return the function."""
        return Tool(self.name, self.description, self.input_schema, bool(self.strict))


class ToolChoice(StrictModel):
    """Whether the model has to call a tool, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _require_name(self) -> Self:
        if self.type == "tool" and self.name is None:
            raise wrong("name", "it names the tool")
        return self

    @property
    def chosen(self) -> ChosenTools:
        """Return the choice in the words of OpenAI's API."""
        if self.type == "tool":
            return ChosenTools("required", only=self.name)
        return ChosenTools("required" if self.type == "any" else self.type)


class Thinking(StrictModel):
    """Whether the model reasons before its answer. `budget_tokens` has no effect."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Annotated[int, Field(ge=0)] | None = None
    display: Literal["summarized", "omitted"] | None = None

    @property
    def is_hidden(self) -> bool:
        """Return whether the reasoning is left out of the answer."""
        return self.type == "disabled" or self.display == "omitted"


class OutputFormat(StrictModel):
    """The schema of the answer."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(StrictModel):
    """The options of the answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class ContextEdit(LenientModel):
    """What Anthropic's servers leave out of a long conversation. Here nothing is left out."""

    type: Annotated[str, Field(pattern="^clear_")]


class ContextManagement(StrictModel):
    """How a long conversation is shortened. It is not, but summaries would be a part of the answer."""

    edits: list[ContextEdit] | None = None


class _ConversationFields(StrictModel):
    """The fields of both paths."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[InputMessage], Field(min_length=1)]
    system: SystemBlocks | None = None
    tools: (
        Annotated[
            list[Annotated[CustomTool, BeforeValidator(_refuse_server_tools)]], Field(max_length=MAX_TOOLS)
        ]
        | None
    ) = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    context_management: ContextManagement | None = None
    mcp_servers: EmptyList | None = None
    compaction: None = None

    # Without effect: they concern Anthropic's caches, speed and invoices.
    billing_policy: dict[str, Any] | None = None
    cache_control: dict[str, Any] | None = None
    speed: str | None = None

    @model_validator(mode="after")
    def _check_dependent_fields(self) -> Self:
        check_tools([tool.name for tool in self.tools or ()], self._chosen_tools)
        if self.output_format and self.output_config and self.output_config.format:
            raise wrong("output_format", "it cannot be combined with 'output_config.format'")
        self._read_conversation()
        return self

    def to_text_request(self, request_id: str, client: str = "-") -> TextRequest:
        """Return the request for the service, with the defaults of what the path has no fields for."""
        return TextRequest(
            request_id=request_id,
            client=client,
            model=self.model,
            prompt=self._prompt,
            max_new_tokens=None,
            sampling=Sampling(),
            shape=self._shape,
            tool_use=self._tool_use,
            hides_reasoning=self.thinking is not None and self.thinking.is_hidden,
        )

    def _read_conversation(self) -> Conversation:
        return read_conversation(self.system or (), self.messages)

    @property
    def _chosen_tools(self) -> ChosenTools | None:
        return self.tool_choice.chosen if self.tool_choice else None

    @property
    def _prompt(self) -> ChatPrompt:
        conversation = self._read_conversation()
        options = TemplateOptions(
            is_answer_next=not conversation.continues_last,
            continues_last=conversation.continues_last,
            variables=self.chat_template_kwargs or {},
        )
        # Clients switch thinking on or off for every model, also for one that cannot do otherwise.
        return ChatPrompt(conversation.messages, options, self._effort, is_effort_optional=True)

    @property
    def _effort(self) -> str | None:
        if self.thinking is not None and self.thinking.type == "disabled":
            return NO_EFFORT
        effort = self.output_config.effort if self.output_config else None
        default = None if self.thinking is None else DEFAULT_EFFORT
        return "xhigh" if effort == "max" else effort or default

    @property
    def _shape(self) -> JsonShape | None:
        if self.output_config is not None and self.output_config.format is not None:
            return JsonShape(self.output_config.format.schema_, "output_config.format.schema")
        return JsonShape(self.output_format.schema_, "output_format.schema") if self.output_format else None

    @property
    def _tool_use(self) -> ToolUse | None:
        is_parallel = self.tool_choice is None or not self.tool_choice.disable_parallel_tool_use
        tools = tuple(tool.to_tool() for tool in self.tools or ())
        return make_tool_use(tools, self._chosen_tools, is_parallel=is_parallel, schema_param=SCHEMA_PARAM)


class CountTokensRequest(_ConversationFields):
    """The body of `POST /v1/messages/count_tokens`."""


class MessageRequest(SamplingFields, _ConversationFields):
    """The body of `POST /v1/messages`.

    `max_tokens` may be more than the context leaves: clients send the same number to every model.
    """

    max_tokens: Annotated[int, Field(ge=1)]
    stop: Annotated[Stops | None, Field(alias="stop_sequences")] = None
    stream: bool | None = None

    container: None = None
    thread: None = None

    # Without effect: they concern Anthropic's servers.
    inference_geo: str | None = None
    diagnostics: dict[str, Any] | None = None

    def to_text_request(self, request_id: str, client: str = "-") -> TextRequest:
        """Return the request for the service."""
        return replace(
            super().to_text_request(request_id, client),
            max_new_tokens=self.max_tokens,
            **self.sampling_options,
        )

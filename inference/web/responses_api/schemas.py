"""The body of `POST /v1/responses`, validated strictly, as `web.schemas` says.

Source: OpenAI API reference, "Create a model response".
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from inference.service.requests import ChatPrompt, TextRequest
from inference.text.grammar import ANY_OBJECT
from inference.text.shapes import JsonShape
from inference.text.tools import Tool
from inference.web.message_schemas import (
    ChosenTools,
    EchoedObject,
    Effort,
    EmptyList,
    Name,
    ObjectSchema,
    StrictModel,
    missing_field,
    read_choice,
    require_json,
)
from inference.web.responses_api.input_items import InputItems, read_messages
from inference.web.schemas import (
    MAX_CHAT_LOGPROBS,
    MAX_TOOLS,
    SamplingFields,
    check_tools,
    make_tool_use,
    wrong,
)

LOGPROBS: Final = "message.output_text.logprobs"
"""The entry of `include` that lists log-probabilities."""


def _refuse_stored(_value: object) -> object:
    raise PydanticCustomError(
        "stored", "responses are not stored by this server: send the whole conversation in 'input'"
    )


def _read_tool_choice(choice: object) -> ChosenTools:
    found = read_choice(choice, is_nested=False)
    if found is None:
        raise PydanticCustomError(
            "tool_choice", "it is 'none', 'auto', 'required', or {'type': 'function', 'name': ...}"
        )
    return found


Stored = Annotated[Any, BeforeValidator(_refuse_stored), WithJsonSchema({"type": "null"})]
_FUNCTION_CHOICE: Final[dict[str, Any]] = {
    "type": "object", "required": ["type", "name"], "properties": {
        "type": {"const": "function"}, "name": {"type": "string"},
    },
}  # fmt: skip
ToolChoice = Annotated[
    ChosenTools,
    BeforeValidator(_read_tool_choice),
    WithJsonSchema({
        "anyOf": [
            {"enum": ["none", "auto", "required"]},
            _FUNCTION_CHOICE,
            {"type": "object", "required": ["type", "mode", "tools"], "properties": {
                "type": {"const": "allowed_tools"}, "mode": {"enum": ["auto", "required"]},
                "tools": {"type": "array", "minItems": 1, "items": _FUNCTION_CHOICE},
            }},
        ]
    }),
]  # fmt: skip


class FunctionTool(StrictModel):
    """A function that the model may call; there are no other tools."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: Annotated[ObjectSchema, AfterValidator(require_json)] | None = None
    strict: bool | None = None

    def to_tool(self) -> Tool:
        """Return the function."""
        return Tool(self.name, self.description, self.parameters, bool(self.strict))


class TextFormat(StrictModel):
    """The form of the answer's text."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    schema_: Annotated[EchoedObject | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _require_schema(self) -> Self:
        if self.type == "json_schema" and self.schema_ is None:
            raise missing_field("schema")
        return self

    def to_shape(self) -> JsonShape | None:
        """Return the schema that the text must follow; None if the text is free."""
        if self.type == "text":
            return None
        if self.type == "json_schema" and self.schema_ is not None:
            return JsonShape(self.schema_, "text.format.schema")
        return JsonShape(ANY_OBJECT, "text.format")


class TextOptions(StrictModel):
    """The options of the text."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ReasoningOptions(StrictModel):
    """The options of the reasoning, which is returned whole: there are no summaries."""

    effort: Effort | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseStreamOptions(StrictModel):
    """The options of a stream, without effect."""

    include_obfuscation: bool | None = None


class ResponseRequest(SamplingFields):
    """The body of `POST /v1/responses`. Nothing is stored, whether or not `store` is true."""

    model: Annotated[str, Field(min_length=1)]
    input: InputItems
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    metadata: EchoedObject | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_CHAT_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None

    # Without effect: it limits calls of OpenAI's own tools.
    max_tool_calls: int | None = None

    previous_response_id: Stored | None = None
    conversation: Stored | None = None
    background: Literal[False] | None = None
    prompt: None = None
    truncation: Literal["disabled"] | None = None
    context_management: EmptyList | None = None
    moderation: None = None

    @model_validator(mode="after")
    def _check_dependent_fields(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise wrong("stream_options", "it goes with 'stream': true")
        check_tools([tool.name for tool in self.tools or ()], self.tool_choice)
        return self

    def to_text_request(self, request_id: str, client: str) -> TextRequest:
        """Return the request for the service."""
        tools = tuple(tool.to_tool() for tool in self.tools or ())
        text_format = self.text.format if self.text else None
        return TextRequest(
            request_id=request_id,
            client=client,
            model=self.model,
            prompt=ChatPrompt(
                read_messages(self.instructions, self.input),
                effort=self.reasoning.effort if self.reasoning else None,
                param="input",
                effort_param="reasoning.effort",
            ),
            max_new_tokens=self.max_output_tokens,
            length_param="max_output_tokens",
            top_logprobs=self._top_logprobs,
            shape=text_format.to_shape() if text_format else None,
            tool_use=make_tool_use(
                tools,
                self.tool_choice,
                is_parallel=self.parallel_tool_calls is not False,
                schema_param="tools[{}].parameters",
            ),
            **self.sampling_options,
        )

    @property
    def _top_logprobs(self) -> int | None:
        is_listed = bool(self.top_logprobs) or LOGPROBS in (self.include or ())
        return (self.top_logprobs or 0) if is_listed else None

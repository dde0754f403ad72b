"""The fields that require a form of an answer's text, under the names of several servers.

All of them become a `Shape`; a request may have one.

Source: vLLM, "Structured Outputs" (`structured_outputs`, and `guided_*` before version 0.12); SGLang,
"Structured Outputs" (`regex`, `ebnf`, `json_schema`); llama.cpp, `tools/server/README.md` (`grammar`,
`json_schema`); Text Generation Inference and Fireworks (the types of `response_format` beyond OpenAI's).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from inference.text.grammar import ANY_OBJECT
from inference.text.shapes import ChoiceShape, GrammarShape, JsonShape, RegexShape, Shape
from inference.web.message_schemas import JsonSchema, StrictModel, missing_field

MAX_SHAPE_CHOICES: Final = 1024


def _read_schema(schema: object) -> object:
    """Read a schema that was sent as text."""
    if not isinstance(schema, str):
        return schema
    try:
        return json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise PydanticCustomError("schema_text", "the text is not a schema in JSON") from error


Schema = Annotated[
    dict[str, Any],
    BeforeValidator(_read_schema),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]}),
]
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_SHAPE_CHOICES)]
Text = Annotated[str, Field(min_length=1)]


class ResponseFormat(StrictModel):
    """The form of the answer's text.

    `json_object` may have a `schema`, as with llama.cpp; `regex`, `grammar` and `choice` have a field of
    their name.
    """

    type: Literal["text", "json_object", "json_schema", "regex", "grammar", "choice"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    regex: Text | None = None
    grammar: Text | None = None
    choice: Choices | None = None

    @model_validator(mode="after")
    def _require_field(self) -> Self:
        if self.type not in {"text", "json_object"} and getattr(self, self.type) is None:
            raise missing_field(self.type)
        return self

    def to_shape(self) -> Shape | None:
        """Return what the text must be; None if it is free."""
        param = "response_format." + self.type
        if self.type == "regex" and self.regex is not None:
            return RegexShape(self.regex, param)
        if self.type == "grammar" and self.grammar is not None:
            return GrammarShape(self.grammar, param)
        if self.type == "choice" and self.choice is not None:
            return ChoiceShape(tuple(self.choice), param)
        return None if self.type == "text" else self._json_shape

    @property
    def _json_shape(self) -> JsonShape:
        if self.type == "json_object" and self.schema_ is not None:
            return JsonShape(self.schema_, "response_format.schema")
        if self.json_schema is not None and self.json_schema.schema_ is not None:
            return JsonShape(self.json_schema.schema_, "response_format.json_schema.schema")
        return JsonShape(ANY_OBJECT, "response_format")


class StructuredOutputs(StrictModel):
    """vLLM's requirement on the answer's text: one of its fields."""

    json_: Annotated[Schema | None, Field(alias="json")] = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    json_object: bool | None = None

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        if len(self.shapes()) != 1:
            raise PydanticCustomError(
                "structured_outputs", "it has one of 'json', 'json_object', 'regex', 'choice' and 'grammar'"
            )
        return self

    def shapes(self) -> list[Shape]:
        """Return what the text must be, once for each field that is set."""
        found: list[Shape] = []
        if self.json_ is not None:
            found.append(JsonShape(self.json_, "structured_outputs.json"))
        if self.json_object:
            found.append(JsonShape(ANY_OBJECT, "structured_outputs.json_object"))
        if self.regex is not None:
            found.append(RegexShape(self.regex, "structured_outputs.regex"))
        if self.choice is not None:
            found.append(ChoiceShape(tuple(self.choice), "structured_outputs.choice"))
        if self.grammar is not None:
            found.append(GrammarShape(self.grammar, "structured_outputs.grammar"))
        return found


class ShapeFields(StrictModel):
    """The fields of a body that require a form of the answer's text."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None
    json_schema: Schema | None = None
    regex: Text | None = None
    grammar: Text | None = None
    ebnf: Text | None = None

    # Without effect: there is one implementation.
    guided_decoding_backend: str | None = None

    @model_validator(mode="after")
    def _require_one_shape(self) -> Self:
        params = [shape.param.partition(".")[0] for shape in self._shapes()]
        if len(params) > 1:
            raise PydanticCustomError(
                "shapes", "it cannot be combined with '{other}'", {"field": params[1], "other": params[0]}
            )
        return self

    @property
    def shape(self) -> Shape | None:
        """Return what the answer's text must be; None if it is free."""
        return next(iter(self._shapes()), None)

    def _shapes(self) -> list[Shape]:
        found = [] if self.structured_outputs is None else self.structured_outputs.shapes()
        whole = None if self.response_format is None else self.response_format.to_shape()
        found += [] if whole is None else [whole]
        for param in ("guided_json", "json_schema"):
            schema = getattr(self, param)
            found += [] if schema is None else [JsonShape(schema, param)]
        for param in ("guided_regex", "regex"):
            pattern = getattr(self, param)
            found += [] if pattern is None else [RegexShape(pattern, param)]
        for param in ("guided_grammar", "grammar", "ebnf"):
            grammar = getattr(self, param)
            found += [] if grammar is None else [GrammarShape(grammar, param)]
        if self.guided_choice is not None:
            found.append(ChoiceShape(tuple(self.guided_choice), "guided_choice"))
        return found

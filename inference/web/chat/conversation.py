"""What the page sends about a conversation, and the messages that a model is prompted with.

The conversations themselves are kept in the browser. A turn is one question with the answers of the models
that it was put to; each model is prompted with its own answers.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference.errors import InvalidRequestError
from inference.service.requests import ChatPrompt
from inference.text.codec import Message, TemplateOptions

MAX_COMPARED: Final = 3
"""How many models one question can be put to: more columns are too narrow to read."""

MAX_SEED: Final = 2**31 - 1


class Record(BaseModel):
    """A document that the page sends."""

    model_config = ConfigDict(extra="forbid", frozen=True)


R = TypeVar("R", bound=Record)


class Turn(Record):
    """A question, and the answers to it that are a part of the conversation, by model."""

    user: str
    answers: dict[str, str] = {}


class Beginning(Record):
    """The part of an answer that is already there, to be continued."""

    text: str
    token_ids: tuple[int, ...] = ()


class Target(Record):
    """A model that the last question is put to."""

    model: str
    continues: Beginning | None = None


class Question(Record):
    """A question to one or more models.

    Attributes:
        run: The page's own id for what it asked; the answers carry it.
        turns: The conversation; the last turn is the question.
    """

    run: str = Field(max_length=64)
    turns: tuple[Turn, ...] = Field(min_length=1)
    targets: tuple[Target, ...] = Field(min_length=1, max_length=MAX_COMPARED)


class Settings(Record):
    """The sampling settings of an answer.

    Attributes:
        seed: None where an answer is not to be repeatable; the page always has one.
    """

    system_prompt: str = ""
    temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)


class Answered(Record):
    """One answer, with what it answers.

    Attributes:
        settings: What it was generated with.
        token_ids: Its tokens.
    """

    id: str = Field(default="", max_length=64)
    model: str
    turns: tuple[Turn, ...] = Field(min_length=1)
    settings: Settings
    text: str = ""
    token_ids: tuple[int, ...] = ()


def parse(kind: type[R], document: Any) -> R:  # noqa: ANN401 - it comes from the page
    """Return what the page sent.

    Raises:
        InvalidRequestError: If it is not of this kind; the message names the field.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the request"
        raise InvalidRequestError(f"The chat page sent {field}, and: {first['msg']}.") from error


SETTING_LABELS: Final = {
    "system_prompt": "System prompt", "temperature": "Temperature", "top_p": "Top p", "max_tokens": "Length",
    "seed": "Seed",
}  # fmt: skip
"""The settings as the page names them."""


def parse_settings(document: dict[str, Any]) -> Settings:
    """Return the settings of the page's controls.

    Raises:
        InvalidRequestError: If one cannot be used; the message names it as the page does.
    """
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Input should be ")
        label = SETTING_LABELS[str(first["loc"][0])]
        raise InvalidRequestError(f"{label} must be {reason}: see Settings.") from error


def messages_for(model: str, turns: tuple[Turn, ...], system_prompt: str = "") -> tuple[Message, ...]:
    """Return what a model is prompted with: the turns with its own answers, and the last question.

    A turn without an answer of this model has another model's, since most chat templates reject two questions
    in a row. A turn without any answer is left out.

    Raises:
        InvalidRequestError: If the question is blank.
    """
    *earlier, last = turns
    if not last.user.strip():
        raise InvalidRequestError("The message is blank.")
    messages = [Message("system", system_prompt.strip())] if system_prompt.strip() else []
    for turn in earlier:
        answer = turn.answers.get(model, next(iter(turn.answers.values()), None))
        if answer is not None:
            messages += [Message("user", turn.user), Message("assistant", answer)]
    return (*messages, Message("user", last.user))


def prompt_for(
    model: str, turns: tuple[Turn, ...], system_prompt: str = "", beginning: str | None = None
) -> ChatPrompt:
    """Return the prompt for a model: `messages_for` it, and the beginning of its answer if there is one."""
    messages = messages_for(model, turns, system_prompt)
    if not beginning:
        return ChatPrompt(messages)
    continued = TemplateOptions(is_answer_next=False, continues_last=True)
    return ChatPrompt((*messages, Message("assistant", beginning)), continued)

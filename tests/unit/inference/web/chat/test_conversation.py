from __future__ import annotations

from typing import Any

import pytest

from inference.errors import InvalidRequestError
from inference.text.codec import Message, TemplateOptions
from inference.web.chat.conversation import (
    Answered,
    Question,
    Settings,
    Turn,
    messages_for,
    parse,
    parse_settings,
    prompt_for,
)

TURNS = (
    Turn(user="One", answers={"base": "1b", "tuned": "1t"}),
    Turn(user="Never answered"),
    Turn(user="Two", answers={"base": "2b"}),
    Turn(user="Three"),
)


def test_each_model_is_prompted_with_its_own_answers() -> None:
    assert messages_for("tuned", TURNS, " Be brief. ") == (
        Message("system", "Be brief."),
        Message("user", "One"),
        Message("assistant", "1t"),
        Message("user", "Two"),
        Message("assistant", "2b"),
        Message("user", "Three"),
    )


@pytest.mark.parametrize("model", ["base", "tuned", "new"])
def test_questions_and_answers_alternate_after_a_stop_before_the_first_token(model: str) -> None:
    roles = [message.role for message in messages_for(model, TURNS)]
    assert roles == ["user", "assistant"] * 2 + ["user"]


def test_an_empty_answer_is_a_part_of_the_conversation() -> None:
    turns = (Turn(user="One", answers={"base": ""}), Turn(user="Two"))
    assert messages_for("base", turns)[1] == Message("assistant", "")


def test_an_answer_is_continued_in_place() -> None:
    prompt = prompt_for("base", TURNS[3:], "", "3 is")
    assert prompt.messages == (Message("user", "Three"), Message("assistant", "3 is"))
    assert prompt.options == TemplateOptions(is_answer_next=False, continues_last=True)
    assert prompt_for("base", TURNS[3:]).options == TemplateOptions()


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_a_blank_message_is_not_sent(blank: str) -> None:
    with pytest.raises(InvalidRequestError, match="The message is blank"):
        messages_for("base", (Turn(user=blank),))


@pytest.mark.parametrize(
    ("kind", "document", "error"),
    [
        (Question, None, "the request"),
        (Question, {"run": "r", "turns": [], "targets": [{"model": "m"}]}, "turns"),
        (Question, {"run": "r", "turns": [{"user": "x"}], "targets": []}, "targets"),
        (Question, {"run": "r", "turns": [{"user": "x"}], "targets": [{"model": "m"}] * 4}, "targets"),
        (Question, {"run": "r", "turns": [{"user": 1}], "targets": [{"model": "m"}]}, "turns.0.user"),
        (Question, {"run": "r", "turns": [{"user": "x"}], "targets": [{"model": "m"}], "x": 1}, "x"),
        (Settings, {"temperature": 3}, "temperature"),
        (Settings, {"top_p": 0}, "top_p"),
        (Settings, {"seed": -1}, "seed"),
        (Answered, {"model": "m", "turns": [], "settings": {}}, "turns"),
    ],
)
def test_what_the_page_never_sends_is_rejected_by_its_field(kind: Any, document: Any, error: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"The chat page sent {error}, and: "):
        parse(kind, document)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", 9, "Temperature must be less than or equal to 2: see Settings."),
        ("max_tokens", None, "Length must be a valid integer: see Settings."),
        ("top_p", "x", "Top p must be a valid number, unable to parse string as a number: see Settings."),
        ("seed", -1, "Seed must be greater than or equal to 0: see Settings."),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_as_on_the_page(
    name: str, value: object, message: str
) -> None:
    settings = {"system_prompt": "", "temperature": 0, "top_p": 1, "max_tokens": 5, "seed": 7}
    assert parse_settings(settings) == Settings.model_validate(settings)
    with pytest.raises(InvalidRequestError) as caught:
        parse_settings(settings | {name: value})
    assert caught.value.message == message

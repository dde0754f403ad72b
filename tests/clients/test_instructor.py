"""Instructor: every mode in which it asks an OpenAI-compatible server for typed answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import instructor
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from tests.doubles.remote_server import call_text

if TYPE_CHECKING:
    from tests.doubles.remote_server import Server

TICKET = '{"category": "billing", "priority": 2}'
QUESTION: Any = [{"role": "user", "content": "My bill is wrong"}]


class Ticket(BaseModel):
    category: str
    priority: int = Field(ge=1, le=3)


def make_client(server: Server, mode: str) -> Any:
    return instructor.from_openai(
        OpenAI(base_url=server.url, api_key="none", max_retries=0), mode=instructor.Mode[mode]
    )


@pytest.mark.parametrize("mode", ["TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "MD_JSON"])
def test_a_typed_answer(server: Server, mode: str) -> None:
    call = call_text("Ticket", category="billing", priority=2)
    server.script(call if mode.startswith("TOOLS") else f"```json\n{TICKET}\n```" if "MD" in mode else TICKET)
    ticket = make_client(server, mode).chat.completions.create(
        model="hermes", messages=QUESTION, response_model=Ticket
    )
    assert ticket.model_dump() == {"category": "billing", "priority": 2}


def test_a_wrong_answer_is_sent_back_with_what_is_wrong(server: Server) -> None:
    server.script(
        call_text("Ticket", category="billing", priority=9),
        call_text("Ticket", category="billing", priority=2),
    )
    ticket = make_client(server, "TOOLS").chat.completions.create(
        model="hermes", messages=QUESTION, response_model=Ticket, max_retries=2
    )
    assert ticket.priority == 2
    assert "less than or equal to 3" in server.prompts()[1]


def test_a_partial_answer_is_streamed(server: Server) -> None:
    server.script(TICKET)
    parts = list(
        make_client(server, "JSON_SCHEMA").chat.completions.create_partial(
            model="hermes", messages=QUESTION, response_model=Ticket
        )
    )
    assert len(parts) > 1
    assert parts[-1].model_dump() == {"category": "billing", "priority": 2}

"""What `invoke up` prints at its end."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from infra.verbs.status import find_status
from infra.verbs.up import UpResult, curl_line, openai_snippet
from tests.doubles.azure_stage import VERSION, serve_at, server

if TYPE_CHECKING:
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz


@pytest.fixture
def up_result(session: Session, az: ScriptedAz) -> UpResult:
    az.answers |= {"containerapp revision list": [], "containerapp replica list": [], "containerapp": {}}
    with server(VERSION) as endpoint:
        serve_at(session, endpoint)
        return UpResult(find_status(session), ".venv/bin/", 'It\'s "broken": what now?', is_changed=True)


def test_the_last_words_of_up(up_result: UpResult) -> None:
    text = up_result.to_text()
    endpoint = up_result.status.endpoint
    assert text.splitlines()[:3] == [
        f"Chat   {endpoint}/",
        f"API    {endpoint}/v1   (model tuned)",
        "Key    .venv/bin/invoke key --stage azure",
    ]
    assert text.splitlines()[-1] == "Stop it all: .venv/bin/invoke down --stage azure"
    assert up_result.to_json()["api"] == f"{endpoint}/v1"


def test_the_curl_line_is_one_line_whose_body_is_json_whatever_the_prompt(up_result: UpResult) -> None:
    (line,) = curl_line(up_result).splitlines()
    words = shlex.split(line)
    assert words[0] == "curl"
    body = json.loads(words[words.index("--data") + 1])
    message = {"role": "user", "content": up_result.prompt}
    assert body == {"model": "tuned", "messages": [message], "max_tokens": 100}
    assert "Authorization: Bearer $(.venv/bin/invoke key --stage azure)" in words


def test_the_snippet_is_python_whatever_the_prompt(up_result: UpResult) -> None:
    first, *lines, last = openai_snippet(up_result).splitlines()
    assert first == "OPENAI_API_KEY=\"$(.venv/bin/invoke key --stage azure)\" .venv/bin/python - <<'PY'"
    assert last == "PY"
    compile("\n".join(lines), "snippet", "exec")
    assert repr(up_result.prompt) in "\n".join(lines)

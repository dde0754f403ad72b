"""What `invoke up` prints at its end."""

from __future__ import annotations

import json
import shlex
import threading
import tomllib
from contextlib import contextmanager
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from infra.models.base_models import EXAMPLE
from infra.resources.first_answers import FirstAnswer, ask_models
from infra.verbs.status import find_status
from infra.verbs.up import UpResult, _first_answers, curl_line, openai_snippet
from tests.doubles.azure_stage import VERSION, serve_at, server

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@contextmanager
def answering(answers: dict[str, str], seen: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    """Serve an answer for each model, with an error for others, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.headers.get("Authorization", ""), body))
            text = answers.get(body["model"])
            choice = {"message": {"content": text}, "finish_reason": "length" if text == "{" else "stop"}
            payload = json.dumps({"choices": [choice]}).encode()
            self.send_response(404 if text is None else 200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the base class's name
            del format, arguments

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_port}"
        finally:
            httpd.shutdown()
            thread.join()


def test_both_models_are_asked_the_same() -> None:
    seen: list[tuple[str, dict[str, Any]]] = []
    with answering({"base": " Hello! ", "tuned": "{"}, seen) as endpoint:
        found = list(ask_models(endpoint, "secret", ("base", "tuned"), "A ticket", max_tokens=7))
    assert [(each.model, each.answer) for each in found] == [("base", "Hello!"), ("tuned", "{ …")]
    assert {key for key, _ in seen} == {"Bearer secret"}
    assert [body.pop("model") for _, body in seen] == ["base", "tuned"]
    assert seen[0][1] == seen[1][1] == {
        "messages": [{"role": "user", "content": "A ticket"}], "max_tokens": 7, "temperature": 0,
    }  # fmt: skip


def test_the_answers_are_shown_after_the_addresses(up_result: UpResult) -> None:
    ticket = "It does not start.\nSven"
    answers = (FirstAnswer("base", "word " * 20, 1.0), FirstAnswer("tuned", '{"category": "defect"}', 0.5))
    shown = replace(up_result, prompt=ticket, answers=answers)
    lines = shown.to_text().splitlines()
    assert lines[3:15] == [
        "", "A ticket:", "", "  It does not start.", "  Sven", "", "base answers:", "",
        "  " + " ".join(["word"] * 18), "  word word", "", "tuned answers:",
    ]  # fmt: skip
    assert lines[15:20] == ["", '  {"category": "defect"}', "", "Ask it with curl:", ""]
    assert shown.to_json()["answers"] == [asdict(each) for each in answers]
    assert json.dumps(ticket)[1:-1].split("\\n")[0] in curl_line(shown)


@pytest.mark.parametrize("adapters", [(), ("tuned",)])
def test_a_failure_to_ask_is_a_warning(
    session: Session, up_result: UpResult, adapters: tuple[str, ...], az: ScriptedAz
) -> None:
    az.answers |= {"containerapp secret list": []}
    with answering({}, []) as endpoint:
        status = replace(up_result.status, endpoint=endpoint, adapters=adapters)
        assert _first_answers(session, status, "A ticket") == ()


def test_the_example_s_prompt_is_a_held_out_ticket() -> None:
    example = tomllib.loads((EXAMPLE / "example.toml").read_text(encoding="utf-8"))
    lines = (EXAMPLE / "data/heldout.jsonl").read_text(encoding="utf-8").splitlines()
    assert example["prompt"] in [json.loads(line)["ticket"] for line in lines]

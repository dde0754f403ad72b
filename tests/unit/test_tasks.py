"""The command line: the verbs, their help and their errors."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from invoke import Collection, Program

import tasks
from infra.command_line import for_stage
from tests.doubles.azure_stage import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


VERBS = sorted(Collection.from_module(tasks).task_names)
WITHOUT_STAGE = {"relock", "stage", "upgrade"}
"""Verbs about the project itself."""


def invoke(*arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "invoke", "--search-root", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_list_of_verbs_is_a_table_of_contents() -> None:
    listed = invoke("--list").stdout
    assert re.findall(r"^  (\S+) ", listed, re.MULTILINE) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_takes_a_stage(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process, as the verbs are many; it imports the tasks again.
    monkeypatch.setitem(sys.modules, "tasks", tasks)
    program = Program(binary_names=["invoke"])
    program.run(["invoke", "--search-root", str(REPOSITORY), "--help", verb], exit=False)
    page = capsys.readouterr().out
    assert ("--stage=STRING" in page) == (verb not in WITHOUT_STAGE)
    assert "Docstring:\n  none" not in page
    options = page.split("Options:")[1]
    assert "\n\n" not in options.strip()
    if verb not in {"open", "exec"}:
        assert "--json" in options


def test_an_error_of_ours_is_a_message_and_its_exit_code() -> None:
    done = invoke("status", "--stage", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no stage 'nowhere'")
    assert "Traceback" not in done.stderr


def test_the_commands_in_a_message_are_for_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FJARR_STAGE", raising=False)
    assert for_stage("see invoke logs", {"stage": "mine"}) == "see invoke logs --stage mine"
    assert for_stage("see invoke logs", {"stage": "azure"}) == "see invoke logs"
    for verb in VERBS:
        named = for_stage(f"invoke {verb}", {"stage": "mine"})
        assert named == f"invoke {verb}{'' if verb in WITHOUT_STAGE else ' --stage mine'}"


def test_the_palette_offers_every_verb() -> None:
    text = (REPOSITORY / ".vscode/tasks.json").read_text()
    offered = re.findall(r'\.venv/bin/invoke (\w+)[^"]*"', text)
    assert sorted(offered) == VERBS


def test_the_list_of_verbs_imports_nothing_heavy() -> None:
    code = "import sys, tasks; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY, timeout=60
    )
    assert not {"openai", "scipy", "numpy", "aiohttp", "rich", "jinja2"} & set(ast.literal_eval(done.stdout))

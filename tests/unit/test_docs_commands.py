"""The commands in the documentation exist: their programs, verbs, flags, parameters and settings.

The end-to-end tests run the blocks that have no mark; the others need Azure, or say why they are not run.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from typing import TYPE_CHECKING, Final

import pytest
from invoke import Collection

import tasks
from inference.settings import SETTINGS
from tests.doubles.pages import AZURE_ONLY, BLOCK, ROOT, ShellBlock, pages, shell_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS: Final = {
    "az",
    "cd",
    "curl",
    "docker",
    "eval",
    "exec",
    "export",
    "git",
    "invoke",
    "nox",
    "pip",
    "prometheus",
    "python",
    "python3",
    "sudo",
}
VERBS: Final = Collection.from_module(tasks)
PARAMETERS: Final = set(
    json.loads((ROOT / "infra/provision/inference.json").read_text(encoding="utf-8"))["parameters"]
)
NAMES: Final = {setting.name for setting in SETTINGS.values()}
INLINE: Final = re.compile(r"`(?:\.venv/bin/)?(invoke [^`]+)`")


def commands(text: str) -> Iterator[list[str]]:
    """Return the words of each command in a block."""
    for words in _split_lines(text.replace("\\\n", " ")):
        while words:
            end = next((number for number, word in enumerate(words) if word in {"&&", "|", ">"}), len(words))
            if words[:end]:
                yield words[:end]
            words = [] if words[end : end + 1] == [">"] else words[end + 1 :]  # noqa: PLW2901  # the rest


def _split_lines(text: str) -> Iterator[list[str]]:
    """Return the words of each line; one that ends within quotes goes on in the next."""
    begun = ""
    for line in text.splitlines():
        begun += line
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:
            begun += "\n"
            continue
        yield words
        begun = ""
    assert not begun, f"quotes that do not end: {begun}"


def mistakes(words: list[str]) -> list[str]:
    """Return what does not exist in a command."""
    program, *arguments = words
    name = program.rpartition("/")[2]
    if name not in PROGRAMS:
        return [f"unknown program {program}"]
    if name == "invoke":
        return invoke_mistakes(arguments)
    if name.startswith("python") and arguments[:1] != ["-m"]:
        return [] if (ROOT / arguments[0]).is_file() else [f"no file {arguments[0]}"]
    return []


def invoke_mistakes(arguments: list[str]) -> list[str]:
    """Return what does not exist in a command of invoke."""
    verb, *rest = arguments
    if verb in {"--list", "--help", "VERB"}:
        return []
    if verb not in VERBS.task_names:
        return [f"unknown verb {verb}"]
    flags = {f"--{each.name.replace('_', '-')}" for each in VERBS[verb].get_arguments()}
    wrong = [
        f"{verb} has no {word}" for word in rest if word.startswith("--") and word not in flags | {"--help"}
    ]
    values = [value for flag, value in itertools.pairwise(rest) if flag in {"--set", "--unset"}]
    return wrong + [mistake for value in values for mistake in setting_mistakes(value)]


def setting_mistakes(value: str) -> list[str]:
    """Return whether a parameter, or a setting among the environment variables, does not exist."""
    name, _, variable = value.partition("=")[0].partition(".")
    if name not in PARAMETERS | {"NAME", "name"}:
        return [f"unknown parameter {name}"]
    if variable.startswith("FJARR_") and variable not in NAMES:
        return [f"unknown setting {variable}"]
    return []


@pytest.mark.parametrize("page", pages())
def test_commands_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [words for block in shell_blocks(page) for words in commands(block.text)]
    inline = [shlex.split(each.replace("…", " ")) for each in INLINE.findall(text)]
    assert [mistake for words in found + inline for mistake in mistakes(words)] == []


@pytest.mark.parametrize("page", pages())
def test_commands_that_are_not_run_say_why(page: str) -> None:
    for block in shell_blocks(page):
        lines = list(commands(block.text))
        if block.is_run:
            assert block.mark == "", "a mark is either 'azure only' or 'not run: ' and the reason"
            assert all(words[0] == ".venv/bin/invoke" for words in lines), block
            assert all("local" in words for words in lines), f"needs a mark: {block}"
        elif block.mark == AZURE_ONLY:
            assert all("local" not in words for words in lines), f"could be run: {block}"


def test_the_tutorial_is_run() -> None:
    assert sum(block.is_run for block in shell_blocks("docs/tutorial/clone.md")) >= 4


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("invoke deploi", "unknown verb deploi"),
        (".venv/bin/invoke deploy --stag local", "deploy has no --stag"),
        ("invoke provision --set gpus=t4", "unknown parameter gpus"),
        ("invoke provision --set environmentVariables.FJARR_X=1", "unknown setting FJARR_X"),
        ("python3 instal.py", "no file instal.py"),
        ("git pull && curll x", "unknown program curll"),
        ("az x '{\n  1' && curll x", "unknown program curll"),
        ("curl -d '{\n  1\n}' && curll x", "unknown program curll"),
    ],
)
def test_a_mistake_is_found(line: str, mistake: str) -> None:
    assert [found for words in commands(line) for found in mistakes(words)] == [mistake]


def test_a_block_in_a_list_is_found_with_its_mark() -> None:
    text = "1. Do it:\n\n   <!-- azure only -->\n   ```sh\n   az login\n   ```\n\n```sh\ninvoke up\n```\n"
    found = [(each["mark"], each["text"].strip()) for each in BLOCK.finditer(text)]
    assert found == [("azure only", "az login"), (None, "invoke up")]


def test_a_mark_belongs_to_the_block_below_it() -> None:
    block = ShellBlock("page.md", "not run: ", "az login\n")
    assert block.is_run, "a reason is needed"
    assert not ShellBlock("page.md", "not run: needs Docker", "docker run x\n").is_run

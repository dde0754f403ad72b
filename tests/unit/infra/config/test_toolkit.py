"""The AI Toolkit's own files, which users bring along."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from infra.az.commands import Group
from infra.config.inputs import Inputs, read_inputs
from infra.config.settings import Flags, Setting, read_handover
from infra.config.stage import load_stage
from infra.config.toolkit import without_toolkit_server

REPOSITORY = Path(__file__).resolve().parents[4]
PLACE, MISPLACED = "infra/provision/inference.parameters.json", "infra/inference.parameters.json"

# The values of the toolkit's published file.
COMMANDS = [
    "cd /mount",
    "pip install torch==2.4.0 transformers==4.43.4 bitsandbytes==0.43.1 peft==0.10.0 gradio==4.43.0",
    "cd /mount/inference",
    "python3 ./gradio_chat.py",
]
PUBLISHED = {"defaultCommands": COMMANDS, "maximumInstanceCount": 2, "location": None, "acaAppName": None}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("stages.toml", "provision/inference.json"):
        (tmp_path / "infra" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "infra" / name, tmp_path / "infra" / name)
    return tmp_path


def write(root: Path, file: str, values: dict[str, Any]) -> None:
    document = {"parameters": {name: {"value": value} for name, value in values.items()}}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(document))


def inputs(root: Path, *parameters: str) -> Inputs:
    return read_inputs(root, load_stage(root, "local"), Flags(parameters=parameters))


def values(found: Inputs) -> dict[str, Any]:
    return found.settings(Group("s", "g")).to_values()


def test_the_commands_of_the_toolkit_are_named_and_replaced(root: Path) -> None:
    write(root, PLACE, PUBLISHED)
    found = inputs(root)
    assert "defaultCommands" not in values(found)
    assert values(found)["maximumInstanceCount"] == 2
    assert found.notes == (
        (
            f"defaultCommands in {PLACE} install packages and start the AI Toolkit's own server; the server"
            " of this project is started instead. To start theirs, set defaultCommands in"
            " [local.parameters] of infra/stages.toml"
        ),
    )


def test_who_insists_gets_them(root: Path) -> None:
    write(root, PLACE, PUBLISHED)
    found = inputs(root, f"defaultCommands={json.dumps(COMMANDS)}")
    assert values(found)["defaultCommands"] == COMMANDS


@pytest.mark.parametrize(
    ("commands", "is_theirs"),
    [
        (["cd /mount/inference", "python ./gradio_chat.py --share"], True),
        (["python3.11 inference/gradio_chat.py"], True),
        (["exec python3 -m inference.start"], False),
        (["python3 my_gradio_chat.py"], False),
        (["echo gradio_chat.py"], False),
        ("python3 ./gradio_chat.py", False),  # not a list: the schema rejects it with its name
        (None, False),
    ],
)
def test_which_commands_are_the_toolkits(commands: Any, is_theirs: bool) -> None:  # noqa: FBT001  # a parameter
    settings = (Setting("defaultCommands", commands, "file"),)
    kept, notes = without_toolkit_server(settings, "azure")
    assert (kept == (), bool(notes)) == (is_theirs, is_theirs)


def test_a_file_at_the_place_that_the_toolkits_pages_name_is_read_and_named(root: Path) -> None:
    write(root, MISPLACED, {**PUBLISHED, "acaAppName": "theirs"})
    write(root, PLACE, {"maximumInstanceCount": 3})
    found = inputs(root)
    assert (values(found)["acaAppName"], values(found)["maximumInstanceCount"]) == ("theirs", 3)
    first, second = found.notes
    assert first == f"{MISPLACED} is read; its place is {PLACE}, whose values take precedence"
    assert f"defaultCommands in {MISPLACED}" in second
    (hidden,) = found.settings(Group("s", "g")).hidden
    assert (hidden.name, hidden.source) == ("maximumInstanceCount", MISPLACED)


def test_the_older_place_of_the_fine_tuning_parameters_counts_too(root: Path) -> None:
    write(root, "infra/finetuning.parameters.json", {"location": "westus3", "acaEnvironmentName": "older"})
    write(root, "infra/provision/finetuning.parameters.json", {"acaEnvironmentName": "newer"})
    found = {setting.name: setting.value for setting in read_handover(root).values}
    assert found == {"location": "westus3", "acaEnvironmentName": "newer"}

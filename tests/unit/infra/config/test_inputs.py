"""What is checked before Azure is asked: all mistakes of all files, flags and variables at once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.settings import SETTINGS
from infra.config.inputs import Inputs, read_inputs
from infra.config.settings import Flags, merge_known
from infra.config.stage import Stage, load_stage
from infra.config.template import is_edited, read_template
from infra.config.variables import setting_problem
from infra.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[4]
FILE = "infra/provision/inference.parameters.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = ("stages.toml", *(f"provision/inference.{end}" for end in ("bicep", "json", "bicep.sha256")))
    for name in files:
        (tmp_path / "infra" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "infra" / name, tmp_path / "infra" / name)
    return tmp_path


def inputs(root: Path, *parameters: str, file: dict[str, Any] | None = None, **overlay: Any) -> Inputs:
    if file is not None:
        document = {"parameters": {name: {"value": value} for name, value in file.items()}}
        (root / FILE).write_text(json.dumps(document))
    stage = replace(load_stage(root, "azure"), overlay=tuple(overlay.items()))
    return read_inputs(root, stage, Flags(parameters=parameters))


def refusal(root: Path, *parameters: str, file: dict[str, Any] | None = None, **overlay: Any) -> str:
    with pytest.raises(UsageError) as caught:
        inputs(root, *parameters, file=file, **overlay)
    return str(caught.value)


def test_all_mistakes_of_all_places_are_reported_at_once(root: Path) -> None:
    (root / FILE).write_text('{"parameters": {"minReplicas": {"value": 1}, "minReplicas": {"value": 2}}}')
    names = ", ".join(read_template(root / "infra/provision/inference.json").names)
    found = refusal(root, "novalue", "=x", "gpu=t5", acaAppNam="x", environmentVariables={"FJARR_ENGIN": "x"})
    assert found == (
        "error: 4 things have to be corrected\n"
        f"  {root / FILE} has a key more than once in one object:\n"
        "    minReplicas: is there more than once; only the last one would count\n"
        "  --set 'novalue' has no name or no value:\n"
        "    --set '=x' has no name or no value\n"
        "    hint: write --set name=value, such as --set maximumInstanceCount=1\n"
        "  a parameter is not known:\n"
        "    acaAppNam (from stage azure in infra/stages.toml): is not a parameter; "
        "did you mean acaAppName?\n"
        f"    hint: the parameters are: {names}\n"
        "  a parameter is not allowed:\n"
        "    environmentVariables.FJARR_ENGIN (from stage azure in infra/stages.toml): is not known; "
        "did you mean FJARR_ENGINE?"
    )


VARIABLES: dict[str, tuple[str, str]] = {
    "FJARR_MAX_WAITNG": ("3", "(from --set): is not known; did you mean FJARR_MAX_WAITING?"),
    "FJARR_ENGINE": ("vlm", ": 'vlm' (from --set) must be one of auto, transformers, vllm"),
    "FJARR_AUTH": ("false", ": 'false' (from --set) must be 'on' or 'off'"),
    "FJARR_MAX_WAITING": ("many", ": 'many' (from --set) must be a whole number of at least 0"),
    "FJARR_REQUEST_TIMEOUT_S": ("900", ": 900.0 (from --set) must be a number of seconds from 1 to 239"),
    "FJARR_API_KEYS": ("a", "(from --set): is set from a secret of the app; the parameter for it is apiKey"),
    "FJARR_MOUNT": ("/x", "(from --set): is set by the template; the parameter for it is mountPath"),
    "FJARR_PORT": ("80", "(from --set): is fixed: the ingress calls port 7860"),
    "FJARR_RELEASE": ("x", "(from --set): is set by the start commands, from the share's CURRENT file"),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_that_the_server_would_refuse(root: Path, name: str) -> None:
    value, rule = VARIABLES[name]
    space = "" if rule.startswith(":") else " "
    expected = f"error: a parameter is not allowed\n  environmentVariables.{name}{space}{rule}"
    assert refusal(root, f"environmentVariables.{name}={value}") == expected


def test_a_variable_that_a_parameter_sets_otherwise(root: Path) -> None:
    found = refusal(root, "environmentVariables.FJARR_ADAPTER=a", adapterPath="b")
    assert found.endswith(
        "environmentVariables.FJARR_ADAPTER (from --set): is also set by the parameter adapterPath "
        "(from stage azure in infra/stages.toml); keep one of them"
    )
    inputs(root, "environmentVariables.FJARR_ADAPTER=a")


def test_variables_of_others_and_valid_settings_pass(root: Path) -> None:
    values = ("HF_HOME=/x", "FJARR_MAX_WAITING=3", "FJARR_HEARTBEAT_S=0.5", "FJARR_CORS_ORIGINS=*")
    inputs(root, *(f"environmentVariables.{each}" for each in values))


def test_the_variables_of_a_stage_are_merged_with_those_of_the_file(root: Path) -> None:
    file = {"environmentVariables": {"A": "file", "B": "file"}, "minReplicas": 1}
    stage = {"environmentVariables": {"B": "stage"}, "minReplicas": 0}
    found = inputs(root, "environmentVariables.C=flag", file=file, **stage)
    settings, _ = merge_known(found.layers, found.template.names)
    assert settings.to_values()["environmentVariables"] == {"A": "file", "B": "stage", "C": "flag"}
    assert settings.source("environmentVariables", "A") == FILE
    assert settings.source("environmentVariables", "C") == "--set"
    hidden = [(each.name, each.value, each.source) for each in settings.hidden]
    assert hidden == [("environmentVariables.B", "file", FILE), ("minReplicas", 1, FILE)]


TAGS: dict[str, tuple[dict[str, str], str]] = {
    "reserved": (
        {"Azure-x": "1"},
        "tags.Azure-x: names that begin with microsoft, azure, ",
    ),
    "case": ({"team": "1", "Team": "2"}, "tags: team and Team are one name to Azure"),
    "own": ({"fjarr-made": "x"}, f"tags.fjarr-made (from {FILE}): is set by provision itself"),
    "many": ({f"t{number}": "" for number in range(49)}, "tags: 49 are more than 48; provision adds 2"),
}


@pytest.mark.parametrize("case", TAGS)
def test_tags_that_azure_would_refuse(root: Path, case: str) -> None:
    tags, words = TAGS[case]
    assert words in refusal(root, file={"tags": tags})


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("acaAppName", "my-app\n"),
        ("storageAccountName", "store\n"),
        ("image", "docker.io/PyTorch/pytorch"),
        ("image", "pytorch:a:b"),
        ("unmanaged", {}),
        ("environmentExists", True),
    ],
)
def test_a_value_that_only_looks_right(root: Path, parameter: str, value: Any) -> None:
    assert parameter in refusal(root, file={parameter: value})


@pytest.mark.parametrize("group", ["my rg", "rg.", "x" * 91])
def test_a_resource_group_that_azure_would_refuse(root: Path, group: str) -> None:
    stage = load_stage(root, "azure")
    with pytest.raises(
        UsageError, match=r"the resource group .* \(from --resource-group\) must have at most 90"
    ):
        read_inputs(root, stage, Flags(resource_group=group))


def test_the_committed_template_is_not_edited(root: Path) -> None:
    assert not is_edited(REPOSITORY)
    source = root / "infra/provision/inference.bicep"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    assert not is_edited(root), "git on Windows changes line ends"
    source.write_text(source.read_text() + "\n// mine\n")
    assert is_edited(root)


def test_the_schema_of_the_servers_settings_is_what_the_server_reads() -> None:
    schema = json.loads((REPOSITORY / "templates/server.settings.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) == {
        each.name for each in SETTINGS.values() if each.name.startswith("FJARR_")
    }


def test_a_stage_without_a_parameters_file_is_enough(root: Path) -> None:
    stage: Stage = load_stage(root, "local")
    assert read_inputs(root, stage, Flags()).stage == stage


TEXTS = ("", "auto", "on", "off", "0", "1", "3", "-1", "0.5", "240", "900", "1e3", "nan", "inf", "vllm", "x")
LISTS = (
    "*", " * ", "a", "a,b", "a, b", "a,,b", "a,", "*,a", "a,*", "**", "http://h", "https://h:1/", "http://h/x",
    "http://h, https://i", "*,http://h", "{}", "{", "a {} b", "{}{}", "{{}}", "a\\n{}\nb",
)  # fmt: skip


@pytest.mark.parametrize("name", [each.name for each in SETTINGS.values() if each.name.startswith("FJARR_")])
def test_a_setting_is_refused_exactly_if_the_server_refuses_it(name: str) -> None:
    declared = next(each for each in SETTINGS.values() if each.name == name)
    for text in (*TEXTS, *LISTS):
        if not text.strip():
            continue  # the server takes an empty text as not set
        try:
            declared.parse(text.strip())
            is_accepted = True
        except ValueError:
            # Of a list of keys, a schema cannot tell whether a name comes twice.
            is_accepted = name in {"FJARR_ADMIN_KEY", "FJARR_API_KEYS"}
        assert (setting_problem(name, text) == "") is is_accepted, f"{name}={text!r}"


def test_contradictions_are_reported_with_the_other_mistakes(root: Path) -> None:
    found = refusal(root, "gpu=none", environmentVariables={"FJARR_DEVICE": "cuda", "FJARR_ENGIN": "x"})
    assert found.splitlines()[0] == "error: 2 things have to be corrected"
    assert "  a setting of the server contradicts the deployment:" in found.splitlines()

"""Who says what: the order of precedence, the fine-tuning step's files, names that do not exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.az.commands import Group
from infra.az.names import resource_suffix
from infra.config.settings import (
    Flags,
    Handover,
    Setting,
    Settings,
    from_flags,
    from_stage,
    merge,
    read_handover,
    read_user_parameters,
)
from infra.config.stage import Stage
from infra.errors import UsageError

GROUP = Group("00000000-0000-0000-0000-000000000001", "tuning-rg")
KNOWN = ("location", "storageAccountName", "maximumInstanceCount", "acaEnvironmentName", "defaultCommands")
USER = "infra/provision/inference.parameters.json"
TUNING = "infra/provision/finetuning.parameters.json"

# As the fine-tuning step leaves them.
TUNING_CONFIG = {
    "SUBSCRIPTION_ID": GROUP.subscription,
    "RESOURCE_GROUP_NAME": GROUP.name,
    "STORAGE_ACCOUNT_NAME": "aistorageabcde",
    "FILE_SHARE_NAME": "aifileshareabcde",
    "ACA_JOB_NAME": "aiacajobabcde",
    "COMMANDS": ["cd /mount", "python3 ./finetuning/invoke_olive.py"],
}
TUNING_PARAMETERS = {
    "defaultCommands": ["cd /mount", "pip install x"],
    "maximumInstanceCount": 4,
    "timeout": 10800,
    "location": None,
    "storageAccountName": None,
    "fileShareName": None,
    "acaEnvironmentName": "tuning-env",
    "acaEnvironmentStorageName": None,
    "acaJobName": None,
    "acaLogAnalyticsName": "tuning-log",
}


def write(root: Path, name: str, document: Any) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def parameters(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "contentVersion": "1.0.0.0",
        "parameters": {name: {"value": value} for name, value in values.items()},
    }


def stage(**overlay: Any) -> Stage:
    return Stage("s", "azure", None, None, None, tuple(overlay.items()), Path("c"), Path("d"))


def test_names_follow_the_parameters_then_the_suffix_then_the_group() -> None:
    names = Settings().names(GROUP)
    assert names.app == f"aiacaapp{resource_suffix(GROUP)}"
    given = (Setting("acaAppName", "mine", "a test"), Setting("resourceSuffix", "xyz", "a test"))
    names = Settings(given).names(GROUP)
    assert (names.app, names.workspace) == ("mine", "ailogxyz")


def test_the_stronger_place_wins_and_is_named() -> None:
    layers = [
        (
            Setting("location", "from handover", "handover"),
            Setting("storageAccountName", "handover", "handover"),
        ),
        (Setting("location", "from user", "user"), Setting("maximumInstanceCount", 1, "user")),
        from_stage(stage(location="from stage")),
        from_flags(Flags(parameters=("location=from flag",))),
    ]
    for count, (value, source) in enumerate(
        [
            ("from handover", "handover"),
            ("from user", "user"),
            ("from stage", "stage s in infra/stages.toml"),
            ("from flag", "--set"),
        ],
        start=1,
    ):
        settings = merge(layers[:count], KNOWN)
        assert settings.find("location") == Setting("location", value, source)
        assert settings.source("storageAccountName") == "handover"
    assert settings.source("acaEnvironmentName") == "the template's default"


def test_null_means_not_set_here() -> None:
    layers = [(Setting("location", "x", "weak"),), (Setting("location", None, "strong"),)]
    assert merge(layers, KNOWN).text("location") == "x"


@pytest.mark.parametrize(
    ("flag", "value"),
    [("n=3", 3), ("n=x", "x"), ("n=true", True), ('n={"a": "b"}', {"a": "b"}), ("n=a=b", "a=b"), ("n=", "")],
)
def test_a_flag_is_json_or_else_text(flag: str, value: Any) -> None:
    assert from_flags(Flags(parameters=(flag,))) == (Setting("n", value, "--set"),)


def test_a_flag_of_a_parameter_that_is_text_is_text() -> None:
    flags = Flags(parameters=("containerCpu=4", "minReplicas=4"))
    assert [setting.value for setting in from_flags(flags, {"containerCpu"})] == ["4", 4]


@pytest.mark.parametrize("flag", ["novalue", "=3", ""])
def test_a_flag_without_a_name_or_value(flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_flags(Flags(parameters=(flag,)))
    assert caught.value.message == f"--set {flag!r} has no name or no value"


def test_the_location_flag_is_also_the_parameter() -> None:
    assert from_flags(Flags(location="norwayeast")) == (Setting("location", "norwayeast", "--location"),)


def test_names_that_do_not_exist_are_all_rejected_with_the_most_similar_one() -> None:
    layers = [
        (Setting("locatoin", 1, USER), Setting("maxInstanceCount", 1, "--set"), Setting("zzz", 1, USER))
    ]
    with pytest.raises(UsageError) as caught:
        merge(layers, KNOWN)
    assert caught.value.details == (
        f"locatoin (from {USER}): is not a parameter; did you mean location?",
        "maxInstanceCount (from --set): is not a parameter; did you mean maximumInstanceCount?",
        f"zzz (from {USER}): is not a parameter",
    )


def test_the_users_file(tmp_path: Path) -> None:
    assert read_user_parameters(tmp_path) == ()
    write(tmp_path, USER, parameters({"location": None, "maximumInstanceCount": 3}))
    assert read_user_parameters(tmp_path) == (Setting("maximumInstanceCount", 3, USER),)


@pytest.mark.parametrize(
    ("document", "details"),
    [
        ({}, ("parameters: must be an object",)),
        ({"parameters": [1]}, ("parameters: must be an object",)),
        (
            {"parameters": {"location": "norwayeast", "x": {"reference": {}}}},
            (
                'location: "norwayeast" must be an object with a value',
                'x: {"reference": {}} must be an object with a value',
            ),
        ),
    ],
)
def test_a_users_file_of_the_wrong_shape(tmp_path: Path, document: Any, details: tuple[str, ...]) -> None:
    write(tmp_path, USER, document)
    with pytest.raises(UsageError) as caught:
        read_user_parameters(tmp_path)
    assert caught.value.message == f"{USER} cannot be used"
    assert caught.value.details == details


def test_what_the_fine_tuning_step_hands_over(tmp_path: Path) -> None:
    write(tmp_path, "infra/finetuning.config.json", TUNING_CONFIG)
    write(tmp_path, TUNING, parameters(TUNING_PARAMETERS))
    handover = read_handover(tmp_path)
    assert (handover.subscription, handover.resource_group) == (GROUP.subscription, GROUP.name)
    assert {setting.name: (setting.value, setting.source) for setting in handover.values} == {
        "acaEnvironmentName": ("tuning-env", TUNING),
        "acaLogAnalyticsName": ("tuning-log", TUNING),
        "storageAccountName": ("aistorageabcde", "infra/finetuning.config.json"),
        "fileShareName": ("aifileshareabcde", "infra/finetuning.config.json"),
    }


def test_its_commands_and_its_node_count_are_not_ours(tmp_path: Path) -> None:
    write(tmp_path, TUNING, parameters(TUNING_PARAMETERS))
    names = {setting.name for setting in read_handover(tmp_path).values}
    assert not names & {"defaultCommands", "maximumInstanceCount", "timeout", "acaJobName"}


def test_without_its_files_nothing_is_handed_over(tmp_path: Path) -> None:
    assert read_handover(tmp_path) == Handover()


def test_its_resources_are_used_only_in_their_own_group() -> None:
    given = (Setting("storageAccountName", "x", "handover"),)
    handover = Handover(GROUP.subscription.upper(), "Tuning-RG", given)
    assert handover.values_for(GROUP) == given
    assert handover.values_for(Group(GROUP.subscription, "another")) == ()
    assert handover.values_for(Group("another", GROUP.name)) == ()
    assert Handover(values=given).values_for(GROUP) == given


def test_handed_over_files_that_cannot_be_used_say_all_that_is_wrong(tmp_path: Path) -> None:
    config = {**TUNING_CONFIG, "STORAGE_ACCOUNT_NAME": 3}
    del config["FILE_SHARE_NAME"]
    write(tmp_path, "infra/finetuning.config.json", config)
    with pytest.raises(UsageError) as caught:
        read_handover(tmp_path)
    assert caught.value.message == "infra/finetuning.config.json cannot be used"
    assert sorted(caught.value.details) == [
        "FILE_SHARE_NAME: is missing",
        "STORAGE_ACCOUNT_NAME: 3 must be text that is not empty",
    ]


def test_a_suffix_that_is_set_is_in_every_default_name() -> None:
    settings = Settings((Setting("resourceSuffix", "abcde", "--set"), Setting("acaAppName", "mine", "--set")))
    names = settings.names(Group("sub", "rg"))
    assert (names.storage_account, names.file_share, names.app) == (
        "aistorageabcde",
        "aifileshareabcde",
        "mine",
    )

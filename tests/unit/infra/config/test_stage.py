"""Stages and config files: what is read, and the exact words for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.config.endpoint import InferenceConfig, read_config, write_config
from infra.config.stage import load_stage
from infra.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[4]

VALUES = {
    "SUBSCRIPTION_ID": "00000000-0000-0000-0000-000000000001",
    "RESOURCE_GROUP_NAME": "my-rg",
    "STORAGE_ACCOUNT_NAME": "aistorageabcde",
    "FILE_SHARE_NAME": "aifileshareabcde",
    "ACA_APP_NAME": "aiacaappabcde",
    "ACA_APP_ENDPOINT": "aiacaappabcde.happysea.swedencentral.azurecontainerapps.io",
}


def write_stages(root: Path, text: str) -> None:
    (root / "infra").mkdir()
    (root / "infra/stages.toml").write_text(text)


def test_the_committed_stages() -> None:
    azure, local = load_stage(REPOSITORY, "azure"), load_stage(REPOSITORY, "local")
    assert (azure.cloud, azure.is_local, azure.overlay) == ("azure", False, ())
    assert (azure.subscription, azure.resource_group) == (None, None)
    assert azure.config_path == REPOSITORY / "infra/inference.config.json"
    assert (local.cloud, local.is_local, local.resource_group) == ("local", True, "fjarr-local")
    assert local.config_path == REPOSITORY / ".fjarr/local/inference.config.json"
    assert dict(local.overlay)["mountPath"] == f"{REPOSITORY}/.fjarr/local/mount"
    assert dict(local.overlay)["environmentVariables"] == {"FJARR_HOST": "127.0.0.1"}


def test_the_root_is_filled_in_wherever_it_stands(tmp_path: Path) -> None:
    write_stages(
        tmp_path, '[s]\ncloud = "local"\n[s.parameters]\na = ["{root}/x"]\nb = { c = "{root}" }\nd = 1\n'
    )
    overlay = dict(load_stage(tmp_path, "s").overlay)
    assert overlay == {"a": [f"{tmp_path}/x"], "b": {"c": str(tmp_path)}, "d": 1}


def test_an_unknown_stage() -> None:
    with pytest.raises(UsageError) as caught:
        load_stage(REPOSITORY, "locl")
    assert str(caught.value) == (
        "error: there is no stage 'locl'; did you mean local?\n"
        "hint: the stages in infra/stages.toml are: azure, local"
    )


def test_all_that_is_wrong_with_a_stage_is_reported_at_once(tmp_path: Path) -> None:
    write_stages(tmp_path, '[s]\ncloud = "aws"\nresourcegroup = "x"\nlocation = 3\nparameters = 4\n')
    with pytest.raises(UsageError) as caught:
        load_stage(tmp_path, "s")
    assert str(caught.value) == (
        "error: infra/stages.toml cannot be used\n"
        "  s.resourcegroup: no such setting; did you mean resource_group?\n"
        "  s.location: 3 must be text\n"
        "  s.parameters: must be a table\n"
        "  s.cloud: must be one of azure, local"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[s",
            "infra/stages.toml is not TOML: Expected ']' at the end of a table declaration",
        ),
        ("s = 3", "infra/stages.toml: 's' is not a table"),
    ],
)
def test_a_file_that_is_no_list_of_stages(tmp_path: Path, text: str, message: str) -> None:
    write_stages(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_stage(tmp_path, "s")
    assert caught.value.message.startswith(message)


def test_no_stages_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_stage(tmp_path, "azure")


def test_a_config_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep/inference.config.json"
    config = InferenceConfig.from_values(VALUES)
    write_config(path, config)
    assert read_config(path) == config
    assert json.loads(path.read_text()) == VALUES
    assert [file.name for file in path.parent.iterdir()] == ["inference.config.json"]


def test_a_config_written_by_hand_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "inference.config.json"
    path.write_text(json.dumps(VALUES), encoding="utf-8-sig")
    assert read_config(path).aca_app_name == "aiacaappabcde"


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("app.example.io", "https://app.example.io"),
        ("https://app.example.io/", "https://app.example.io"),
        ("http://127.0.0.1:40001", "http://127.0.0.1:40001"),
    ],
)
def test_an_endpoint_is_read_with_and_without_its_scheme(written: str, url: str) -> None:
    assert InferenceConfig.from_values({**VALUES, "ACA_APP_ENDPOINT": written}).endpoint_url == url


def test_all_that_is_wrong_with_a_config_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "inference.config.json"
    values: dict[str, object] = {
        **VALUES,
        "ACA_APP_NAME": "",
        "ACA_APP_ENDPOINT": "ftp://x",
        "SHARE_NAME": "x",
    }
    del values["FILE_SHARE_NAME"]
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError) as caught:
        read_config(path)
    assert caught.value.message == f"{path} cannot be used"
    assert sorted(caught.value.details) == [
        "ACA_APP_ENDPOINT: 'ftp://x' must be a host name, or an address that begins with https:// or http://",
        "ACA_APP_NAME: '' must be text that is not empty",
        "FILE_SHARE_NAME: is missing",
        "SHARE_NAME: is not known; did you mean FILE_SHARE_NAME?",
    ]


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_config_that_is_no_object(tmp_path: Path, text: str) -> None:
    path = tmp_path / "inference.config.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="JSON"):
        read_config(path)


def test_a_missing_config_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_config(tmp_path / "inference.config.json")
    assert caught.value.hint == (
        "provision the stage first (invoke provision), or write the file by hand, with SUBSCRIPTION_ID, "
        "RESOURCE_GROUP_NAME, STORAGE_ACCOUNT_NAME, FILE_SHARE_NAME, ACA_APP_NAME, ACA_APP_ENDPOINT"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('["../x"]\ncloud = "azure"\n', "'../x': cannot be the name of a stage, which is a folder's, too"),
        (
            "[s]\ncloud = 'azure'\nparameters.location = 2026-01-31\n",
            "2026-01-31 is a date; write it in quotes",
        ),
        ("[s]\ncloud = 'azure'\nparameters.minReplicas = nan\n", "nan is not a number that JSON has"),
        (
            "[s]\ncloud = 'azure'\nsubscription = \"a\\u0000b\"\n",
            "'a\\x00b' has a character that is not text",
        ),
    ],
)
def test_a_value_that_cannot_be_sent_anywhere(tmp_path: Path, text: str, problem: str) -> None:
    write_stages(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_stage(tmp_path, text[1:].partition("]")[0].strip('"'))
    assert problem in caught.value.details[0]

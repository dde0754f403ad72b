"""`invoke stage` and `invoke cloud`, and the hint about a local stage that runs."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from infra.config.endpoint import write_config
from infra.config.stage import load_stage
from infra.errors import UsageError
from infra.session import cloud_state, read_cloud
from infra.verbs.cloud import check_action as check_cloud_action
from infra.verbs.cloud import find_environment
from infra.verbs.stage import check_action, list_stages, show_stage
from tests.doubles.azure_stage import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.session import Session


@pytest.fixture
def running(session: Session) -> Iterator[Path]:
    """Let something listen where the local cloud's descriptor says, and return the state folder."""
    stage = load_stage(session.root, "local")
    write_config(stage.config_path, replace(CONFIG, aca_app_endpoint="http://127.0.0.1:5"))
    state = cloud_state(session.root, stage)
    state.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = {
            "resource_manager": f"https://127.0.0.1:{listener.getsockname()[1]}/",
            "ca_bundle": str(state / "ca.pem"),
            "tenant_id": "tenant",
            "client_id": "client",
            "client_secret": "it's secret",
            "subscription_id": "subscription",
            "cloud_name": "Local",
        }
        (state / "cloud.json").write_text(json.dumps(descriptor))
        yield state


@pytest.mark.usefixtures("running")
def test_the_stages_are_listed_with_their_state(session: Session) -> None:
    listed = list_stages(session.root, "local")
    assert listed.to_text() == (
        "  azure  azure  provisioned  http://127.0.0.1:9\n* local  local  up  http://127.0.0.1:5"
    )
    assert listed.to_json()["default"] == "local"


def test_a_stage_that_is_stopped_or_not_provisioned(session: Session, running: Path) -> None:
    (running / "cloud.json").unlink()
    session.stage.config_path.unlink()
    assert [stage.state for stage in list_stages(session.root, "azure").stages] == [
        "not provisioned",
        "stopped",
    ]


def test_one_stage_is_shown_with_what_is_kept_for_it(session: Session) -> None:
    path = session.root / "infra/stages.toml"
    path.write_text(
        '[azure]\ncloud = "azure"\nresource_group = "kept-rg"\n[azure.parameters]\ngpu = "t4"\n'
        'environmentVariables = { HF_TOKEN = "hf_x", HF_HOME = "/mount/hf" }\n'
    )
    shown = show_stage(session.root, "azure")
    assert shown.to_json() == {
        "name": "azure",
        "cloud": "azure",
        "state": "provisioned",
        "resource_group": "my-rg",
        "endpoint": "http://127.0.0.1:9",
        "settings": {
            "resource_group": "kept-rg",
            "gpu": "t4",
            "environmentVariables.HF_TOKEN": "***",
            "environmentVariables.HF_HOME": "/mount/hf",
        },
        "files": {
            "settings in": "infra/stages.toml [azure]",
            "configuration": "infra/inference.config.json",
            "state in": ".fjarr/azure",
        },
    }
    assert "gpu =                            t4" in shown.to_text()


def test_an_action_that_does_not_exist() -> None:
    assert check_action("list") == "list"
    with pytest.raises(UsageError, match="'lst' is no action of invoke stage; did you mean list"):
        check_action("lst")
    with pytest.raises(UsageError, match="'envv' is no action of invoke cloud; did you mean env"):
        check_cloud_action("envv")


@pytest.mark.usefixtures("running")
def test_a_local_stage_that_is_up_is_named_where_another_is_not_provisioned(session: Session) -> None:
    session.stage.config_path.unlink()
    with pytest.raises(UsageError) as caught:
        session.config()
    assert str(caught.value) == (
        "error: stage azure is not provisioned\nhint: stage local is up: add --stage local"
    )


def test_without_one_the_hint_is_to_provision(session: Session) -> None:
    session.stage.config_path.unlink()
    with pytest.raises(UsageError) as caught:
        session.config()
    assert str(caught.value.hint).startswith("provision the stage first (invoke provision)")


def test_the_environment_of_the_local_cloud_is_quoted_for_a_shell(session: Session, running: Path) -> None:
    local = replace(session, stage=load_stage(session.root, "local"), local_cloud=read_cloud(running))
    found = find_environment(local)
    lines = found.to_text().splitlines()
    assert f"export AZURE_CONFIG_DIR={session.root / '.fjarr/local/azure'}" in lines
    assert f"export REQUESTS_CA_BUNDLE={running / 'ca.pem'}" in lines
    assert """export AZURE_CLIENT_SECRET='it'"'"'s secret'""" in lines
    assert found.to_json()["AZURE_SUBSCRIPTION_ID"] == "subscription"


def test_the_environment_of_azure_is_the_users_own(session: Session) -> None:
    with pytest.raises(UsageError, match="is on Azure itself"):
        find_environment(session)
    stopped = replace(session, stage=load_stage(session.root, "local"), is_connected=False)
    shutil.rmtree(session.root / ".fjarr", ignore_errors=True)
    with pytest.raises(UsageError, match="the local cloud of stage 'local' is stopped"):
        find_environment(stopped)

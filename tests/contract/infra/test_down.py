"""Pause, resume and down with the real az, on a local cloud that stands for Azure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.az import commands as az
from infra.config.settings import Flags, Settings
from infra.errors import RemoteError
from infra.session import cloud_state
from infra.verbs.cloud import find_environment
from infra.verbs.down import down
from infra.verbs.pause import pause, resume
from infra.verbs.provision import provision
from infra.verbs.status import find_status
from tests.doubles.local_place import ASLEEP, Place, local_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.session import Session

pytestmark = pytest.mark.az


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with local_place(tmp_path_factory.mktemp("project")) as made:
        provision(made.open(), Flags(parameters=ASLEEP))
        yield made


def test_a_paused_stage_runs_nothing_and_keeps_all(place: Place) -> None:
    session = place.open()
    before = find_status(session)
    assert len(before.replicas) == 1
    assert pause(session).has_changed
    assert not pause(session).has_changed
    paused = find_status(session)
    assert (paused.paused, paused.replicas) == (True, ())
    assert paused.detail == "paused; invoke resume --stage local starts it"
    assert find_status(place.open_as_azure()).bills[0].to_text() == f"app {before.app}: nothing, it is paused"

    resumed = resume(session)
    assert (resumed.has_changed, resumed.release) == (True, None)
    after = find_status(session)
    assert (after.paused, after.revision) == (False, before.revision)
    assert len(after.replicas) == 1


def test_a_shell_with_the_environment_of_the_local_cloud_uses_it(place: Place) -> None:
    lines = find_environment(place.open()).to_text()
    script = f"{lines}\nexec az group list --query '[].name' --output tsv"
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "HOME": str(place.root)}
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == ["fjarr-local"]


def test_down_goes_on_past_what_cannot_be_deleted_and_can_be_run_again(place: Place) -> None:
    session = place.open_as_azure()
    config, names = session.config(), Settings().names(session.group())
    share = ("--storage-account", config.storage_account_name, "--name", "photos")
    session.az.run(az.az("storage", "share-rm", "create", *share, *session.group().flags))
    # Another machine knows neither the configuration nor the record of what was made.
    for name in ("inference.config.json", "made.json"):
        (session.stage.state_dir / name).unlink()
    deny(session, "Microsoft.App/managedEnvironments/delete")
    flags = Flags(config.subscription_id, config.resource_group_name)

    first = down(session, flags, is_confirmed=True)
    assert first.removed == (f"app {names.app}", f"workspace {names.workspace}")
    reasons = {left.what.partition(" ")[0]: left.reason for left in first.left}
    assert reasons[names.storage_account] == (
        "others have data in it: the file share photos; --delete-foreign-data deletes it as well"
    )
    assert "AuthorizationFailed" in reasons[names.environment]
    with pytest.raises(
        RemoteError, match=f"not everything could be deleted: environment {names.environment}"
    ):
        first.require_completeness()

    deny(session)
    second = down(session, flags, is_confirmed=True, deletes_foreign=True)
    assert second.to_text() == f"removed: the resource group {config.resource_group_name}\nnothing is left"


def deny(session: Session, *actions: str) -> None:
    """Deny actions to the user."""
    path = cloud_state(session.root, session.stage) / "subscription.json"
    path.write_text(json.dumps({"deniedActions": actions}))

"""The whole hand-over from the AI Toolkit's fine-tuning step, with the real az on a real local cloud.

The job itself is left out: the local cloud has no jobs. What it leaves on the share is put there.
"""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from infra.az import commands as az
from infra.az.commands import Group
from infra.config.settings import Flags, Settings
from infra.errors import UsageError
from infra.resources.file_share import open_share
from infra.verbs.down import down
from infra.verbs.provision import provision
from infra.verbs.status import find_status
from infra.verbs.up import up
from tests.doubles.local_place import Place, local_place
from tests.doubles.toolkit_project import ADAPTER, BASE, template, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.session import Session

pytestmark = pytest.mark.az

# A server that reports the newest adapter on its share as the real one does, and what its environment is.
SERVER = """
import http.server, json, os, pathlib, sys

mount = pathlib.Path(os.environ["FJARR_MOUNT"])
adapters = sorted(mount.glob("models/**/adapter/adapter_config.json"), key=lambda path: path.stat().st_mtime)
base = json.loads(adapters[-1].read_text())["base_model_name_or_path"]
assert (mount / base / "config.json").exists(), base


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        version = {
            "release": os.environ["FJARR_RELEASE"],
            "replica": os.environ["CONTAINER_APP_REPLICA_NAME"],
            "started_at": str(os.getpid()),
            "ready": True,
            "base_model": base,
            "adapters": [str(adapters[-1].parent.relative_to(mount))],
        }
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(version).encode())


(mount / "prefix").write_text(sys.prefix)
http.server.HTTPServer(("127.0.0.1", int(os.environ["CONTAINER_APP_PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with local_place(tmp_path_factory.mktemp("project")) as made:
        (made.root / "inference").mkdir()
        (made.root / "inference/__init__.py").touch()
        (made.root / "inference/start.py").write_text(SERVER)
        yield made


@pytest.fixture(scope="module")
def group(place: Place) -> Group:
    """Deploy what the fine-tuning step makes, and leave its files in the project."""
    session = place.open()
    assert session.local_cloud is not None
    made = Group(session.local_cloud.subscription_id, "tuning-rg")
    names = Settings().names(made)
    file, parameters = place.root / "tuning.json", place.root / "none.json"
    file.write_text(json.dumps(template(names)))
    parameters.write_text('{"parameters": {}}')
    session.az.run(az.group_create(made, "swedencentral"))
    session.az.run(az.deployment_create(made, "finetuning", file, parameters))
    write_files(place.root, made, names)
    return made


def flags(place: Place, group: Group) -> Flags:
    parameters = (f"mountPath={place.root}/.fjarr/local/handed-over", "workloadProfileName=GPU")
    return Flags(resource_group=group.name, parameters=parameters)


def test_the_adapter_that_the_job_left_is_served(place: Place, group: Group) -> None:
    session = place.open()
    before = environment(session, group)
    provisioned = provision(session, flags(place, group))
    assert provisioned.config.file_share_name == Settings().names(group).file_share
    notes = " ".join(provisioned.plan.warnings)
    assert (
        "infra/inference.parameters.json is read; its place is infra/provision/inference.parameters.json"
        in (notes)
    )
    assert "start the AI Toolkit's own server" in notes
    assert environment(session, group) == before, "the environment of the job is left as it is"
    with pytest.raises(UsageError, match="the fine-tuning step has left no adapter on the share"):
        up(place.open())

    with open_share(session) as share:
        share.put(f"{BASE}/config.json", b"{}")
        share.put(f"{ADAPTER}/adapter_config.json", json.dumps({"base_model_name_or_path": BASE}).encode())
    result = up(place.open())
    assert (result.status.ready, result.status.adapters) == (True, (ADAPTER,))
    assert result.status.base_model == BASE
    with open_share(session) as share:
        prefix = share.read("prefix")
    assert prefix is not None
    assert Path(prefix.decode()) != Path(sysconfig.get_path("data")), "a replica has its own environment"


def test_down_leaves_what_the_fine_tuning_step_made(place: Place, group: Group) -> None:
    session = place.open_as_azure()
    names = Settings().names(group)
    assert find_status(session).ready
    result = down(session, is_confirmed=True)
    assert result.removed == (f"app {names.app}",)
    assert {left.what.partition(" ")[0] for left in result.left} == {
        names.storage_account,
        names.environment,
        names.workspace,
    }


def environment(session: Session, group: Group) -> dict[str, Any]:
    shown: Any = session.az.run(az.environment_show(group, Settings().names(group).environment))
    assert isinstance(shown, dict)
    return {name: value for name, value in shown.items() if name != "systemData"}

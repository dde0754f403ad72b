"""The whole hand-over from the AI Toolkit, with the real az on a real local cloud.

Its two templates are deployed, its job runs and leaves an adapter on the share, and the pipeline serves that.
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
from tests.doubles.toolkit_project import (
    ADAPTER,
    BASE,
    FINE_TUNING,
    INFERENCE,
    fine_tuning_template,
    inference_template,
    parameters_file,
    write_files,
)

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


# What the job runs: it writes a base and a LoRA adapter of rank 1, as files of the real formats.
TUNING = """
import json, pathlib, struct

base, adapter = pathlib.Path("{base}"), pathlib.Path("{adapter}")
base.mkdir(parents=True)
(base / "config.json").write_text("{{}}")
adapter.mkdir(parents=True)
names = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{{side}}.weight" for side in "AB"]
tensors = {{
    name: {{"dtype": "F32", "shape": shape, "data_offsets": [16 * number, 16 * number + 16]}}
    for number, (name, shape) in enumerate(zip(names, ([1, 4], [4, 1])))
}}
header = json.dumps(tensors).encode()
(adapter / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
config = {{"base_model_name_or_path": "{base}", "peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}}
(adapter / "adapter_config.json").write_text(json.dumps(config))
print("the adapter is at", adapter)
"""


@pytest.fixture(scope="module")
def group(place: Place) -> Group:
    """Deploy the toolkit's two templates, and leave the files of its fine-tuning step in the project."""
    session = place.open()
    assert session.local_cloud is not None
    made = Group(session.local_cloud.subscription_id, "tuning-rg")
    session.az.run(az.group_create(made, "swedencentral"))
    mount = mount_path(place)
    script = place.root / "tuning.py"
    script.write_text(TUNING.format(base=BASE, adapter=ADAPTER))
    tuning = [f"cd '{mount}'", f"exec python3 '{script}'"]
    deploy(place, made, "finetuning", fine_tuning_template(), FINE_TUNING | {"defaultCommands": tuning})
    waiting = ["echo the toolkit's own server", "exec sleep 600"]
    deploy(place, made, "inference", inference_template(), INFERENCE | {"defaultCommands": waiting})
    write_files(place.root, made, Settings().names(made))
    return made


def deploy(
    place: Place, group: Group, name: str, template: dict[str, Any], values: dict[str, Any]
) -> dict[str, Any]:
    """Deploy one of the toolkit's templates with its parameters file, and return the outputs."""
    file, parameters = place.root / f"{name}.json", place.root / f"{name}.parameters.json"
    file.write_text(json.dumps(template))
    parameters.write_text(parameters_file(values | {"mountPath": mount_path(place)}))
    done: Any = place.open().az.run(az.deployment_create(group, name, file, parameters))
    return {key: found["value"] for key, found in done["properties"]["outputs"].items()}


def mount_path(place: Place) -> str:
    return f"{place.root}/.fjarr/local/handed-over"


def flags(place: Place, group: Group) -> Flags:
    parameters = (f"mountPath={mount_path(place)}", "workloadProfileName=GPU")
    return Flags(resource_group=group.name, parameters=parameters)


def job(session: Session, group: Group, *arguments: str) -> Any:
    """Run a command of az on the job, and return what it prints."""
    name = ("--name", Settings().names(group).app.replace("aiacaapp", "aiacajob"))
    return session.az.run(az.az("containerapp", "job", *arguments, *name, *group.flags))


def test_provision_takes_over_what_the_two_templates_made(place: Place, group: Group) -> None:
    session = place.open()
    before, made = environment(session, group), job(session, group, "show")
    provisioned = provision(session, flags(place, group))
    assert provisioned.config.file_share_name == Settings().names(group).file_share
    notes = " ".join(provisioned.plan.warnings)
    assert (
        "infra/inference.parameters.json is read; its place is infra/provision/inference.parameters.json"
        in (notes)
    )
    assert "start the AI Toolkit's own server" in notes
    assert environment(session, group) == before, "the environment of the job is left as it is"
    assert job(session, group, "show") == made, "the job too"
    with pytest.raises(UsageError, match="the fine-tuning step has left no adapter on the share"):
        up(place.open())


def test_the_adapter_that_the_job_leaves_is_served(place: Place, group: Group) -> None:
    session = place.open()
    started = job(session, group, "start")["name"]
    execution = ("execution", "show", "--job-execution-name", started)
    while (shown := job(session, group, *execution)["properties"])["status"] == "Running":
        pass
    assert shown["status"] == "Succeeded"
    assert [found["name"] for found in job(session, group, "execution", "list")] == [started]

    result = up(place.open())
    assert (result.status.ready, result.status.adapters) == (True, (ADAPTER,))
    assert result.status.base_model == BASE
    with open_share(session) as share:
        prefix = share.read("prefix")
        assert share.read(f"{ADAPTER}/adapter_model.safetensors") is not None
    assert prefix is not None
    assert Path(prefix.decode()) != Path(sysconfig.get_path("data")), "a replica has its own environment"


def test_a_job_is_stopped_and_changed_with_az(place: Place, group: Group) -> None:
    session = place.open()
    sleep = ("--command", "/bin/sleep", "--args", "600", "--container-name", "tuning")
    started = job(session, group, "start", *sleep, "--image", "x")["name"]
    job(session, group, "stop", "--job-execution-name", started)
    shown = job(session, group, "execution", "show", "--job-execution-name", started)["properties"]
    assert shown["status"] == "Stopped"
    assert shown["template"]["containers"][0]["command"] == ["/bin/sleep"]
    job(session, group, "secret", "set", "--secrets", "hf-token=abc")
    updated = job(session, group, "update", "--replica-timeout", "99")
    assert updated["properties"]["configuration"]["replicaTimeout"] == 99
    assert job(session, group, "secret", "list", "--show-values") == [{"name": "hf-token", "value": "abc"}]


def test_down_leaves_what_the_two_templates_made(place: Place, group: Group) -> None:
    session = place.open_as_azure()
    names = Settings().names(group)
    assert find_status(session).ready
    before = job(session, group, "show")
    result = down(session, is_confirmed=True)
    assert job(session, group, "show") == before
    assert result.removed == ()
    assert {left.what.partition(" ")[0] for left in result.left} == {
        names.storage_account,
        names.environment,
        names.workspace,
        names.app,
        before["name"],
    }


def environment(session: Session, group: Group) -> dict[str, Any]:
    shown: Any = session.az.run(az.environment_show(group, Settings().names(group).environment))
    assert isinstance(shown, dict)
    return {name: value for name, value in shown.items() if name != "systemData"}

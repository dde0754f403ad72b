"""Provision with the real az on a real local cloud: from nothing, again, with what others changed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from infra.az import commands as az
from infra.config.endpoint import read_config
from infra.config.settings import Flags
from infra.errors import RemoteError, UsageError
from infra.provisioning.changes import APP_KIND
from infra.resources.api_keys import KEYS_FILE
from infra.resources.app_secrets import read_secrets
from infra.resources.file_share import open_share
from infra.verbs.key import change_key, find_keys, find_names
from infra.verbs.logs import read_logs
from infra.verbs.provision import plan_provision, provision
from infra.verbs.secret import list_secrets, remove_secret, set_secret
from infra.verbs.status import find_status
from tests.doubles.local_place import ASLEEP, Place, local_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.provisioning.plan import ProvisionPlan
    from infra.session import Session

pytestmark = pytest.mark.az

THEIRS = (
    "secret set --secrets mine=s3cret",
    "update --set-env-vars THEIRS=1 SECRET=secretref:mine",
    "identity assign --system-assigned",
    "registry set --server r.azurecr.io --username u --password p4ssw0rd",
    "ingress cors enable --allowed-origins https://a.example.org",
    "ingress access-restriction set --rule-name office --ip-address 203.0.113.0/24 --action Allow",
)
"""What others do with az."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with local_place(tmp_path_factory.mktemp("project")) as made:
        yield made


def test_from_nothing_and_again(place: Place) -> None:
    session = place.open()
    first = provision(session, Flags(parameters=ASLEEP))
    assert first.is_changed
    config = read_config(place.root / ".fjarr/local/inference.config.json")
    assert first.config == config
    assert config.aca_app_endpoint.startswith("http://127.0.0.1:")
    assert config.resource_group_name == "fjarr-local"
    key = find_keys(session).to_text()

    again = provision(place.open())
    assert again.config == config
    assert not again.is_changed

    changed = provision(place.open(), Flags(parameters=("terminationGracePeriodSeconds=5",)))
    assert texts(changed.plan) == ["template.terminationGracePeriodSeconds: 60 -> 5"]
    assert changed.config == config
    assert find_keys(session).to_text() == key


def test_flags_are_kept_and_taken_back(place: Place) -> None:
    stages = place.root / "infra/stages.toml"
    assert "terminationGracePeriodSeconds = 5" in stages.read_text()
    assert not provision(place.open()).is_changed
    plan = plan_provision(place.open(), Flags(unset=("terminationGracePeriodSeconds",)))
    assert texts(plan) == ["template.terminationGracePeriodSeconds: 5 -> 60"]
    assert not plan.is_destructive
    assert "terminationGracePeriodSeconds = 5" in stages.read_text(), "a plan changes nothing"


def test_what_others_set_survives_an_unrelated_change(place: Place) -> None:
    session = place.open()
    config, group = session.config(), session.group()
    where = ("--name", config.aca_app_name, *group.flags)
    for line in THEIRS:
        session.az.run(az.az("containerapp", *line.split(), *where))
    tags = {**shown_app(session)["tags"], "x": "y"}
    session.az.run(az.az("containerapp", "update", *where, "--tags", *(f"{k}={v}" for k, v in tags.items())))
    before = shown_app(session)

    provision(session, Flags(parameters=("shareQuotaGib=77",)))

    after = shown_app(session)
    for part in ("registries", "secrets", "ingress"):
        assert after["properties"]["configuration"][part] == before["properties"]["configuration"][part]
    for part in ("containers", "scale", "volumes"):
        assert after["properties"]["template"][part] == before["properties"]["template"][part]
    assert (after["tags"]["x"], after["identity"]) == ("y", before["identity"])
    assert read_secrets(session.az, group, config.aca_app_name)["mine"] == {"value": "s3cret"}
    assert not plan_provision(place.open()).has_changes


def test_a_value_of_ours_that_others_changed_is_asked_about(place: Place) -> None:
    session = place.open()
    where = ("--name", session.config().aca_app_name, *session.group().flags)
    changes = ("--max-replicas", "3", "--set-env-vars", "FJARR_ADAPTER=models/theirs")
    session.az.run(az.az("containerapp", "update", *where, *changes))
    session.az.run(az.az("containerapp", "ingress", "sticky-sessions", "set", *where, "--affinity", "sticky"))
    with pytest.raises(UsageError) as caught:
        provision(session, Flags(parameters=("shareQuotaGib=78",)))
    assert "template.scale.maxReplicas: 3 -> 1   (set by others)" in str(caught.value)
    assert "to keep it: --set environmentVariables.FJARR_ADAPTER=models/theirs" in str(caught.value)
    assert shown_app(session)["properties"]["template"]["scale"]["maxReplicas"] == 3

    flags = Flags(parameters=("maxReplicas=3", "stickySessions=true"))
    kept = provision(session, flags, is_confirmed=True)
    assert texts(kept.plan) == [
        'template.containers[inference].env[FJARR_ADAPTER].value: "models/theirs" -> ""'
    ]
    assert shown_app(session)["properties"]["template"]["scale"]["maxReplicas"] == 3


def test_keys_and_secrets_are_changed_and_survive_a_provision(place: Place) -> None:
    session = place.open()
    config, group = session.config(), session.group()
    revision = shown_app(session)["properties"]["latestRevisionName"]
    added = change_key(session, "add", "bob")
    assert not added.is_proven, "nothing listens in this container"
    assert find_names(session).names == ("default", "bob")
    assert shown_app(session)["properties"]["latestRevisionName"] == revision
    with open_share(session) as share:
        document = json.loads(share.read(KEYS_FILE) or b"{}")
    assert set(document["keys"]) == {"default", "bob"}
    assert added.key.value not in json.dumps(document)

    assert set_secret(session, "HF_TOKEN", "one").effect == "new revision"
    assert set_secret(session, "HF_TOKEN", "two").effect == "with the next deploy"
    assert list_secrets(session).names == ("HF_TOKEN", "SECRET")

    provision(session, Flags(parameters=("shareQuotaGib=79",)), is_confirmed=True)
    secrets = read_secrets(session.az, group, config.aca_app_name)
    assert secrets["hf-token"] == {"value": "two"}
    assert find_keys(session).to_json()["keys"]["bob"] == added.key.value  # type: ignore[index]
    assert list_secrets(session).names == ("HF_TOKEN", "SECRET")
    assert remove_secret(session, "HF_TOKEN").effect == "new revision"
    change_key(session, "remove", "bob")
    assert set(read_secrets(session.az, group, config.aca_app_name)) == {*secrets} - {"hf-token"}


def test_what_was_provisioned_has_a_status_and_logs(place: Place) -> None:
    session = place.open()
    status = find_status(session)
    assert status.revision is not None
    assert [replica.name.startswith(status.revision) for replica in status.replicas] == [True]
    assert not status.ready
    texts = [record.text for record in read_logs(session, tail=300, kinds=("console", "system"))]
    assert "it sleeps" in texts
    assert any(text.startswith("ContainerStarted: ") for text in texts)


def test_a_refusal_of_azure_is_its_innermost_reason(place: Place) -> None:
    with pytest.raises(RemoteError) as caught:
        provision(place.open(), Flags(location="norwayeast"))
    assert caught.value.message.startswith(
        "deployment 'inference' failed: InvalidResourceLocation: The resource "
    )
    assert caught.value.command is not None
    assert caught.value.command.startswith("az deployment group what-if --name inference ")
    assert "norwayeast" not in (place.root / "infra/stages.toml").read_text()


def texts(plan: ProvisionPlan) -> list[str]:
    """Return the changes of the app, without their marks."""
    properties = [each for change in plan.changes if change.kind == APP_KIND for each in change.properties]
    return [each.to_text()[2:].partition("   (")[0] for each in properties]


def shown_app(session: Session) -> dict[str, Any]:
    shown: Any = without_empty(session.az.run(az.app_show(session.group(), session.config().aca_app_name)))
    assert isinstance(shown, dict)
    return shown


def without_empty(value: Any) -> Any:
    """Return JSON without nulls and empty texts: az leaves some behind, which mean the same as nothing."""
    if isinstance(value, dict):
        return {name: without_empty(each) for name, each in value.items() if each not in (None, "")}
    return [without_empty(each) for each in value] if isinstance(value, list) else value

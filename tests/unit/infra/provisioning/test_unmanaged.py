"""What others have configured: found in the app as az shows it, and nothing that is the template's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infra.config.template import read_template
from infra.errors import RemoteError
from infra.provisioning.unmanaged import Unmanaged, find_unmanaged

TEMPLATE = read_template(Path(__file__).resolve().parents[4] / "infra/provision/inference.json")


def app(**changes: Any) -> dict[str, Any]:
    """Return an app as the template makes it and Azure shows it, with changes to its parts by their name."""
    parts: dict[str, Any] = {
        "configuration": {
            "activeRevisionsMode": "Single",
            "dapr": None,
            "maxInactiveRevisions": 100,
            "registries": None,
            "secrets": [{"name": "api-key"}],
        },
        "ingress": {
            "external": True,
            "fqdn": "app.example.io",
            "exposedPort": 0,
            "clientCertificateMode": None,
            "stickySessions": {"affinity": "none"},
            "ipSecurityRestrictions": [
                {"name": "allow-1", "action": "Allow", "ipAddressRange": "10.0.0.0/8"}
            ],
        },
        "template": {"revisionSuffix": "", "initContainers": None, "volumes": [{"name": "share"}]},
        "scale": {"minReplicas": 1, "maxReplicas": 1, "cooldownPeriod": 300, "rules": [{"name": "http"}]},
        "container": {
            "name": "inference",
            "image": "x",
            "imageType": "ContainerImage",
            "env": [
                {"name": "FJARR_MOUNT", "value": "/mount"},
                {"name": "FJARR_API_KEYS", "secretRef": "api-key", "value": ""},
            ],
            "volumeMounts": [{"volumeName": "share", "mountPath": "/mount"}],
        },
        "top": {"tags": {"fjarr-made": "app:x"}, "identity": {"type": "None"}},
    }
    for name, change in changes.items():
        parts[name] = {**parts[name], **change}
    containers = [parts["container"], *parts["template"].pop("sidecars", [])]
    return {
        **parts["top"],
        "properties": {
            "configuration": {**parts["configuration"], "ingress": parts["ingress"]},
            "template": {**parts["template"], "containers": containers, "scale": parts["scale"]},
        },
    }


def find(shown: dict[str, Any], **more: Any) -> Unmanaged:
    return find_unmanaged(
        shown, more.get("secrets", {}), more.get("last", {}), more.get("wanted", {}), TEMPLATE
    )


def test_identities_and_registries_of_the_parameters_are_ours() -> None:
    users: dict[str, Any] = {USER: {}, f"{USER}-theirs": {}}
    shown = app(
        top={"identity": {"type": "SystemAssigned, UserAssigned", "userAssignedIdentities": users}},
        configuration={"registries": [{"server": "ours"}, {"server": "theirs"}]},
    )
    ours = {"registryServer": "ours", "registryIdentity": USER.upper(), "apiKeyVaultUrl": "https://v"}
    for given in ({"last": ours}, {"wanted": ours}):
        assert find(shown, **given).parts == {
            "identity": {"type": "UserAssigned", "userAssignedIdentities": {f"{USER}-theirs": {}}},
            "configuration": {"registries": [{"server": "theirs"}]},
        }
    all_ours = {"systemIdentity": True, "userAssignedIdentities": list(users), "registryServer": "ours"}
    assert "identity" not in find(shown, last=all_ours).parts


def test_the_templates_own_app_has_nothing_of_others() -> None:
    assert find(app()) == Unmanaged()
    assert find({}) == Unmanaged()


RULE = {"name": "office", "action": "Allow", "ipAddressRange": "203.0.113.0/24"}
USER = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/me"
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tags": ({"top": {"tags": {"team": "a", "fjarr-made": "x"}}}, {"tags": {"team": "a"}}),
    "identity": (
        {
            "top": {
                "identity": {
                    "type": "SystemAssigned,UserAssigned",
                    "principalId": "p",
                    "userAssignedIdentities": {USER: {"principalId": "q", "clientId": "c"}},
                }
            }
        },
        {"identity": {"type": "SystemAssigned,UserAssigned", "userAssignedIdentities": {USER: {}}}},
    ),
    "registries": (
        {"configuration": {"registries": [{"server": "r", "identity": "system"}]}},
        {"configuration": {"registries": [{"server": "r", "identity": "system"}]}},
    ),
    "domains": (
        {"ingress": {"customDomains": [{"name": "a.example.org"}]}},
        {"ingress": {"customDomains": [{"name": "a.example.org"}]}},
    ),
    "cors": (
        {"ingress": {"corsPolicy": {"allowedOrigins": ["*"]}}},
        {"ingress": {"corsPolicy": {"allowedOrigins": ["*"]}}},
    ),
    "an IP rule": ({"ingress": {"ipSecurityRestrictions": [RULE]}}, {"ipSecurityRestrictions": [RULE]}),
    "a sidecar": (
        {"template": {"sidecars": [{"name": "side", "image": "y", "imageType": "ContainerImage"}]}},
        {"containers": [{"name": "side", "image": "y"}]},
    ),
    "a scale rule": ({"scale": {"rules": [{"name": "cpu"}]}}, {"scaleRules": [{"name": "cpu"}]}),
    "a variable": (
        {"container": {"env": [{"name": "A", "value": "b", "secretRef": None}]}},
        {"variables": [{"name": "A", "value": "b"}]},
    ),
    "a mount": (
        {"container": {"volumeMounts": [{"volumeName": "v", "mountPath": "/v", "subPath": None}]}},
        {"volumeMounts": [{"volumeName": "v", "mountPath": "/v"}]},
    ),
    "arguments": ({"container": {"args": ["-v"]}}, {"container": {"args": ["-v"]}}),
    "a port": ({"ingress": {"exposedPort": 9}}, {"ingress": {"exposedPort": 9}}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_others_configured(case: str) -> None:
    changes, parts = CASES[case]
    found = find(app(**changes))
    assert found.parts == parts
    assert len(found.names) == 1


def test_what_the_last_deployment_or_the_next_one_sets_is_not_others() -> None:
    variables = [{"name": name, "value": "x"} for name in ("OURS_BEFORE", "OURS_NOW", "THEIRS")]
    shown = app(
        container={"env": variables},
        scale={"rules": [{"name": "queue"}]},
        top={"tags": {"Ours": "1", "theirs": "2"}},
    )
    found = find(
        shown,
        last={
            "environmentVariables": {"OURS_BEFORE": "x"},
            "scaleRules": [{"name": "queue"}],
            "tags": {"ours": "1"},
        },
        wanted={"environmentVariables": {"OURS_NOW": "y"}},
    )
    assert found.parts == {"variables": [variables[2]], "tags": {"theirs": "2"}}


def test_a_secret_that_a_flag_set_stays_in_the_app() -> None:
    shown = app(container={"env": [{"name": "HF_TOKEN", "value": "hf"}]})
    found = find(shown, last={"environmentVariables": {"HF_TOKEN": "hf"}})
    assert found.parts == {"variables": [{"name": "HF_TOKEN", "value": "hf"}]}


def test_secrets_are_passed_on_with_their_values_or_their_vault() -> None:
    shown = app(configuration={"secrets": [{"name": name} for name in ("api-key", "mine", "vault")]})
    vault = {"keyVaultUrl": "https://v.example.net/secrets/a", "identity": "system"}
    secrets = {"api-key": {"value": "k"}, "mine": {"value": "s3cret"}, "vault": {**vault, "value": "read"}}
    found = find(shown, secrets=secrets)
    assert found.secrets == {"mine": {"value": "s3cret"}, "vault": vault}
    assert "s3cret" not in repr(found)
    assert found.names == ("secret mine", "secret vault")


def test_a_secret_that_cannot_be_read_is_not_lost_silently() -> None:
    with pytest.raises(RemoteError, match="the secret 'mine' of the app cannot be read, and would be lost"):
        find(app(configuration={"secrets": [{"name": "mine"}]}))


@pytest.mark.parametrize(("mounted_by_sidecar", "kept"), [(False, None), (True, "datavolume")])
def test_the_server_of_the_ai_toolkits_app_is_replaced_and_what_was_added_to_it_stays(
    *, mounted_by_sidecar: bool, kept: str | None
) -> None:
    sidecar = {
        "name": "sidecar",
        "image": "y",
        "volumeMounts": [{"volumeName": "datavolume", "mountPath": "/x"}],
    }
    shown = app(
        container={
            "name": "aiacaappabcde",
            "env": [{"name": "HF_HOME", "value": "/cache"}],
            "volumeMounts": [{"volumeName": "datavolume", "mountPath": "/mount"}],
        },
        template={
            "volumes": [{"name": "datavolume", "storageName": "s", "storageType": "AzureFile"}],
            "sidecars": [sidecar] if mounted_by_sidecar else [],
        },
    )
    shown["name"] = "aiacaappabcde"
    parts: dict[str, Any] = dict(find(shown, wanted={"mountPath": "/mount"}).parts)
    assert [each["name"] for each in parts.get("containers", [])] == ["sidecar"] * mounted_by_sidecar
    assert [each["name"] for each in parts.get("volumes", [])] == [kept] * mounted_by_sidecar
    assert parts["variables"] == [{"name": "HF_HOME", "value": "/cache"}]

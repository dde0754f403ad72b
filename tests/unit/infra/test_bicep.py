"""The template: what the CLI builds, what users come with, and the limits that Azure enforces."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from infra.az.limits import parameter_problems
from infra.config.template import effective_values, read_template
from infra.provisioning.profile import plan_profile

PROVISION = Path(__file__).parents[3] / "infra" / "provision"
SNAPSHOTS = Path(__file__).parents[2] / "snapshots" / "inference"
THE_NINE = (
    "defaultCommands",
    "maximumInstanceCount",
    "location",
    "storageAccountName",
    "fileShareName",
    "acaEnvironmentName",
    "acaEnvironmentStorageName",
    "acaAppName",
    "acaLogAnalyticsName",
)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def compiled() -> dict[str, Any]:
    return dict(read(PROVISION / "inference.json"))


def resources_of(case: str) -> dict[str, dict[str, Any]]:
    """Return the resources of a committed snapshot by type."""
    return {each["type"]: each for each in read(SNAPSHOTS / f"{case}.snapshot.json")["predictedResources"]}


def container_of(case: str) -> dict[str, Any]:
    template = resources_of(case)["Microsoft.App/containerApps"]["properties"]["template"]
    return dict(template["containers"][0])


def run_bicep(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("bicep")
    if program is None:
        pytest.skip("the Bicep CLI is not on PATH: the committed inference.json is taken as it is")
    return subprocess.run(
        [program, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.bicep
def test_committed_json_is_what_bicep_builds(compiled: dict[str, Any]) -> None:
    built = run_bicep("build", "inference.bicep", "--stdout", cwd=PROVISION)
    assert (built.returncode, built.stderr) == (0, "")
    fresh = json.loads(built.stdout)
    if fresh["metadata"]["_generator"]["version"] == compiled["metadata"]["_generator"]["version"]:
        assert built.stdout.strip() == (PROVISION / "inference.json").read_text(encoding="utf-8").strip()
    for document in (fresh, compiled):
        del document["metadata"]["_generator"]  # another release of the CLI signs with another name and hash
    assert fresh == compiled


@pytest.mark.bicep
def test_lint_is_silent() -> None:
    linted = run_bicep("lint", "inference.bicep", cwd=PROVISION)
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


@pytest.mark.bicep
def test_source_is_formatted(tmp_path: Path) -> None:
    for name in ("inference.bicep", "bicepconfig.json"):
        shutil.copy(PROVISION / name, tmp_path)
    run_bicep("format", "inference.bicep", cwd=tmp_path)
    source = (PROVISION / "inference.bicep").read_text(encoding="utf-8")
    assert (tmp_path / "inference.bicep").read_text(encoding="utf-8") == source


def test_parameters_file_is_the_originals() -> None:
    document = read(PROVISION / "inference.parameters.json")
    assert document["$schema"].endswith("/2019-04-01/deploymentParameters.json#")
    assert document["parameters"] == {name: {"value": None} for name in THE_NINE}


SET_BY_GPU = ("gpuProfileName", "gpuProfileType", "workloadProfileName", "containerCpu", "containerMemory")


def test_the_nine_and_what_gpu_sets_may_be_null_and_the_others_have_defaults(
    compiled: dict[str, Any],
) -> None:
    for name, declared in compiled["parameters"].items():
        if name in (*THE_NINE, *SET_BY_GPU):
            assert declared["nullable"] is True
        else:
            assert "defaultValue" in declared
        assert declared["metadata"]["description"].endswith(".")


def test_only_the_key_and_the_secrets_of_others_are_secret() -> None:
    assert read_template(PROVISION / "inference.json").secrets == {"apiKey", "unmanagedSecrets"}


def test_default_names_are_the_originals_to_the_letter() -> None:
    found = resources_of("defaults")
    suffix = "bmg7c"  # the first five characters of uniqueString of the group in the snapshot
    assert {type_.rpartition("/")[2]: each["name"].rpartition("/")[2] for type_, each in found.items()} == {
        "storageAccounts": f"aistorage{suffix}",
        "fileServices": "default",
        "shares": f"aifileshare{suffix}",
        "workspaces": f"ailog{suffix}",
        "managedEnvironments": f"aienv{suffix}",
        "storages": f"aienvstorage{suffix}",
        "containerApps": f"aiacaapp{suffix}",
    }


def test_an_environment_that_exists_is_only_added_to() -> None:
    found = resources_of("environment-exists")
    assert "Microsoft.App/managedEnvironments" not in found
    assert "Microsoft.OperationalInsights/workspaces" not in found
    storage = found["Microsoft.App/managedEnvironments/storages"]
    assert storage["name"] == "aienvfromfinetuning/aienvstoragebmg7c"
    app = found["Microsoft.App/containerApps"]
    assert app["properties"]["environmentId"].endswith("/managedEnvironments/aienvfromfinetuning")


def test_profiles_are_the_originals_with_a_quota_of_one_gpu() -> None:
    environment = resources_of("defaults")["Microsoft.App/managedEnvironments"]
    assert environment["properties"]["workloadProfiles"] == [
        {"name": "Consumption", "workloadProfileType": "Consumption"},
        {"name": "GPU", "workloadProfileType": "NC24-A100", "minimumCount": 0, "maximumCount": 1},
    ]


@pytest.mark.parametrize(
    ("case", "profile", "cpu", "memory"),
    [
        ("gpu-t4", {"name": "gpu-t4", "workloadProfileType": "Consumption-GPU-NC8as-T4"}, 8, "56Gi"),
        (
            "gpu-a100x4",
            {
                "name": "gpu-a100x4",
                "workloadProfileType": "NC96-A100",
                "minimumCount": 0,
                "maximumCount": 2,
            },
            96,
            "880Gi",
        ),
        ("gpu-none", None, 4, "8Gi"),
        ("gpu-overridden", {"name": "mine", "workloadProfileType": "Consumption-GPU-NC24-A100"}, 4, "28Gi"),
    ],
)
def test_gpu_sets_profile_cpu_and_memory_and_what_is_set_takes_precedence(
    case: str, profile: dict[str, Any] | None, cpu: int, memory: str
) -> None:
    found = resources_of(case)
    profiles = found["Microsoft.App/managedEnvironments"]["properties"]["workloadProfiles"]
    assert profiles[1:] == ([profile] if profile else [])
    app = found["Microsoft.App/containerApps"]["properties"]
    assert app["workloadProfileName"] == (profile["name"] if profile else "Consumption")
    assert container_of(case)["resources"] == {"cpu": cpu, "memory": memory}


@pytest.mark.parametrize("gpu", sorted(read_template(PROVISION / "inference.json").gpus))
def test_the_pipeline_knows_the_profile_of_every_gpu(gpu: str) -> None:
    template = read_template(PROVISION / "inference.json")
    values = effective_values({"gpu": gpu}, template)
    parameters: Any = template.document["parameters"]
    allowed = parameters["gpu"]["allowedValues"]
    assert gpu in allowed
    assert parameter_problems(values) == []
    profile = plan_profile(values, {})
    assert profile.type == (values["gpuProfileType"] or "Consumption")
    assert profile.peak_gpus == {"none": 0, "a100x2": 2, "a100x4": 4}.get(gpu, 1)


def test_what_others_configured_is_added_to_what_the_template_sets() -> None:
    app = resources_of("unmanaged")["Microsoft.App/containerApps"]
    assert app["tags"] == {"theirs": "1", "team": "ours"}
    assert app["identity"] == {"type": "SystemAssigned"}
    configuration, template = app["properties"]["configuration"], app["properties"]["template"]
    assert configuration["registries"] == [{"server": "r.example.io", "identity": "system"}]
    ingress = configuration["ingress"]
    assert ingress["customDomains"] == [{"name": "a.example.org", "bindingType": "Disabled"}]
    assert ingress["corsPolicy"] == {"allowedOrigins": ["https://a.example.org"]}
    assert ingress["targetPort"] == 7860
    assert [rule["name"] for rule in ingress["ipSecurityRestrictions"]] == ["allow-1", "office"]
    assert [each["name"] for each in template["containers"]] == ["inference", "sidecar"]
    assert [each["name"] for each in template["volumes"]] == ["share", "scratch"]
    assert [each["name"] for each in template["scale"]["rules"]] == ["http", "cpu"]
    server = container_of("unmanaged")
    assert server["args"] == ["--verbose"]
    assert server["env"][-1] == {"name": "HF_TOKEN", "secretRef": "hf"}
    assert [each["volumeName"] for each in server["volumeMounts"]] == ["share", "scratch"]


@pytest.mark.parametrize("case", ["serverless-a100", "serverless-t4"])
def test_a_serverless_profile_has_no_counts(case: str) -> None:
    environment = resources_of(case)["Microsoft.App/managedEnvironments"]
    assert environment["properties"]["workloadProfiles"][1].keys() == {"name", "workloadProfileType"}


def test_without_a_key_there_is_no_secret() -> None:
    app = resources_of("defaults")["Microsoft.App/containerApps"]
    assert app["properties"]["configuration"]["secrets"] == []
    assert [entry["name"] for entry in container_of("defaults")["env"]] == [
        "FJARR_ADAPTER",
        "FJARR_BASE_MODEL",
        "FJARR_CHAT_SIGN_IN",
        "FJARR_ENGINE",
        "FJARR_MOUNT",
        "PIP_BREAK_SYSTEM_PACKAGES",
        "PYTHONDONTWRITEBYTECODE",
        "STORAGE_KEY_DIGEST",
    ]


def test_a_stage_may_overlay_every_setting() -> None:
    env = {entry["name"]: entry["value"] for entry in container_of("custom-commands")["env"]}
    assert env.pop("STORAGE_KEY_DIGEST").startswith("[uniqueString(listKeys(")
    assert env == {
        "FJARR_ADAPTER": "models/mine/adapter",  # the overlay's, not that of `adapterPath`
        "FJARR_BASE_MODEL": "model-cache/microsoft/Phi-3-mini-4k-instruct",
        "FJARR_CHAT_SIGN_IN": "on",
        "FJARR_ENGINE": "auto",
        "FJARR_MOUNT": "/mount",
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def test_commands_are_run_by_bash() -> None:
    assert container_of("custom-commands")["command"] == [
        "/bin/bash",
        "-c",
        "cd /mount; pip install -r inference/requirements.txt; python3 ./gradio_chat.py --say 'it''s'",
    ]


def test_the_default_commands_start_the_release_that_current_names(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    release = mount / "releases" / "20260101T000000Z-0a1b2c3d"
    (release / "inference").mkdir(parents=True)
    (release / "inference" / "start.py").write_text(
        "import os\nprint(os.getcwd(), os.environ['FJARR_RELEASE'])\n"
    )
    (mount / "CURRENT").write_text("20260101T000000Z-0a1b2c3d\n")
    done = subprocess.run(
        container_of("defaults")["command"],
        env={"FJARR_MOUNT": str(mount), "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"{release} 20260101T000000Z-0a1b2c3d\n"


def test_probes_are_within_the_limits_that_azure_enforces() -> None:
    probes = container_of("defaults")["probes"]
    assert [probe["type"] for probe in probes] == ["Startup", "Liveness", "Readiness"]
    assert [probe["httpGet"]["path"] for probe in probes] == ["/healthz", "/healthz", "/readyz"]
    for probe in probes:
        assert probe.get("initialDelaySeconds", 0) <= 60
        assert 1 <= probe["periodSeconds"] <= 240
        assert 1 <= probe["timeoutSeconds"] <= 240
        assert 1 <= probe["failureThreshold"] <= 10
        assert probe.get("successThreshold", 1) == 1


def test_scale_and_ingress() -> None:
    app = resources_of("custom-commands")["Microsoft.App/containerApps"]["properties"]
    assert app["configuration"]["activeRevisionsMode"] == "Single"
    ingress = app["configuration"]["ingress"]
    assert (ingress["external"], ingress["targetPort"], ingress["allowInsecure"]) == (False, 7860, False)
    assert ingress["ipSecurityRestrictions"] == [
        {"name": "allow-1", "action": "Allow", "ipAddressRange": "10.0.0.0/8"},
        {"name": "allow-2", "action": "Allow", "ipAddressRange": "192.0.2.7"},
    ]
    rule = {"name": "http", "http": {"metadata": {"concurrentRequests": "32"}}}
    assert app["template"]["scale"] == {
        "minReplicas": 1,
        "maxReplicas": 1,
        "cooldownPeriod": 300,
        "pollingInterval": 30,
        "rules": [rule],
    }


TORCH_IMAGE = "docker.io/pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime"
VLLM_IMAGE = "docker.io/vllm/vllm-openai:v0.32.0"


@pytest.mark.parametrize(
    ("case", "image", "engine"),
    [
        ("defaults", VLLM_IMAGE, "auto"),
        ("serverless-a100", VLLM_IMAGE, "auto"),
        ("serverless-t4", VLLM_IMAGE, "auto"),
        ("consumption", TORCH_IMAGE, "auto"),
        # Commands of the user's own were written for the image that there was.
        ("old-commands", TORCH_IMAGE, "auto"),
        ("custom-commands", "docker.io/library/python:3.12", "auto"),
        ("engine-transformers", TORCH_IMAGE, "transformers"),
        ("engine-of-an-old-file", TORCH_IMAGE, "transformers"),
        ("engine-vllm-on-a-cpu", "docker.io/vllm/vllm-openai-cpu:v0.32.0", "vllm"),
    ],
)
def test_the_engine_chooses_the_image_and_the_servers_setting(case: str, image: str, engine: str) -> None:
    container = container_of(case)
    assert container["image"] == image
    assert {entry["name"]: entry.get("value") for entry in container["env"]}["FJARR_ENGINE"] == engine
    # An image's entrypoint is replaced, vLLM's own server among them.
    assert container["command"][:2] == ["/bin/bash", "-c"]


def test_the_images_have_the_releases_that_the_requirements_name() -> None:
    files = PROVISION.parents[1] / "inference"
    assert "\nvllm==0.32.*\n" in (files / "requirements-vllm.txt").read_text(encoding="utf-8")
    assert VLLM_IMAGE.endswith(":v0.32.0")
    assert '"torch==2.13.0"' in (files.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert ":2.13.0-" in TORCH_IMAGE


def test_an_app_with_several_replicas_is_sticky_and_scales_by_the_users_rules() -> None:
    app = resources_of("scaled-out")["Microsoft.App/containerApps"]["properties"]
    assert app["configuration"]["ingress"]["stickySessions"] == {"affinity": "sticky"}
    scale = app["template"]["scale"]
    assert (scale["minReplicas"], scale["maxReplicas"]) == (0, 20)
    assert (scale["cooldownPeriod"], scale["pollingInterval"]) == (1800, 15)
    assert [rule["name"] for rule in scale["rules"]] == ["nights", "http"]
    alone = resources_of("defaults")["Microsoft.App/containerApps"]["properties"]
    assert alone["configuration"]["ingress"]["stickySessions"] == {"affinity": "none"}


def test_storage_is_closed_to_the_public_and_keeps_deleted_shares() -> None:
    found = resources_of("defaults")
    account = found["Microsoft.Storage/storageAccounts"]
    assert (account["kind"], account["sku"]) == ("StorageV2", {"name": "Standard_LRS"})
    assert account["properties"]["minimumTlsVersion"] == "TLS1_2"
    assert account["properties"]["allowBlobPublicAccess"] is False
    files = found["Microsoft.Storage/storageAccounts/fileServices"]
    assert files["properties"] == {"shareDeleteRetentionPolicy": {"enabled": True, "days": 7}}
    share = found["Microsoft.Storage/storageAccounts/fileServices/shares"]
    assert share["properties"] == {"enabledProtocols": "SMB", "shareQuota": 1024}


def test_every_resource_that_can_carries_the_tags() -> None:
    tagged = {type_ for type_, each in resources_of("named-resources").items() if each.get("tags")}
    assert tagged == {
        "Microsoft.Storage/storageAccounts",
        "Microsoft.OperationalInsights/workspaces",
        "Microsoft.App/managedEnvironments",
        "Microsoft.App/containerApps",
    }


def test_outputs_are_the_six_keys_of_the_config(compiled: dict[str, Any]) -> None:
    assert list(compiled["outputs"]) == [
        "SUBSCRIPTION_ID",
        "RESOURCE_GROUP_NAME",
        "STORAGE_ACCOUNT_NAME",
        "FILE_SHARE_NAME",
        "ACA_APP_NAME",
        "ACA_APP_ENDPOINT",
    ]

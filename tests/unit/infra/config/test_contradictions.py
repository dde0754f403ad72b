"""Settings of the server that contradict parameters, and those that only seem to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inference.settings import SETTINGS
from inference.supervisor.__main__ import CLOSE_S
from inference.supervisor.child import KILL_AFTER_S
from infra.config.contradictions import DRAIN_GRACE_S, GPU_COUNTS, STOP_MARGIN_S, find_contradictions
from infra.config.settings import Setting, Settings
from infra.config.template import Template, read_template

REPOSITORY = Path(__file__).resolve().parents[4]
TEMPLATE = read_template(REPOSITORY / "infra/provision/inference.json")


def found(
    *, is_local: bool = False, variables: dict[str, str] | None = None, **values: Any
) -> tuple[str, ...]:
    given = {**values, **({"environmentVariables": variables} if variables else {})}
    settings = Settings(tuple(Setting(name, value, "F") for name, value in given.items()))
    return find_contradictions(settings, TEMPLATE, is_local=is_local)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a replica that is killed with its requests": (
        {"variables": {"FJARR_DRAIN_GRACE_S": "60"}},
        (
            "terminationGracePeriodSeconds 60 (from the template's default): a replica may take 20 s longer "
            "to end than FJARR_DRAIN_GRACE_S 60 (from F), and would be killed before, with its requests; set "
            "terminationGracePeriodSeconds to 80 or more, or lower FJARR_DRAIN_GRACE_S"
        ),
    ),
    "the same with the server's default": (
        {"terminationGracePeriodSeconds": 44},
        (
            "terminationGracePeriodSeconds 44 (from F): a replica may take 20 s longer to end than "
            "FJARR_DRAIN_GRACE_S, which is 25, and would be killed before, with its requests; set "
            "terminationGracePeriodSeconds to 45 or more, or lower FJARR_DRAIN_GRACE_S"
        ),
    ),
    "a GPU that is not there": (
        {"gpu": "none", "variables": {"FJARR_DEVICE": "cuda"}},
        (
            "FJARR_DEVICE cuda (from F): there is no GPU on workloadProfileName Consumption (from the "
            "template's default)"
        ),
    ),
    "four bits on a CPU": (
        {"workloadProfileName": "Consumption", "variables": {"FJARR_QUANTIZATION": "nf4"}},
        (
            "FJARR_QUANTIZATION nf4 (from F): needs a GPU, and the model runs on a CPU by "
            "workloadProfileName Consumption (from F)"
        ),
    ),
    "flash attention on a CPU": (
        {"gpu": "none", "variables": {"FJARR_ATTENTION": "flash_attention_2"}},
        (
            "FJARR_ATTENTION flash_attention_2 (from F): needs a GPU, and the model runs on a CPU by "
            "workloadProfileName Consumption (from the template's default)"
        ),
    ),
    "four bits on a CPU that was chosen": (
        {"is_local": True, "variables": {"FJARR_QUANTIZATION": "int8", "FJARR_DEVICE": "cpu"}},
        (
            "FJARR_QUANTIZATION int8 (from F): needs a GPU, and the model runs on a CPU by FJARR_DEVICE cpu "
            "(from F)"
        ),
    ),
    "more GPUs than there are": (
        {"gpu": "a100x2", "variables": {"FJARR_TENSOR_PARALLEL": "4"}},
        "FJARR_TENSOR_PARALLEL 4 (from F): a replica on NC48-A100 has 2 GPUs",
    ),
    "a type that a T4 lacks": (
        {"gpu": "t4", "variables": {"FJARR_DTYPE": "bfloat16"}},
        "FJARR_DTYPE bfloat16 (from F): vLLM computes in float16 on a T4; leave it at auto",
    ),
    "flash attention on a T4": (
        {"gpu": "t4", "engine": "transformers", "variables": {"FJARR_ATTENTION": "flash_attention_2"}},
        "FJARR_ATTENTION flash_attention_2 (from F): a T4 does not support it; leave it at auto",
    ),
    "replicas without a node": (
        {"minReplicas": 2, "maxReplicas": 2, "maximumInstanceCount": 1},
        "maximumInstanceCount 1 (from F): minReplicas 2 (from F) need a node each",
    ),
    "a body that fills the memory": (
        {"gpu": "none", "variables": {"FJARR_MAX_BODY_BYTES": str(2**32)}},
        (
            "FJARR_MAX_BODY_BYTES 4294967296 (from F): one request may take more than a fourth of the "
            "replica's memory, containerMemory 8Gi (from the template's default)"
        ),
    ),
    "a server that Azure cannot call": (
        {"variables": {"FJARR_HOST": "127.0.0.2"}},
        "FJARR_HOST 127.0.0.2 (from F): Azure's ingress cannot call the server there; leave it out",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_contradiction(case: str) -> None:
    values, problem = CASES[case]
    assert found(**values) == (problem,)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"terminationGracePeriodSeconds": 45},
        {"terminationGracePeriodSeconds": 20, "variables": {"FJARR_DRAIN_GRACE_S": "0"}},
        {"gpu": "none"},
        {"gpu": "a100", "variables": {"FJARR_DEVICE": "cuda", "FJARR_QUANTIZATION": "nf4"}},
        {"gpu": "a100x2", "variables": {"FJARR_TENSOR_PARALLEL": "2"}},
        {"gpu": "a100x2", "variables": {"FJARR_TENSOR_PARALLEL": "auto"}},
        {"gpu": "t4", "variables": {"FJARR_DTYPE": "float16"}},
        {"gpu": "t4", "engine": "transformers", "variables": {"FJARR_DTYPE": "bfloat16"}},
        {"gpu": "a100", "minReplicas": 4, "maxReplicas": 4, "maximumInstanceCount": 1},
        {"minReplicas": 2, "maxReplicas": 2, "maximumInstanceCount": 1, "containerCpu": "12"},
        {"workloadProfileName": "my-gpu", "variables": {"FJARR_DEVICE": "cuda"}},
        {"gpu": "none", "engine": "vllm", "variables": {"FJARR_ATTENTION": "flash_attention_2"}},
        {"gpu": "none", "variables": {"FJARR_MAX_BODY_BYTES": str(2**31)}},
        {"variables": {"FJARR_HOST": "::"}},
        {"is_local": True, "gpu": "none", "variables": {"FJARR_DEVICE": "cuda", "FJARR_HOST": "127.0.0.1"}},
        {"defaultCommands": ["serve"], "terminationGracePeriodSeconds": 1},
    ],
)
def test_no_contradiction(values: dict[str, Any]) -> None:
    assert found(**values) == ()


@pytest.mark.parametrize(
    "values",
    [
        {"terminationGracePeriodSeconds": "long"},
        {"containerMemory": "much", "containerCpu": [], "minReplicas": "x", "environmentVariables": 3},
        {"variables": {"FJARR_DRAIN_GRACE_S": "nan", "FJARR_MAX_BODY_BYTES": "big", "FJARR_HOST": "?"}},
    ],
)
def test_what_is_not_valid_by_itself_is_left_out(values: dict[str, Any]) -> None:
    assert found(**values) == ()


def test_a_template_that_lacks_parameters_is_not_judged() -> None:
    assert find_contradictions(Settings(), Template({"minReplicas": 1}, {}), is_local=False) == ()


def test_the_numbers_are_the_servers() -> None:
    assert STOP_MARGIN_S == CLOSE_S + KILL_AFTER_S
    assert SETTINGS["drain_grace_s"].default == DRAIN_GRACE_S
    profiles = {str(row["profileType"]) for row in TEMPLATE.gpus.values() if row["profileType"]}
    assert set(GPU_COUNTS) >= profiles

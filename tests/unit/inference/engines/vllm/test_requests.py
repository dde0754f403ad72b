from __future__ import annotations

import math
import sys
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pytest

from inference.engines.protocol import GenerationRequest, Sampling, TokenLogprobs
from inference.engines.vllm.requests import read_logprobs, read_prompt_logprobs, sampling_parameters


@dataclass
class Known:
    """Be vLLM's `Logprob`."""

    logprob: float
    rank: int | None


def test_the_token_that_was_taken_is_not_among_the_likeliest_unless_it_is_one() -> None:
    step = {9: Known(-7.0, 120), 4: Known(-0.1, 1), 5: Known(-2.5, 2)}
    assert read_logprobs((9,), (step,), 2) == (TokenLogprobs(-7.0, ((4, -0.1), (5, -2.5))),)
    assert read_logprobs((5,), ({5: Known(-2.5, 2), 4: Known(-0.1, 1)},), 2) == (
        TokenLogprobs(-2.5, ((4, -0.1), (5, -2.5))),
    )
    assert read_logprobs((5,), ({5: Known(-2.5, 2)},), 0) == (TokenLogprobs(-2.5),)


def test_what_a_grammar_forbids_is_not_told() -> None:
    step = {4: Known(0.0, 1), 5: Known(-math.inf, 2)}
    assert read_logprobs((4,), (step,), 2) == (TokenLogprobs(0.0, ((4, 0.0),)),)


def test_a_prompt_s_own_token_has_its_rank() -> None:
    request = GenerationRequest("r1", "base", (1, 9, 4), 8, Sampling(), prompt_logprobs=1)
    steps = (None, {9: Known(-7.0, 120), 4: Known(-0.1, 1)}, {4: Known(-0.1, 1)})
    assert read_prompt_logprobs(request, steps) == (
        TokenLogprobs(-7.0, ((4, -0.1),), 120), TokenLogprobs(-0.1, ((4, -0.1),), 1),
    )  # fmt: skip
    # They come with the first tokens only.
    assert read_prompt_logprobs(request, ()) == ()


def test_nothing_is_told_to_who_did_not_ask() -> None:
    assert read_logprobs((4,), (), None) == ()


@pytest.fixture
def parameters_as_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace vLLM, which the tests' environment lacks, so that its parameters are a dictionary."""
    kinds = SimpleNamespace(DELTA="delta")
    values = SimpleNamespace(RequestOutputKind=kinds, StructuredOutputsParams=dict)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=dict))
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", values)


def parameters_of(sampling: Sampling) -> dict[str, Any]:
    request = GenerationRequest("r1", "base", (4,), 8, sampling)
    return dict(sampling_parameters(request, frozenset({2})))


@pytest.mark.usefixtures("parameters_as_dict")
def test_every_field_of_a_sampling_is_a_parameter_of_vllm() -> None:
    sampling = Sampling(0.5, 0.9, 40, 0.1, 1.0, -1.0, 1.5, ((7, 2.0),), seed=-1)
    expected = {field.name: getattr(sampling, field.name) for field in fields(Sampling)}
    found = parameters_of(sampling)
    assert {name: found[name] for name in expected} == expected | {"logit_bias": {7: 2.0}, "seed": 2**63 - 1}


@pytest.mark.usefixtures("parameters_as_dict")
def test_values_that_change_nothing_are_left_to_vllm() -> None:
    found = parameters_of(Sampling(top_k=1, top_p=0.3, min_p=0.2))
    assert (found["temperature"], found["top_p"], found["top_k"], found["min_p"]) == (0.0, 1.0, 0, 0.0)
    assert (found["logit_bias"], found["seed"]) == (None, None)

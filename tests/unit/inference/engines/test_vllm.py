"""What needs no vLLM; the engine itself is in the conformance suite."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inference.engines.protocol import TokenLogprobs
from inference.engines.vllm import MAX_LOGPROBS, engine_options, read_logprobs
from inference.models.hardware import Placement
from inference.models.weights import BaseModel, Weights
from inference.settings import Settings


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


def test_nothing_is_told_to_who_did_not_ask() -> None:
    assert read_logprobs((4,), (), None) == ()


def test_vllm_uses_llguidance_for_grammars_and_has_a_tokenizer_for_it() -> None:
    weights = Weights(BaseModel("org/base", "/share/base"), ())
    options = engine_options(weights, Settings(), Placement("cpu", "bfloat16", "none"), 8192)
    assert options["structured_outputs_config"] == {"backend": "guidance"}
    assert options["max_logprobs"] == MAX_LOGPROBS == 20
    assert not options.get("skip_tokenizer_init")

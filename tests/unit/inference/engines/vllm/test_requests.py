from __future__ import annotations

import math
from dataclasses import dataclass

from inference.engines.protocol import TokenLogprobs
from inference.engines.vllm.requests import read_logprobs


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

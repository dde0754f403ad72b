"""Convert requests to vLLM's parameters, and its log-probabilities to the protocol's.

Source: vLLM 0.32, `sampling_params.py`, `logprobs.py`.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from inference.engines.protocol import TokenLogprobs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vllm import SamplingParams
    from vllm.logprobs import Logprob

    from inference.engines.protocol import GenerationRequest


def sampling_parameters(request: GenerationRequest, ends: frozenset[int]) -> SamplingParams:
    """Return a request's sampling as vLLM's parameters. Only our own end tokens end a text."""
    from vllm import SamplingParams  # noqa: PLC0415 - takes seconds, and only this engine has it
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams  # noqa: PLC0415 - see above

    sampling = request.sampling
    if sampling.is_greedy:
        sampling = replace(sampling, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
    # vLLM has the same names; one that it lacks would fail here, not be ignored.
    values: dict[str, Any] = {field.name: getattr(sampling, field.name) for field in fields(sampling)}
    values["logit_bias"] = dict(sampling.logit_bias) or None
    # vLLM takes -1 for none, and torch no more than 64 bits.
    values["seed"] = None if sampling.seed is None else sampling.seed % 2**63
    grammar = request.grammar
    return SamplingParams(
        **values,
        max_tokens=request.max_new_tokens,
        logprobs=request.top_logprobs,
        prompt_logprobs=request.prompt_logprobs,
        structured_outputs=None if grammar is None else StructuredOutputsParams(grammar=grammar),
        min_tokens=request.stopping.min_tokens,
        stop_token_ids=sorted(request.stopping.ends(ends)),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def client_error_class() -> type[Exception]:
    """Return the root of vLLM's errors that a request causes."""
    from vllm.exceptions import VLLMClientError  # noqa: PLC0415 - takes seconds, and only this engine has it

    return VLLMClientError  # type: ignore[no-any-return]  # vLLM is not installed where types are checked


def read_logprobs(
    tokens: Sequence[int], steps: Sequence[Mapping[int, Logprob]], count: int | None
) -> tuple[TokenLogprobs, ...]:
    """Return the log-probabilities of each token and of the `count` likeliest; empty if `count` is None.

    Tokens that a grammar forbids have minus infinity, which JSON cannot represent: they are left out.
    """
    if count is None:
        return ()
    found = []
    for token, step in zip(tokens, steps, strict=True):
        # The sampled token is always among them, whatever its rank.
        ranked = sorted(step.items(), key=lambda item: item[1].rank or 0)[:count]
        top = tuple((token_id, known.logprob) for token_id, known in ranked if math.isfinite(known.logprob))
        found.append(TokenLogprobs(step[token].logprob, top))
    return tuple(found)


def read_prompt_logprobs(
    request: GenerationRequest, steps: Sequence[Mapping[int, Logprob] | None] | None
) -> tuple[TokenLogprobs, ...]:
    """Return the log-probabilities of the prompt's tokens but the first, for which vLLM has none.

    Args:
        request: The request.
        steps: What vLLM returns with the first tokens; empty with later ones.
    """
    known = [step for step in steps or () if step is not None]
    if not known:
        return ()
    tokens = request.prompt_token_ids[1:]
    return tuple(
        replace(entry, rank=step[token].rank)
        for token, step, entry in zip(
            tokens, known, read_logprobs(tokens, known, request.prompt_logprobs), strict=True
        )
    )

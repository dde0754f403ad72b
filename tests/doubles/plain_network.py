"""The answers of a plain transformers network, to which those of the server are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def continue_greedily(network: Any, context: Sequence[int], length: int = 5) -> list[int]:
    """Return the likeliest tokens after a context."""
    tokens = network.generate(torch.tensor([context]), max_new_tokens=length, do_sample=False, pad_token_id=0)
    return [int(token) for token in tokens[0, len(context) :]]


def score_continuation(
    network: Any, context: Sequence[int], continuation: Sequence[int]
) -> tuple[float, bool]:
    """Return a continuation's log-likelihood after a context, and whether it is the greedy one."""
    with torch.no_grad():
        scores = network(torch.tensor([[*context, *continuation]])).logits[0, len(context) - 1 : -1].float()
    logprobs = torch.log_softmax(scores, -1)
    wanted = torch.tensor(continuation)
    likelihood = logprobs.gather(-1, wanted.unsqueeze(-1)).sum().item()
    return likelihood, bool((logprobs.argmax(-1) == wanted).all())

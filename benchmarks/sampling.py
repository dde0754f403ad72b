# ruff: noqa: T201 - the result of a command line goes to stdout
"""Time what choosing the tokens of a step costs the engine `transformers`, without any network.

    python -m benchmarks.sampling --rows 8 32 --vocabulary 49152

Each way of choosing has a batch of its own, whose rows all choose that way. The ways take turns, and figures
are medians over rounds. Ratios compare with taking each row's largest score, which the manager does in every
step, and which is all there is to a greedy batch. Only they mean anything beyond one machine and one hour.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from inference.engines.protocol import GenerationRequest, Sampling
from inference.engines.transformers.constraint import Vocabulary
from inference.engines.transformers.sampling import ROW_KEY, Row, RowSampler

WARM_UP_STEPS: Final = 5
PROMPT_TOKENS: Final = 200
SCHEMA: Final = {
    "type": "array",
    "minItems": 500,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "minLength": 20}, "count": {"type": "integer"}},
        "required": ["name", "count"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True, slots=True)
class Way:
    """Say how all rows of a batch choose.

    Attributes:
        name: For the table.
        sampling: Each row's; a seed is made each row's own.
        top_logprobs: How many log-probabilities each row asks for, if any.
        has_grammar: Whether each row is held to a JSON Schema.
    """

    name: str
    sampling: Sampling
    top_logprobs: int | None = None
    has_grammar: bool = False


WAYS: Final = (
    Way("greedy", Sampling(0.0)),
    Way("temperature", Sampling(0.8)),
    Way("temperature, seed", Sampling(0.8, seed=1)),
    Way("temperature, top-p", Sampling(0.8, 0.95)),
    Way("temperature, top-p, seed", Sampling(0.8, 0.95, seed=1)),
    Way("temperature, top-k 50", Sampling(0.8, top_k=50)),
    Way("greedy, all penalties", Sampling(0.0, 1.0, 0, 0.0, 0.5, 0.5, 1.1)),
    Way("greedy, bias on 20 tokens", Sampling(0.0, logit_bias=tuple((token, 1.0) for token in range(20)))),
    Way("greedy, 5 logprobs", Sampling(0.0), 5),
    Way("greedy, JSON grammar", Sampling(0.0), has_grammar=True),
    Way("temperature, top-p, JSON grammar", Sampling(0.8, 0.95), has_grammar=True),
)


def make_vocabulary(size: int) -> Vocabulary:
    """Make up a tokenizer of a size: every byte, and then words, with and without a space before them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    stems = map(
        "".join, itertools.chain(*(itertools.product("etaoinsrhldcum", repeat=n) for n in (2, 3, 4, 5)))
    )
    words = (space + stem for stem in stems for space in ("", "Ġ"))
    names = itertools.islice(itertools.chain(["<end>"], letters, words), size)
    backend = Tokenizer(models.BPE(vocab={name: index for index, name in enumerate(names)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")  # noqa: S106 - a token of text
    return Vocabulary(tokenizer, frozenset({0}), size)


class Batch:
    """Hold some rows that choose in one way, and let them.

    Args:
        way: How.
        rows: How many.
        steps: How many tokens each is to choose at most.
        vocabulary: The tokens.
        scores: What the network said (rows, vocabulary), in every step.
    """

    def __init__(self, way: Way, rows: int, steps: int, vocabulary: Vocabulary, scores: torch.Tensor) -> None:
        grammar = f"start: %json {json.dumps(SCHEMA)}" if way.has_grammar else None
        prompt = tuple(range(300, 300 + PROMPT_TOKENS))
        requests = [
            GenerationRequest(str(row), "", prompt, steps, way.sampling, way.top_logprobs, grammar)
            for row in range(rows)
        ]
        constrained = [Row(each, vocabulary.constrain(grammar) if grammar else None) for each in requests]
        self._batch: list[Any] = [
            SimpleNamespace(state=SimpleNamespace(logit_processor_kwargs={ROW_KEY: row}), has_new_token=True)
            for row in constrained
        ]
        self._sampler = RowSampler()
        self._scores = scores

    def step(self) -> float:
        """Choose a token for each row, and return the seconds that it took, with the manager's own part."""
        scores = self._scores.roll(int(torch.randint(0, 1000, ())), dims=-1)
        nothing = torch.zeros(0)
        begin = _now(scores)
        self._sampler.prepare_tensor_args(self._batch, nothing)
        self._sampler(nothing, scores, nothing).argmax(-1)
        return _now(scores) - begin


def _now(scores: torch.Tensor) -> float:
    if scores.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(rows: int, size: int, steps: int, rounds: int, device: str) -> dict[str, tuple[float, ...]]:
    """Return each way's seconds a step, the median of each round."""
    vocabulary = make_vocabulary(size)
    # A few likely tokens and a long tail, like a network's.
    scores = (4 * torch.randn(rows, size, generator=torch.Generator().manual_seed(0))).to(device)
    batches = {way.name: Batch(way, rows, rounds * steps + WARM_UP_STEPS, vocabulary, scores) for way in WAYS}
    for batch in batches.values():
        for _ in range(WARM_UP_STEPS):
            batch.step()
    medians: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(rounds):
        for name, batch in batches.items():
            medians[name].append(statistics.median(batch.step() for _ in range(steps)))
    return {name: tuple(seconds) for name, seconds in medians.items()}


def make_table(measured: dict[int, dict[str, tuple[float, ...]]]) -> str:
    """Return Markdown: for each number of rows the milliseconds a step, and the ratio to the greedy ones."""
    head = ["a batch, all"]
    for rows in measured:
        head += [f"{rows} rows, ms", "ratio"]
    lines = [head, ["---"] * len(head)]
    for way in WAYS:
        cells = [way.name]
        for ways in measured.values():
            plain, seconds = ways[WAYS[0].name], ways[way.name]
            ratio = statistics.median(mine / theirs for mine, theirs in zip(seconds, plain, strict=True))
            cells += [f"{1000 * statistics.median(seconds):.2f}", f"{ratio:.1f}"]
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """Do what the command line asks for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description="Time the sampling.")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--steps", type=int, default=20, help="in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    measured = {
        rows: measure(rows, arguments.vocabulary, arguments.steps, arguments.rounds, arguments.device)
        for rows in arguments.rows
    }
    print(make_table(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# ruff: noqa: T201 - the result of a command line goes to stdout
"""Time the sampling of a step's tokens in the engine `transformers`, without a network.

    python -m benchmarks.sampling --rows 8 32 --vocabulary 49152

Each variant has its own batch, whose rows all sample in the same way. The variants are measured in turn, and
figures are medians over rounds. Ratios are relative to a greedy batch, which only takes each row's highest
score, as the manager does in every step. Only the ratios are comparable between machines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks import command_line
from inference.engines.protocol import GenerationRequest, Sampling
from inference.engines.transformers.constraint import Vocabulary
from inference.engines.transformers.rows import ROW_KEY, Row
from inference.engines.transformers.sampling import RowSampler

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
class Variant:
    """The sampling parameters of all rows of a batch.

    Attributes:
        name: The name in the table.
        sampling: The sampling parameters of each row.
        top_logprobs: The number of log-probabilities that each row asks for; None for none.
        has_grammar: Whether each row is constrained by a JSON Schema.
    """

    name: str
    sampling: Sampling
    top_logprobs: int | None = None
    has_grammar: bool = False


VARIANTS: Final = (
    Variant("greedy", Sampling(0.0)),
    Variant("temperature", Sampling(0.8)),
    Variant("temperature, seed", Sampling(0.8, seed=1)),
    Variant("temperature, top-p", Sampling(0.8, 0.95)),
    Variant("temperature, top-p, seed", Sampling(0.8, 0.95, seed=1)),
    Variant("temperature, top-k 50", Sampling(0.8, top_k=50)),
    Variant("greedy, all penalties", Sampling(0.0, 1.0, 0, 0.0, 0.5, 0.5, 1.1)),
    Variant(
        "greedy, bias on 20 tokens", Sampling(0.0, logit_bias=tuple((token, 1.0) for token in range(20)))
    ),
    Variant("greedy, 5 logprobs", Sampling(0.0), 5),
    Variant("greedy, JSON grammar", Sampling(0.0), has_grammar=True),
    Variant("temperature, top-p, JSON grammar", Sampling(0.8, 0.95), has_grammar=True),
)


def make_vocabulary(size: int) -> Vocabulary:
    """Return a vocabulary of a size: every byte, then made-up words, with and without a leading space."""
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
    """Rows that all sample with the same parameters.

    Args:
        variant: The sampling parameters.
        rows: The number of rows.
        steps: The maximum number of tokens of each row.
        vocabulary: The tokens.
        scores: The network's scores in every step (rows, vocabulary).
    """

    def __init__(
        self, variant: Variant, rows: int, steps: int, vocabulary: Vocabulary, scores: torch.Tensor
    ) -> None:
        grammar = f"start: %json {json.dumps(SCHEMA)}" if variant.has_grammar else None
        prompt = tuple(range(300, 300 + PROMPT_TOKENS))
        requests = [
            GenerationRequest(str(row), "", prompt, steps, variant.sampling, variant.top_logprobs, grammar)
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
        """Sample a token for each row, and return the seconds it took, the manager's argmax included."""
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
    """Return each variant's seconds a step, as the median of each round."""
    vocabulary = make_vocabulary(size)
    # A few likely tokens and a long tail, as networks give.
    scores = (4 * torch.randn(rows, size, generator=torch.Generator().manual_seed(0))).to(device)
    batches = {
        variant.name: Batch(variant, rows, rounds * steps + WARM_UP_STEPS, vocabulary, scores)
        for variant in VARIANTS
    }
    for batch in batches.values():
        for _ in range(WARM_UP_STEPS):
            batch.step()
    medians: dict[str, list[float]] = {name: [] for name in batches}
    for _ in range(rounds):
        for name, batch in batches.items():
            medians[name].append(statistics.median(batch.step() for _ in range(steps)))
    return {name: tuple(seconds) for name, seconds in medians.items()}


def make_table(measured: dict[int, dict[str, tuple[float, ...]]]) -> str:
    """Return a Markdown table with milliseconds a step and the ratio to greedy, for each number of rows."""
    head = ["a batch, all"]
    for rows in measured:
        head += [f"{rows} rows, ms", "ratio"]
    lines = [head, ["---"] * len(head)]
    for variant in VARIANTS:
        cells = [variant.name]
        for variants in measured.values():
            plain, seconds = variants[VARIANTS[0].name], variants[variant.name]
            ratio = statistics.median(mine / theirs for mine, theirs in zip(seconds, plain, strict=True))
            cells += [f"{1000 * statistics.median(seconds):.2f}", f"{ratio:.1f}"]
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """Run the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description="Time the sampling.")
    parser.add_argument("--rows", type=command_line.count, nargs="+", default=[8, 32])
    parser.add_argument("--vocabulary", type=command_line.count, default=49_152)
    parser.add_argument("--steps", type=command_line.count, default=20, help="in a round")
    parser.add_argument("--rounds", type=command_line.count, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    measured = {
        rows: measure(rows, arguments.vocabulary, arguments.steps, arguments.rounds, arguments.device)
        for rows in arguments.rows
    }
    print(make_table(measured))
    return 0


if __name__ == "__main__":
    command_line.run(main)

"""Train the ticket-triage adapter: LoRA on all linear layers of the base model, on the CPU.

    python examples/ticket-triage/train.py          about ten minutes on two cores; writes adapter/

The ticket is the user's message, and the two labels as JSON are the assistant's answer. The model's own chat
template formats them, with the system prompt that the template adds. The server's chat page and
`/v1/chat/completions` send the same, so a ticket needs no instructions.

The loss covers only the answer's tokens, and needless work is skipped: only their positions go through the
output layer (with 49,152 tokens a third of a step on a CPU), and the system prompt, which is the same for
every ticket, goes through the model once a batch (another third).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for infra

from tickets import HERE, Ticket, read_tickets

from infra.command_line import run_script

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# transformers and peft publish no types.
Network = Any
Tokenizer = Any

BASE_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"

# The base model's path on the share, relative to the mount, where the server finds it.
BASE_ON_SHARE = f"model-cache/{BASE_ID}"


@dataclass(frozen=True, slots=True)
class Recipe:
    """The hyperparameters of the training.

    Attributes:
        epochs: The number of passes over the tickets.
        batch: The number of tickets a step.
        learning_rate: The maximum; it rises over the first steps and falls to zero along a cosine.
        warmup: The share of the steps over which it rises.
        rank: The rank of the LoRA matrices.
        scale: LoRA's alpha divided by its rank.
        targets: The linear layers that get an adapter.
        seed: The seed of the tickets' order and the adapter's initial weights.
    """

    epochs: int = 1
    batch: int = 8
    learning_rate: float = 1.5e-3
    warmup: float = 0.06
    rank: int = 4
    scale: float = 2.0
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation as token ids, and the index where the answer starts."""

    ids: tuple[int, ...]
    answer_start: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The conversations of one step, split into their common prefix and the rest.

    Shapes: prefix (1, common tokens); ids, mask and is_answer (batch, longest rest). `mask` is False where a
    row is padded; `is_answer` is True for the tokens of the loss.
    """

    prefix: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    is_answer: torch.Tensor


def main() -> None:
    """Train the adapter, show the loss, and write the adapter."""
    options = _options()
    recipe = Recipe(options.epochs, learning_rate=options.learning_rate, rank=options.rank)
    base = options.base or _example_base()
    started = time.monotonic()
    dtype = getattr(torch, options.dtype) if options.dtype else faster_dtype()
    model, tokenizer = load(base, recipe, dtype)
    examples = [encode(ticket, tokenizer) for ticket in read_tickets("train")]
    tokens = sum(len(example.ids) for example in examples)
    print(f"{len(examples)} tickets, {tokens:,} tokens, {dtype}, {recipe}")
    train(model, examples, recipe, pad_id=tokenizer.pad_token_id)
    save(model, options.out)
    print(f"wrote {options.out} after {time.monotonic() - started:.0f} s; now run evaluate.py")


def load(base: Path, recipe: Recipe, dtype: torch.dtype) -> tuple[Network, Tokenizer]:
    """Return the base model with a new adapter, and its tokenizer."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - takes seconds, and --help does not need it
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - as above

    # peft 0.21 still reads the property by its old name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    torch.manual_seed(recipe.seed)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.rank,
        lora_alpha=round(recipe.scale * recipe.rank),
        target_modules=list(recipe.targets),
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), lora)
    return model, AutoTokenizer.from_pretrained(base)


def encode(ticket: Ticket, tokenizer: Tokenizer) -> Example:
    """Return a ticket and its answer in the chat template's format, with the end token."""
    question = [{"role": "user", "content": ticket.ticket}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    answer = tokenizer(ticket.answer)["input_ids"]
    return Example((*prompt, *answer, tokenizer.eos_token_id), len(prompt))


def train(model: Network, examples: Sequence[Example], recipe: Recipe, *, pad_id: int) -> None:
    """Fit the adapter's weights to the examples, in place.

    The result is reproducible on the same machine; other processors round differently.
    """
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, weight_decay=0.0)
    steps = recipe.epochs * math.ceil(len(examples) / recipe.batch)
    bar = ProgressBar(steps)
    for step, batch in enumerate(batches(examples, recipe)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * schedule(step, steps, recipe.warmup)
        loss = answer_loss(model, collate(batch, pad_id))
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        bar.advance(loss.item())


def batches(examples: Sequence[Example], recipe: Recipe) -> Iterator[list[Example]]:
    """Yield all examples once an epoch, in random order, in batches of similar length."""
    rng = random.Random(recipe.seed)  # noqa: S311 - an order, not a secret
    for _ in range(recipe.epochs):
        order = rng.sample(examples, len(examples))
        bucket = recipe.batch * 8
        sorted_buckets = (
            sorted(order[start : start + bucket], key=lambda example: len(example.ids))
            for start in range(0, len(order), bucket)
        )
        epoch = [
            part[start : start + recipe.batch]
            for part in sorted_buckets
            for start in range(0, len(part), recipe.batch)
        ]
        rng.shuffle(epoch)
        yield from epoch


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Return conversations as one batch, with their common prefix apart."""
    common = common_length([example.ids[: example.answer_start - 1] for example in examples])
    rests = [example.ids[common:] for example in examples]
    longest = max(len(rest) for rest in rests)
    positions = torch.arange(longest)
    mask = positions < torch.tensor([len(rest) for rest in rests])[:, None]
    starts = torch.tensor([example.answer_start - common for example in examples])
    return Batch(
        prefix=torch.tensor([examples[0].ids[:common]]),
        ids=torch.tensor([[*rest, *[pad_id] * (longest - len(rest))] for rest in rests]),
        mask=mask,
        is_answer=mask & (positions >= starts[:, None]),
    )


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """Return the length of the common prefix of all rows."""
    columns = zip(*rows, strict=False)  # as many as the shortest row has
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def answer_loss(model: Network, batch: Batch) -> torch.Tensor:
    """Return the mean cross-entropy of the answers' tokens.

    Shapes: hidden (batch, longest rest, width); logits (answer tokens, vocabulary).
    """
    from transformers import DynamicCache  # noqa: PLC0415 - as in load

    causal_lm = model.get_base_model()
    cache = DynamicCache()
    causal_lm.model(input_ids=batch.prefix, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(len(batch.ids))
    seen = torch.ones(len(batch.ids), batch.prefix.shape[1])
    hidden = causal_lm.model(
        input_ids=batch.ids,
        attention_mask=torch.cat([seen, batch.mask], dim=1).long(),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    # The position before a token predicts it.
    logits = causal_lm.lm_head(hidden[:, :-1][batch.is_answer[:, 1:]])
    return torch.nn.functional.cross_entropy(logits.float(), batch.ids[:, 1:][batch.is_answer[:, 1:]])


def faster_dtype() -> torch.dtype:
    """Return bfloat16 if this processor is faster in it than in float32; many only emulate it, slowly."""
    return min((torch.float32, torch.bfloat16), key=_matmul_time_s)


def _matmul_time_s(dtype: torch.dtype) -> float:
    left, right = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - started)
    return min(times)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Return a step's learning rate relative to the maximum: a linear rise, then a cosine to zero."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def save(model: Network, folder: Path) -> None:
    """Write the adapter, replacing an older one, with the base model's path on the share."""
    card = (folder / "README.md").read_text(encoding="utf-8") if (folder / "README.md").exists() else None
    shutil.rmtree(folder, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = BASE_ON_SHARE
    # PEFT would read the base's vocabulary from that path; this adapter does not change the embeddings.
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])  # a set, whose order varies
    (folder / "adapter_config.json").write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")


class ProgressBar:
    """The progress of the training: one updated line on a terminal, elsewhere a line every ten steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._step = 0
        self._loss: float | None = None
        self._started = time.monotonic()

    def advance(self, loss: float) -> None:
        """Count a step and its loss."""
        self._step += 1
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        is_terminal = sys.stderr.isatty()
        if is_terminal or self._step % 10 == 0 or self._step == self._steps:
            sys.stderr.write(("\r" if is_terminal else "") + self._line() + ("" if is_terminal else "\n"))
        if is_terminal and self._step == self._steps:
            sys.stderr.write("\n")

    def _line(self) -> str:
        spent = time.monotonic() - self._started
        left = spent / self._step * (self._steps - self._step)
        done = round(24 * self._step / self._steps)
        return (
            f"[{'#' * done}{'.' * (24 - done)}] step {self._step}/{self._steps}  loss {self._loss:.4f}  "
            f"{spent:.0f} s gone, {left:.0f} s to go"
        )


def _example_base() -> Path:
    from infra.models.base_models import ensure_example_base  # noqa: PLC0415 - not needed with --base

    return ensure_example_base()


def _model_folder(text: str) -> Path:
    if not Path(text, "config.json").is_file():
        raise argparse.ArgumentTypeError(f"there is no config.json in {text}")
    return Path(text)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _options() -> argparse.Namespace:
    recipe = Recipe()
    parser = argparse.ArgumentParser(description="Train the ticket-triage adapter.")
    parser.add_argument(
        "--base",
        type=_model_folder,
        help="a folder with the base model; by default it is downloaded and cached",
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "adapter", help="the folder to write the adapter to"
    )
    parser.add_argument("--epochs", type=_count, default=recipe.epochs)
    parser.add_argument("--rank", type=_count, default=recipe.rank)
    parser.add_argument("--learning-rate", type=float, default=recipe.learning_rate)
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float32"),
        help="the type that the base model computes in; by default the faster one on this processor",
    )
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run_script(main)

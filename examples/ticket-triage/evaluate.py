"""Compare the adapter with its base model on tickets that neither has seen, and write the scores.

    python examples/ticket-triage/evaluate.py            the adapter and the base
    python examples/ticket-triage/evaluate.py --tuned    only the adapter; the base's scores are kept

Writes `results.json`, and from it the tables in README.md. To be fair to the base, it gets instructions in
four prompts, two of them with five worked examples; of each kind the best one on validation tickets is used
for the held-out ones. Replies are also parsed leniently: the first JSON object anywhere in them counts.

Decoding is greedy throughout.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository, for infra.models.base_models

from tickets import CATEGORIES, HERE, PRIORITIES, Ticket, read_tickets
from train import common_length, faster_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULTS = HERE / "results.json"
README = HERE / "README.md"

INSTRUCTIONS = """\
You sort support tickets of a shop for smart home devices. Answer with one line of JSON and nothing else:
{"category": "<category>", "priority": "<priority>"}
category is one of:
- billing: payments, invoices, refunds, prices, subscriptions
- delivery: parcels, shipping, wrong or missing items, returns
- account: signing in, passwords, users and their rights, personal data
- defect: a device or the app does not work as it should
- question: how to do something, what fits what, wishes; nothing is wrong
priority is one of:
- high: the writer says that it is urgent: work stands still, somebody is in danger, a deadline is near
- low: the writer says that there is no hurry
- normal: everything else"""

# The index in heldout.jsonl of the ticket that README.md shows.
SHOWN_ROW = 1

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The labels of one reply; None where it cannot be parsed."""

    category: str | None
    priority: str | None

    @property
    def is_valid(self) -> bool:
        """Return whether both labels exist."""
        return self.category in CATEGORIES and self.priority in PRIORITIES


@dataclass(frozen=True, slots=True)
class Score:
    """The scores of replies, as shares of all tickets.

    Attributes:
        tickets: The number of tickets.
        exact: The whole reply is the JSON object with both labels correct.
        exact_lenient: Both labels are correct in the first JSON object in the reply.
        category: The category is correct, parsed leniently.
        priority: The priority is correct, parsed leniently.
        invalid: The whole reply is not a JSON object with two existing labels.
    """

    tickets: int
    exact: float
    exact_lenient: float
    category: float
    priority: float
    invalid: float


def parse_strictly(reply: str) -> Answer:
    """Parse a reply that must be only the JSON object."""
    return _read_object(reply.strip())


def parse_leniently(reply: str) -> Answer:
    """Parse the first JSON object anywhere in a reply, in any letter case."""
    found = re.search(r"\{[^{}]*\}", reply)
    return _read_object(found.group(0).lower()) if found else Answer(None, None)


def score(tickets: Sequence[Ticket], replies: Sequence[str]) -> Score:
    """Compare replies with the tickets' labels."""
    strict = [parse_strictly(reply) for reply in replies]
    lenient = [parse_leniently(reply) for reply in replies]

    def share(answers: Sequence[Answer], is_hit: Callable[[Answer, Ticket], bool]) -> float:
        hits = sum(is_hit(answer, ticket) for answer, ticket in zip(answers, tickets, strict=True))
        return round(hits / len(tickets), 4)

    return Score(
        tickets=len(tickets),
        exact=share(strict, _is_right),
        exact_lenient=share(lenient, _is_right),
        category=share(lenient, lambda answer, ticket: answer.category == ticket.category),
        priority=share(lenient, lambda answer, ticket: answer.priority == ticket.priority),
        invalid=share(strict, lambda answer, _: not answer.is_valid),
    )


def ticket_only(ticket: Ticket) -> Messages:
    """Return the ticket without instructions, as the tuned model gets it."""
    return [{"role": "user", "content": ticket.ticket}]


def instructions_as_system_prompt(ticket: Ticket) -> Messages:
    """Return the instructions as the system prompt, then the ticket."""
    return [{"role": "system", "content": INSTRUCTIONS}, *ticket_only(ticket)]


def instructions_in_message(ticket: Ticket) -> Messages:
    """Return one message: the instructions, the ticket and a reminder."""
    return [{"role": "user", "content": f"{INSTRUCTIONS}\n\nTicket:\n{ticket.ticket}\n\nJSON:"}]


def examples_as_messages(ticket: Ticket) -> Messages:
    """Return the instructions, five tickets with the assistant's answers, then the ticket."""
    examples = [
        message for shown in _worked_examples() for message in (*ticket_only(shown), _reply(shown.answer))
    ]
    return [{"role": "system", "content": INSTRUCTIONS}, *examples, *ticket_only(ticket)]


def examples_in_message(ticket: Ticket) -> Messages:
    """Return one message: the instructions, five tickets with their JSON, and the ticket."""
    shown = "\n\n".join(
        f"Ticket:\n{example.ticket}\nJSON: {example.answer}" for example in _worked_examples()
    )
    return [{"role": "user", "content": f"{INSTRUCTIONS}\n\n{shown}\n\nTicket:\n{ticket.ticket}\nJSON:"}]


ZERO_SHOT = (instructions_as_system_prompt, instructions_in_message)
FIVE_SHOT = (examples_as_messages, examples_in_message)


class Model:
    """The base model, with the adapter or without it; decodes greedily."""

    def __init__(self, base: Path, adapter: Path | None) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - takes seconds

        self._tokenizer = AutoTokenizer.from_pretrained(base)
        self._model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=faster_dtype())
        if adapter is not None:
            from peft import PeftModel  # noqa: PLC0415 - as above

            self._model = PeftModel.from_pretrained(self._model, adapter).merge_and_unload()
        self._model.eval()

    def reply(self, conversations: Sequence[Messages], *, max_new_tokens: int, batch: int = 16) -> list[str]:
        """Return one reply for each conversation, in order."""
        # Sorted by length, so that batches need little padding.
        order = sorted(range(len(conversations)), key=lambda index: len(str(conversations[index])))
        replies = [""] * len(conversations)
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            texts = self._reply_batch([conversations[index] for index in part], max_new_tokens)
            for index, text in zip(part, texts, strict=True):
                replies[index] = text
            _show_progress(min(start + batch, len(order)), len(order))
        return replies

    @torch.inference_mode()
    def _reply_batch(self, conversations: list[Messages], max_new_tokens: int) -> list[str]:
        """Reply to a batch of conversations; their common prefix goes through the model once."""
        from transformers import DynamicCache  # noqa: PLC0415 - as above

        prompts = [self._encode(messages) for messages in conversations]
        common = common_length([prompt[:-1] for prompt in prompts])
        cache = DynamicCache()
        self._model(input_ids=torch.tensor([prompts[0][:common]]), past_key_values=cache)
        cache.batch_repeat_interleave(len(prompts))
        longest = max(len(prompt) for prompt in prompts)
        padded = [_padded(prompt, common, longest) for prompt in prompts]
        made = self._model.generate(
            input_ids=torch.tensor([ids for ids, _ in padded]),
            attention_mask=torch.tensor([mask for _, mask in padded]),
            past_key_values=cache,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        replies: list[str] = self._tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)
        return replies

    def _encode(self, messages: Messages) -> list[int]:
        encoded = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        ids: list[int] = encoded["input_ids"]
        return ids


def measure_tuned(model: Model) -> dict[str, Any]:
    """Return the adapter's scores, and its reply to the ticket that README.md shows."""
    scores = {}
    for split in ("heldout", "combinations", "validation"):
        tickets = read_tickets(split)
        scores[split] = asdict(
            score(tickets, model.reply([ticket_only(ticket) for ticket in tickets], max_new_tokens=24))
        )
        print(f"tuned, {split}: {scores[split]}")
    return {
        "scores": scores,
        "shown_reply": model.reply([ticket_only(_shown_ticket())], max_new_tokens=64)[0],
    }


def measure_base(model: Model, every: int) -> dict[str, Any]:
    """Return the base's scores with its best prompts, and its replies to the ticket that README.md shows.

    Its prompts and replies are long, so it can be evaluated on every Nth ticket only.
    """
    zero_shot, five_shot = (_best_prompt(model, prompts, every) for prompts in (ZERO_SHOT, FIVE_SHOT))
    return {
        "zero_shot": _measure_prompt(model, zero_shot, every),
        "five_shot": _measure_prompt(model, five_shot, every),
        "shown_reply_ticket_only": model.reply([ticket_only(_shown_ticket())], max_new_tokens=160)[0],
        "shown_reply_instructed": model.reply([zero_shot(_shown_ticket())], max_new_tokens=64)[0],
    }


def results_table(results: dict[str, Any]) -> str:
    """Return the scores as a Markdown table."""
    base, tuned = results["base"], results["tuned"]["scores"]
    rows = [
        ("base, instructions", base["zero_shot"]["score"]),
        ("base, instructions and five examples", base["five_shot"]["score"]),
        ("**fine-tuned, only the ticket**", tuned["heldout"]),
        ("fine-tuned, known sentences in new pairs", tuned["combinations"]),
    ]
    lines = [
        "| model | tickets | exact match | exact match, lenient | category | priority | invalid JSON |",
        "|---|---|---|---|---|---|---|",
        *(_table_row(name, row) for name, row in rows),
    ]
    return "\n".join(lines)


def shown_answers(results: dict[str, Any]) -> str:
    """Return the two models' replies to one held-out ticket, side by side, as Markdown."""
    ticket, base = _shown_ticket(), results["base"]
    return "\n".join(
        [
            "The ticket:",
            "",
            _quote(ticket.ticket),
            "",
            "| the base model | the fine-tuned model |",
            "|---|---|",
            f"| {_cell(base['shown_reply_ticket_only'])} | `{_cell(results['tuned']['shown_reply'])}` |",
            "",
            "With instructions, the base model answers:",
            "",
            _quote(base["shown_reply_instructed"]),
        ]
    )


def fill_readme(text: str, results: dict[str, Any]) -> str:
    """Return README.md with the parts between its markers regenerated."""
    for name, block in (("results", results_table(results)), ("answers", shown_answers(results))):
        start, end = f"<!-- {name}: written by evaluate.py -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"README.md has no part between {start!r} and {end!r}")
        text = f"{before}{start}\n\n{block}\n\n{end}{after}"
    return text


def main() -> None:
    """Measure, then write `results.json` and README.md's tables."""
    options = _options()
    base = options.base or _example_base()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    started = time.monotonic()
    results["tuned"] = measure_tuned(Model(base, options.adapter))
    if not options.tuned:
        results["base"] = measure_base(Model(base, None), options.every)
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    README.write_text(fill_readme(README.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(f"\n{results_table(results)}\n")
    print(f"wrote {RESULTS.name} and README.md after {time.monotonic() - started:.0f} s")


def _padded(prompt: list[int], common: int, longest: int) -> tuple[list[int], list[int]]:
    """Return a prompt padded to the longest behind the common prefix, and its attention mask."""
    gap = [0] * (longest - len(prompt))
    ones = [1] * len(prompt)
    return [*prompt[:common], *gap, *prompt[common:]], [*ones[:common], *gap, *ones[common:]]


def _read_object(text: str) -> Answer:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return Answer(None, None)
    if not isinstance(found, dict) or set(found) != {"category", "priority"}:
        return Answer(None, None)
    category, priority = found["category"], found["priority"]
    return Answer(
        category if isinstance(category, str) else None, priority if isinstance(priority, str) else None
    )


def _is_right(answer: Answer, ticket: Ticket) -> bool:
    return (answer.category, answer.priority) == (ticket.category, ticket.priority)


def _worked_examples() -> list[Ticket]:
    """Return five tickets of the training set, one of each category, with all three priorities."""
    wanted = zip(CATEGORIES, ("high", "low", "normal", "high", "low"), strict=True)
    tickets = read_tickets("train")
    return [
        next(ticket for ticket in tickets if (ticket.category, ticket.priority) == pair) for pair in wanted
    ]


def _reply(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def _best_prompt(
    model: Model, prompts: Sequence[Callable[[Ticket], Messages]], every: int
) -> Callable[[Ticket], Messages]:
    """Return the prompt with the best score on some of the validation tickets."""
    tickets = read_tickets("validation")[::every]

    def quality(prompt: Callable[[Ticket], Messages]) -> tuple[float, float]:
        found = score(tickets, model.reply([prompt(ticket) for ticket in tickets], max_new_tokens=48))
        print(f"base, {prompt.__name__}, {len(tickets)} validation tickets: {found}")
        return found.exact_lenient, found.category + found.priority

    return max(prompts, key=quality)


def _measure_prompt(model: Model, prompt: Callable[[Ticket], Messages], every: int) -> dict[str, Any]:
    tickets = read_tickets("heldout")[::every]
    found = score(tickets, model.reply([prompt(ticket) for ticket in tickets], max_new_tokens=48))
    print(f"base, {prompt.__name__}, heldout: {found}")
    return {"prompt": prompt.__name__, "score": asdict(found)}


def _shown_ticket() -> Ticket:
    return read_tickets("heldout")[SHOWN_ROW]


def _table_row(name: str, row: dict[str, Any]) -> str:
    shares = " | ".join(
        f"{row[key]:.2f}" for key in ("exact", "exact_lenient", "category", "priority", "invalid")
    )
    return f"| {name} | {row['tickets']} | {shares} |"


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().splitlines())


def _cell(text: str) -> str:
    return text.strip().replace("|", "\\|").replace("\n", "<br>")


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done}/{total} tickets" + ("\n" if done == total else ""))


def _example_base() -> Path:
    from infra.models.base_models import ensure_example_base  # noqa: PLC0415 - not needed with --base

    return ensure_example_base()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the ticket-triage adapter against its base model.")
    parser.add_argument(
        "--base", type=Path, help="a folder with the base model; by default it is downloaded and cached"
    )
    parser.add_argument("--adapter", type=Path, default=HERE / "adapter")
    parser.add_argument("--tuned", action="store_true", help="measure only the adapter")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        metavar="N",
        help="evaluate the base, which is slow, on every Nth ticket only",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()

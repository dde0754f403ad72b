# ruff: noqa: E402 - the repository must be on the path before its packages
"""Compare the adapter with its base model on tickets that neither has seen, and write the scores.

    invoke up --stage local
    python examples/ticket-triage/evaluate.py            the adapter and the base
    python examples/ticket-triage/evaluate.py --tuned    only the adapter; the base's scores are kept

Writes `results.json`, and from it the tables in README.md. `infra.evaluation` asks the models and scores the
answers, as `invoke evaluate` does. Here is what is special about this task: the prompts of the base, and what
counts as an answer. To be fair to the base, it gets instructions in four prompts, two of them with five
worked examples; of each kind the best one on validation tickets is used for the held-out ones. Replies are
also parsed leniently: the first JSON object anywhere in them counts.

Decoding is greedy throughout.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for infra

from tickets import CATEGORIES, HERE, PRIORITIES, Ticket, read_tickets

from infra.command_line import run_script
from infra.console import Console
from infra.errors import UsageError
from infra.evaluation.asking import Candidate, Endpoint, Options
from infra.evaluation.evaluation import Work, finish, run
from infra.evaluation.examples import Example, Message
from infra.evaluation.metrics import Metric
from infra.interrupts import INTERRUPTED
from infra.resources.model_endpoint import find_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from infra.evaluation.results import Evaluation

RESULTS = HERE / "results.json"
README = HERE / "README.md"
REPORTS = ROOT / ".fjarr" / "evaluations"
BASE, TUNED = "HuggingFaceTB/SmolLM2-135M-Instruct", "ticket-triage"

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

Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """The labels of one reply; None where it cannot be parsed."""

    category: str | None
    priority: str | None

    @property
    def is_valid(self) -> bool:
        """Return whether both labels exist."""
        return self.category in CATEGORIES and self.priority in PRIORITIES


def parse_strictly(reply: str) -> Answer:
    """Parse a reply that must be only the JSON object."""
    return _read_object(reply.strip())


def parse_leniently(reply: str) -> Answer:
    """Parse the first JSON object anywhere in a reply, in any letter case."""
    found = re.search(r"\{[^{}]*\}", reply)
    return _read_object(found.group(0).lower()) if found else Answer(None, None)


def make_metrics() -> tuple[Metric, ...]:
    """Return the scores of a reply.

    `exact` is for a whole reply that is the JSON object with both labels right; `exact_lenient`, `category`
    and `priority` are for the first JSON object in it; `invalid` is for a reply that is not an object with
    two existing labels.
    """

    def of(
        parse: Callable[[str], Answer], is_hit: Callable[[Answer, Answer], bool]
    ) -> Callable[[tuple[str, ...], str], float]:
        return lambda accepted, reply: float(is_hit(parse(reply), parse_strictly(accepted[0])))

    return (
        Metric("exact", "the reply is the right JSON", of(parse_strictly, _is_same)),
        Metric("exact_lenient", "the first JSON in it is right", of(parse_leniently, _is_same)),
        Metric(
            "category", "its category is right", of(parse_leniently, lambda a, b: a.category == b.category)
        ),
        Metric(
            "priority", "its priority is right", of(parse_leniently, lambda a, b: a.priority == b.priority)
        ),
        Metric("invalid", "the reply is no answer", of(parse_strictly, lambda a, _: not a.is_valid)),
    )


def make_examples(tickets: Sequence[Ticket]) -> tuple[Example, ...]:
    """Return tickets as examples: the ticket alone, as the tuned model gets it."""
    return tuple(
        Example(str(number), ({"role": "user", "content": ticket.ticket},), (ticket.answer,))
        for number, ticket in enumerate(tickets, start=1)
    )


def instructions_as_system_prompt(ticket: Messages) -> Messages:
    """Return the instructions as the system prompt, then the ticket."""
    return ({"role": "system", "content": INSTRUCTIONS}, *ticket)


def instructions_in_message(ticket: Messages) -> Messages:
    """Return one message: the instructions, the ticket and a reminder."""
    return ({"role": "user", "content": f"{INSTRUCTIONS}\n\nTicket:\n{ticket[0]['content']}\n\nJSON:"},)


def examples_as_messages(ticket: Messages) -> Messages:
    """Return the instructions, five tickets with the assistant's answers, then the ticket."""
    examples = [
        message
        for shown in _worked_examples()
        for message in (
            {"role": "user", "content": shown.ticket},
            {"role": "assistant", "content": shown.answer},
        )
    ]
    return ({"role": "system", "content": INSTRUCTIONS}, *examples, *ticket)


def examples_in_message(ticket: Messages) -> Messages:
    """Return one message: the instructions, five tickets with their JSON, and the ticket."""
    shown = "\n\n".join(
        f"Ticket:\n{example.ticket}\nJSON: {example.answer}" for example in _worked_examples()
    )
    text = f"{INSTRUCTIONS}\n\n{shown}\n\nTicket:\n{ticket[0]['content']}\nJSON:"
    return ({"role": "user", "content": text},)


ZERO_SHOT = (instructions_as_system_prompt, instructions_in_message)
FIVE_SHOT = (examples_as_messages, examples_in_message)


@dataclass(frozen=True, slots=True)
class Measure:
    """A server, and the folder for the reports.

    Attributes:
        endpoint: The server, with the adapter and its base.
        folder: The folder.
        every: The base, which is slow, is asked every Nth ticket only.
        console: Shows progress.
    """

    endpoint: Endpoint
    folder: Path
    every: int = 1
    console: Console = Console()  # noqa: RUF009 - it holds a stream, and nothing of a measure

    def evaluate(
        self, name: str, tickets: Sequence[Ticket], candidates: Sequence[Candidate], max_tokens: int
    ) -> Evaluation:
        """Evaluate candidates on tickets, and write the report."""
        work = Work(
            f"{name}.jsonl", make_examples(tickets), tuple(candidates), make_metrics(), self.folder / name,
            Options(max_tokens),
        )  # fmt: skip
        self.console.info(f"{name}, {len(tickets)} tickets:")
        results = run(work, self.console)
        finish(results)
        return results

    def tuned(self) -> Candidate:
        """Return the adapter, which gets only the ticket."""
        return Candidate("fine-tuned", TUNED, self.endpoint)

    def base(self, prompt: Callable[[Messages], Messages] | None = None) -> Candidate:
        """Return the base, with a prompt."""
        if prompt is None:
            return Candidate("base", BASE, self.endpoint)
        return Candidate(prompt.__name__, BASE, self.endpoint, prompt)


def measure_tuned(measure: Measure) -> dict[str, Any]:
    """Return the adapter's scores, and its reply to the ticket that README.md shows."""
    scores = {}
    for split in ("heldout", "combinations", "validation"):
        found = measure.evaluate(f"tuned-{split}", read_tickets(split), [measure.tuned()], 24)
        scores[split] = scores_of(found)[measure.tuned().name]
    return {"scores": scores, "shown_reply": _ask(measure, measure.tuned(), 64)}


def measure_base(measure: Measure) -> dict[str, Any]:
    """Return the base's scores with its best prompts, and its replies to the ticket that README.md shows."""
    zero_shot, five_shot = (
        _best_prompt(measure, prompts, name)
        for name, prompts in (("zero-shot", ZERO_SHOT), ("five-shot", FIVE_SHOT))
    )
    chosen = [measure.base(zero_shot), measure.base(five_shot)]
    found = measure.evaluate("base-heldout", read_tickets("heldout")[:: measure.every], chosen, 48)
    scores = scores_of(found)
    return {
        "zero_shot": {"prompt": zero_shot.__name__, "score": scores[zero_shot.__name__]},
        "five_shot": {"prompt": five_shot.__name__, "score": scores[five_shot.__name__]},
        "shown_reply_ticket_only": _ask(measure, measure.base(), 160),
        "shown_reply_instructed": _ask(measure, measure.base(zero_shot), 64),
    }


def scores_of(found: Evaluation) -> dict[str, dict[str, float]]:
    """Return each candidate's scores, as `results.json` has them."""
    return {
        model.name: {
            "tickets": len(found.rows),
            **{metric: round(score.mean, 4) for metric, score in model.scores.items()},
        }
        for model in found.models
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
    folder = REPORTS / f"{TUNED}-{time.time():.0f}"
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    started = time.monotonic()
    try:
        measure = Measure(_find_endpoint(options), folder, options.every)
        results["tuned"] = measure_tuned(measure)
        if not options.tuned:
            results["base"] = measure_base(measure)
    except KeyboardInterrupt:
        kept = f"the answers so far are in {folder}" if folder.exists() else "there are no answers yet"
        print(f"interrupted: {kept}; {RESULTS.name} and README.md are unchanged", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    README.write_text(fill_readme(README.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(f"\n{results_table(results)}\n")
    print(f"wrote {RESULTS.name} and README.md after {time.monotonic() - started:.0f} s")
    print(f"every reply is in the reports in {folder}")


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


def _is_same(answer: Answer, wanted: Answer) -> bool:
    return answer == wanted


def _worked_examples() -> list[Ticket]:
    """Return five tickets of the training set, one of each category, with all three priorities."""
    wanted = zip(CATEGORIES, ("high", "low", "normal", "high", "low"), strict=True)
    tickets = read_tickets("train")
    return [
        next(ticket for ticket in tickets if (ticket.category, ticket.priority) == pair) for pair in wanted
    ]


def _best_prompt(
    measure: Measure, prompts: Sequence[Callable[[Messages], Messages]], name: str
) -> Callable[[Messages], Messages]:
    """Return the prompt with the best score on some of the validation tickets."""
    tickets = read_tickets("validation")[:: measure.every]
    found = measure.evaluate(f"base-{name}-validation", tickets, [measure.base(each) for each in prompts], 48)
    scores = scores_of(found)

    def quality(prompt: Callable[[Messages], Messages]) -> tuple[float, float]:
        score = scores[prompt.__name__]
        return score["exact_lenient"], score["category"] + score["priority"]

    return max(prompts, key=quality)


def _ask(measure: Measure, candidate: Candidate, max_tokens: int) -> str:
    """Return a candidate's reply to the ticket that README.md shows."""
    found = measure.evaluate(f"shown-{candidate.name}", [_shown_ticket()], [candidate], max_tokens)
    return found.rows[0].answers[0].text


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


def _find_endpoint(options: argparse.Namespace) -> Endpoint:
    """Return the given server, or the one of a stage that runs."""
    from infra.session import open_session  # noqa: PLC0415 - not needed with --endpoint

    session = None if options.endpoint else open_session(ROOT, options.stage, Console(), start_cloud=False)
    endpoint = find_endpoint(options.endpoint, session, os.environ.get("OPENAI_API_KEY", ""))
    if endpoint is None:
        raise UsageError("there is neither an address nor a stage", hint="--stage NAME, or --endpoint URL")
    return endpoint


def _step(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the ticket-triage adapter against its base model.")
    parser.add_argument("--stage", default="local", help="the stage that serves both (default: local)")
    parser.add_argument("--endpoint", help="a server that serves both, in the stage's place")
    parser.add_argument("--tuned", action="store_true", help="measure only the adapter")
    parser.add_argument(
        "--every",
        type=_step,
        default=1,
        metavar="N",
        help="evaluate the base, which is slow, on every Nth ticket only",
    )
    return parser.parse_args()


if __name__ == "__main__":
    run_script(main)

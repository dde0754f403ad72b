"""Generate the data set: support tickets, each labelled with a category and a priority.

    python examples/ticket-triage/tickets.py        writes data/*.jsonl, the same bytes every time

A ticket is a problem (which determines the category), an urgency (which determines the priority; without one
it is `normal`) and small talk, combined from `wordings.toml`. There are four files:

    train.jsonl          the adapter is trained on these
    combinations.jsonl   the training set's sentences, in pairs of problem and urgency that it does not have
    validation.jsonl     its own sentences; used for every choice about data and training
    heldout.jsonl        its own sentences; used only to report the score

Requires only the standard library.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_Item = TypeVar("_Item")

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
CATEGORIES = ("billing", "delivery", "account", "defect", "question")
PRIORITIES = ("low", "normal", "high")
SEED = 2025

# The number of tickets for each of the fifteen pairs of category and priority.
SIZES = {"train": 140, "combinations": 10, "validation": 10, "heldout": 20}

# One in this many pairs of a problem and an urgency of the training sentences is reserved for `combinations`.
_RESERVED_PAIRS = 6

# The probabilities of features that real tickets have.
_HAS_GREETING = 0.5
_HAS_REMARK = 0.4
_HAS_CLOSING = 0.5
_NAMES_NO_URGENCY = 0.3
_IS_LOWER_CASE = 0.12
_LACKS_FINAL_STOP = 0.1
_HAS_TYPO = 0.12
_IS_ONE_PARAGRAPH = 0.5

# The minimum length of a word with a typo; shorter words would be hard to read.
_LONG_WORD = 6

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class Ticket:
    """One ticket with its two labels, and the sentences that it contains.

    Attributes:
        ticket: The customer's message.
        category: One of `CATEGORIES`.
        priority: One of `PRIORITIES`.
        problem: The location of the problem's sentence in `wordings.toml`: `list/category/position`.
        urgency: The location of the urgency's sentence, or None if the ticket names no urgency.
    """

    ticket: str
    category: str
    priority: str
    problem: str
    urgency: str | None

    @property
    def answer(self) -> str:
        """Return the exact answer that the model is to give."""
        return json.dumps({"category": self.category, "priority": self.priority})


class StableRandom:
    """A random generator with the same sequence for the same seed in every version of Python.

    Python guarantees that only for `random()`, so every method is built on it.
    Source: the Python library reference, module random, "Notes on Reproducibility".
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a data set, not a secret

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self._random.random() < probability

    def choice(self, items: Sequence[_Item]) -> _Item:
        """Return one of the items."""
        return items[int(self._random.random() * len(items))]

    def shuffled(self, items: Sequence[_Item]) -> list[_Item]:
        """Return all items in random order."""
        keys = [self._random.random() for _ in items]
        return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def read_wordings(path: Path = HERE / "wordings.toml") -> dict[str, Any]:
    """Return the sentences that tickets are made of."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def read_tickets(split: str, folder: Path = DATA) -> list[Ticket]:
    """Return the tickets of one file, in its order."""
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Ticket(**json.loads(line)) for line in lines]


def make_tickets(split: str, wordings: dict[str, Any]) -> list[Ticket]:
    """Return the tickets of one file, with every pair of category and priority equally often."""
    rng = StableRandom(f"{SEED}/{split}")
    tickets = [
        ticket
        for category in CATEGORIES
        for priority in PRIORITIES
        for ticket in _make_cell(split, category, priority, wordings, rng)
    ]
    return rng.shuffled(tickets)


def write_tickets(tickets: Sequence[Ticket], path: Path) -> None:
    """Write tickets as JSON lines."""
    lines = (json.dumps(asdict(ticket), ensure_ascii=False) + "\n" for ticket in tickets)
    path.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Write the four files."""
    wordings = read_wordings()
    DATA.mkdir(exist_ok=True)
    for split in SIZES:
        tickets = make_tickets(split, wordings)
        write_tickets(tickets, DATA / f"{split}.jsonl")
        print(f"{split}.jsonl: {len(tickets)} tickets")


def _make_cell(
    split: str, category: str, priority: str, wordings: dict[str, Any], rng: StableRandom
) -> Iterator[Ticket]:
    """Yield the tickets of one category and priority, with every sentence about equally often."""
    source = "train" if split == "combinations" else split
    problems = _SentenceCycle(wordings["problems"][category][source], rng)
    urgencies = _SentenceCycle(wordings["urgencies"][priority][source], rng)
    made = 0
    while made < SIZES[split]:
        problem, urgency = problems.next(), urgencies.next()
        if source == "train" and _is_reserved(problem[0], urgency[0]) != (split == "combinations"):
            continue
        is_silent = priority == "normal" and split != "combinations" and rng.chance(_NAMES_NO_URGENCY)
        text = _compose(problem[1], None if is_silent else urgency[1], _SmallTalk(wordings, source), rng)
        yield Ticket(
            ticket=text,
            category=category,
            priority=priority,
            problem=f"{source}/{category}/{problem[0]}",
            urgency=None if is_silent else f"{source}/{priority}/{urgency[0]}",
        )
        made += 1


def _is_reserved(problem: int, urgency: int) -> bool:
    """Return whether a pair of training sentences is for `combinations`; each sentence is in both files."""
    return (problem + urgency) % _RESERVED_PAIRS == 0


class _SentenceCycle:
    """Sentences with their positions in random order; all of them occur before any is repeated."""

    def __init__(self, sentences: Sequence[str], rng: StableRandom) -> None:
        self._all = list(enumerate(sentences))
        self._rng = rng
        self._remaining: list[tuple[int, str]] = []

    def next(self) -> tuple[int, str]:
        if not self._remaining:
            self._remaining = self._rng.shuffled(self._all)
        return self._remaining.pop()


@dataclass(frozen=True, slots=True)
class _SmallTalk:
    """The sentences around problem and urgency, and the names and numbers that fill placeholders."""

    wordings: dict[str, Any]
    source: str

    def maybe(self, kind: str, probability: float, rng: StableRandom) -> str:
        return rng.choice(self.wordings[kind][self.source]) if rng.chance(probability) else ""

    def fill(self, sentence: str, rng: StableRandom) -> str:
        sentence = _CHOICE.sub(lambda found: rng.choice(found.group(1).split("|")), sentence)
        fillers = self.wordings["fillers"]["train" if self.source == "validation" else self.source]
        for kind, values in fillers.items():
            while f"{{{kind}}}" in sentence:
                sentence = sentence.replace(f"{{{kind}}}", rng.choice(values), 1)
        return sentence


def _compose(problem: str, urgency: str | None, small_talk: _SmallTalk, rng: StableRandom) -> str:
    remark = small_talk.maybe("remarks", _HAS_REMARK, rng)
    sentences = rng.choice(
        [
            [problem, urgency, remark],
            [remark, problem, urgency],
            [problem, remark, urgency],
            [urgency, problem, remark],
        ]
    )
    body = _add_noise(" ".join(small_talk.fill(sentence, rng) for sentence in sentences if sentence), rng)
    greeting = small_talk.maybe("greetings", _HAS_GREETING, rng)
    closing = small_talk.fill(small_talk.maybe("closings", _HAS_CLOSING, rng), rng)
    glue = " " if rng.chance(_IS_ONE_PARAGRAPH) else "\n"
    return glue.join(part for part in (greeting, body, closing) if part)


def _add_noise(text: str, rng: StableRandom) -> str:
    """Return the text, sometimes with a typo, in lower case or without its final stop."""
    if rng.chance(_HAS_TYPO):
        text = _with_typo(text, rng)
    if rng.chance(_IS_LOWER_CASE):
        text = text.lower()
    if rng.chance(_LACKS_FINAL_STOP):
        text = text.rstrip(".")
    return text


def _with_typo(text: str, rng: StableRandom) -> str:
    """Return the text with two letters swapped inside a longer word."""
    words = text.split(" ")
    long = [index for index, word in enumerate(words) if len(word) >= _LONG_WORD and word.isalpha()]
    if long:
        index = rng.choice(long)
        word = words[index]
        at = 1 + rng.choice(range(len(word) - 3))
        words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


if __name__ == "__main__":
    main()

"""Make the data set: support tickets, each with the category and the priority that a person would give it.

    python examples/ticket-triage/tickets.py        writes data/*.jsonl, the same bytes every time

A ticket is a problem (which decides the category), an urgency (which decides the priority; without one it
is `normal`) and small talk, put together from `wordings.toml`. Four files come of it:

    train.jsonl          what the adapter is trained on
    combinations.jsonl   the training set's sentences, in pairs of problem and urgency that it does not have
    validation.jsonl     sentences of its own; every choice about data and training was made on it
    heldout.jsonl        sentences of its own; looked at only to report the score

Needs nothing but the standard library.
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

_Thing = TypeVar("_Thing")

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
CATEGORIES = ("billing", "delivery", "account", "defect", "question")
PRIORITIES = ("low", "normal", "high")
SEED = 2025

# Tickets for each of the fifteen pairs of category and priority.
SIZES = {"train": 140, "combinations": 10, "validation": 10, "heldout": 20}

# Of all pairs of a problem and an urgency of the training sentences, one in so many is kept apart.
_KEPT_PAIRS = 6

# How often a ticket has what real ones have.
_HAS_GREETING = 0.5
_HAS_REMARK = 0.4
_HAS_CLOSING = 0.5
_NAMES_NO_URGENCY = 0.3
_IS_LOWER_CASE = 0.12
_LACKS_FINAL_STOP = 0.1
_HAS_TYPO = 0.12
_IS_ONE_PARAGRAPH = 0.5

# Letters from which on a word may get a typo; in a shorter one it would be hard to read.
_LONG_WORD = 6

_CHOICE = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class Ticket:
    """Hold one ticket with its two labels, and which sentences it was made of.

    Attributes:
        ticket: The customer's message.
        category: One of `CATEGORIES`.
        priority: One of `PRIORITIES`.
        problem: Where the problem's sentence stands in `wordings.toml`: `list/category/position`.
        urgency: The same for the urgency's, or None if the ticket names no urgency.
    """

    ticket: str
    category: str
    priority: str
    problem: str
    urgency: str | None

    @property
    def answer(self) -> str:
        """Return what the model shall answer, to the letter."""
        return json.dumps({"category": self.category, "priority": self.priority})


class Dice:
    """Draw the same things for the same seed, in every version of Python.

    Only `random()` is promised to stay as it is, so everything is made of it.
    Source: the Python library reference, module random, "Notes on Reproducibility".
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a data set, not a secret

    def happens(self, probability: float) -> bool:
        """Return True as often as `probability` says."""
        return self._random.random() < probability

    def pick(self, things: Sequence[_Thing]) -> _Thing:
        """Return one of `things`."""
        return things[int(self._random.random() * len(things))]

    def shuffled(self, things: Sequence[_Thing]) -> list[_Thing]:
        """Return all of `things` in another order."""
        keys = [self._random.random() for _ in things]
        return [things[index] for index in sorted(range(len(things)), key=keys.__getitem__)]


def read_wordings(path: Path = HERE / "wordings.toml") -> dict[str, Any]:
    """Return the sentences that tickets are made of."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def read_tickets(split: str, folder: Path = DATA) -> list[Ticket]:
    """Return the tickets of one file, in its order."""
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Ticket(**json.loads(line)) for line in lines]


def make_tickets(split: str, wordings: dict[str, Any]) -> list[Ticket]:
    """Return all the tickets of one file, every pair of category and priority equally often."""
    dice = Dice(f"{SEED}/{split}")
    tickets = [
        ticket
        for category in CATEGORIES
        for priority in PRIORITIES
        for ticket in _make_cell(split, category, priority, wordings, dice)
    ]
    return dice.shuffled(tickets)


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
    split: str, category: str, priority: str, wordings: dict[str, Any], dice: Dice
) -> Iterator[Ticket]:
    """Yield the tickets of one category and priority, using every sentence about equally often."""
    source = "train" if split == "combinations" else split
    problems = _Deck(wordings["problems"][category][source], dice)
    urgencies = _Deck(wordings["urgencies"][priority][source], dice)
    made = 0
    while made < SIZES[split]:
        problem, urgency = problems.draw(), urgencies.draw()
        if source == "train" and _is_kept(problem[0], urgency[0]) != (split == "combinations"):
            continue
        is_silent = priority == "normal" and split != "combinations" and dice.happens(_NAMES_NO_URGENCY)
        text = _compose(problem[1], None if is_silent else urgency[1], _SmallTalk(wordings, source), dice)
        yield Ticket(
            ticket=text,
            category=category,
            priority=priority,
            problem=f"{source}/{category}/{problem[0]}",
            urgency=None if is_silent else f"{source}/{priority}/{urgency[0]}",
        )
        made += 1


def _is_kept(problem: int, urgency: int) -> bool:
    """Say whether a pair of training sentences is for `combinations`; each sentence is in both kinds."""
    return (problem + urgency) % _KEPT_PAIRS == 0


class _Deck:
    """Deal sentences with their positions, all of them before any comes again."""

    def __init__(self, sentences: Sequence[str], dice: Dice) -> None:
        self._cards = list(enumerate(sentences))
        self._dice = dice
        self._stack: list[tuple[int, str]] = []

    def draw(self) -> tuple[int, str]:
        if not self._stack:
            self._stack = self._dice.shuffled(self._cards)
        return self._stack.pop()


@dataclass(frozen=True, slots=True)
class _SmallTalk:
    """Give what stands around the two sentences that matter, and fill in names and numbers."""

    wordings: dict[str, Any]
    source: str

    def some(self, kind: str, probability: float, dice: Dice) -> str:
        return dice.pick(self.wordings[kind][self.source]) if dice.happens(probability) else ""

    def fill(self, sentence: str, dice: Dice) -> str:
        sentence = _CHOICE.sub(lambda found: dice.pick(found.group(1).split("|")), sentence)
        fillers = self.wordings["fillers"]["train" if self.source == "validation" else self.source]
        for kind, values in fillers.items():
            while f"{{{kind}}}" in sentence:
                sentence = sentence.replace(f"{{{kind}}}", dice.pick(values), 1)
        return sentence


def _compose(problem: str, urgency: str | None, small_talk: _SmallTalk, dice: Dice) -> str:
    remark = small_talk.some("remarks", _HAS_REMARK, dice)
    sentences = dice.pick(
        [
            [problem, urgency, remark],
            [remark, problem, urgency],
            [problem, remark, urgency],
            [urgency, problem, remark],
        ]
    )
    body = _roughen(" ".join(small_talk.fill(sentence, dice) for sentence in sentences if sentence), dice)
    greeting = small_talk.some("greetings", _HAS_GREETING, dice)
    closing = small_talk.fill(small_talk.some("closings", _HAS_CLOSING, dice), dice)
    glue = " " if dice.happens(_IS_ONE_PARAGRAPH) else "\n"
    return glue.join(part for part in (greeting, body, closing) if part)


def _roughen(text: str, dice: Dice) -> str:
    """Type the text as people in a hurry do, now and then."""
    if dice.happens(_HAS_TYPO):
        text = _with_typo(text, dice)
    if dice.happens(_IS_LOWER_CASE):
        text = text.lower()
    if dice.happens(_LACKS_FINAL_STOP):
        text = text.rstrip(".")
    return text


def _with_typo(text: str, dice: Dice) -> str:
    """Swap two letters inside of one longer word."""
    words = text.split(" ")
    long = [index for index, word in enumerate(words) if len(word) >= _LONG_WORD and word.isalpha()]
    if long:
        index = dice.pick(long)
        word = words[index]
        at = 1 + dice.pick(range(len(word) - 3))
        words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


if __name__ == "__main__":
    main()

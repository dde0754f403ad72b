"""The example's tickets: reproducible, and with held-out wordings."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "ticket-triage"
sys.path.insert(0, str(EXAMPLE))  # its scripts are run from there, and find each other there

import tickets  # noqa: E402 - after the line that makes it importable

SPLITS = tuple(tickets.SIZES)
LISTS = ("train", "validation", "heldout")
RUN_OF_WORDS = 5


def spelt_out(sentence: str) -> list[str]:
    """Return all expansions of a sentence with choices such as `[one|two]`."""
    found = re.search(r"\[([^\[\]]*)\]", sentence)
    if found is None:
        return [sentence]
    chosen = (sentence.replace(found.group(0), choice, 1) for choice in found.group(1).split("|"))
    return [whole for part in chosen for whole in spelt_out(part)]


def sentences(kind: str) -> dict[str, list[str]]:
    """Return all sentences of the lists of one name, such as `heldout`, by where they stand."""
    found: dict[str, list[str]] = {}

    def walk(table: dict[str, Any], path: str) -> None:
        for name, value in table.items():
            if isinstance(value, dict):
                walk(value, f"{path}/{name}")
            elif name == kind:
                found[path] = [whole for sentence in value for whole in spelt_out(sentence)]

    wordings = tickets.read_wordings()
    walk({name: table for name, table in wordings.items() if name != "fillers"}, "")
    return found


def runs_of_words(sentence: str) -> set[str]:
    words = re.findall(r"[a-z0-9'{}-]+", sentence.lower())
    return {" ".join(words[at : at + RUN_OF_WORDS]) for at in range(len(words) - RUN_OF_WORDS + 1)}


@pytest.mark.parametrize("split", SPLITS)
def test_the_committed_file_is_what_the_generator_makes(split: str, tmp_path: Path) -> None:
    made = tmp_path / "made.jsonl"
    tickets.write_tickets(tickets.make_tickets(split, tickets.read_wordings()), made)

    assert made.read_bytes() == (tickets.DATA / f"{split}.jsonl").read_bytes()


@pytest.mark.parametrize("split", SPLITS)
def test_every_pair_of_labels_is_equally_often(split: str) -> None:
    pairs = Counter((row.category, row.priority) for row in tickets.read_tickets(split))

    assert len(pairs) == 15
    assert set(pairs.values()) == {tickets.SIZES[split]}


@pytest.mark.parametrize(
    ("one", "other"), [("train", "heldout"), ("train", "validation"), ("validation", "heldout")]
)
def test_lists_share_no_sentence_and_no_run_of_five_words(one: str, other: str) -> None:
    left = {run for found in sentences(one).values() for sentence in found for run in runs_of_words(sentence)}
    right = {
        run for found in sentences(other).values() for sentence in found for run in runs_of_words(sentence)
    }
    short = {sentence for found in sentences(one).values() for sentence in found} & {
        sentence for found in sentences(other).values() for sentence in found
    }

    assert left & right == set()
    assert short == set()


def test_every_list_has_every_kind_of_sentence() -> None:
    kinds = {name: set(sentences(name)) for name in LISTS}

    assert kinds["train"] == kinds["validation"] == kinds["heldout"]
    assert len(kinds["train"]) == 11


@pytest.mark.parametrize("split", ["validation", "heldout"])
def test_tickets_are_made_of_their_own_lists_sentences_only(split: str) -> None:
    sources = {
        place.split("/")[0]
        for row in tickets.read_tickets(split)
        for place in (row.problem, row.urgency)
        if place is not None
    }

    assert sources == {split}


def test_no_ticket_occurs_in_two_files() -> None:
    texts = [row.ticket for split in SPLITS for row in tickets.read_tickets(split)]
    in_one_file = sum(len({row.ticket for row in tickets.read_tickets(split)}) for split in SPLITS)

    assert len(set(texts)) == in_one_file


def test_the_pairs_of_combinations_are_new_but_their_sentences_are_known() -> None:
    train, combinations = tickets.read_tickets("train"), tickets.read_tickets("combinations")
    known_pairs = {(row.problem, row.urgency) for row in train}

    assert known_pairs.isdisjoint((row.problem, row.urgency) for row in combinations)
    assert {row.problem for row in combinations} <= {row.problem for row in train}
    assert {row.urgency for row in combinations} <= {row.urgency for row in train}


def test_only_normal_tickets_may_name_no_urgency() -> None:
    silent = [row for split in SPLITS for row in tickets.read_tickets(split) if row.urgency is None]

    assert {row.priority for row in silent} == {"normal"}


def test_no_slot_and_no_choice_is_left_open() -> None:
    texts = [row.ticket for split in SPLITS for row in tickets.read_tickets(split)]

    assert [text for text in texts if re.search(r"[][{}|]", text)] == []


def test_an_answer_is_strict_json_with_the_two_labels() -> None:
    row = tickets.Ticket("Where is my parcel?", "delivery", "normal", "train/delivery/0", None)

    assert row.answer == '{"category": "delivery", "priority": "normal"}'
    assert json.loads(row.answer) == {"category": row.category, "priority": row.priority}


def test_a_typo_swaps_two_letters_inside_of_a_word() -> None:
    made = tickets._with_typo("the thermostat", tickets.StableRandom("any"))

    assert made != "the thermostat"
    assert sorted(made) == sorted("the thermostat")
    assert made.startswith("the t")
    assert made.endswith("t")

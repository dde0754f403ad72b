"""The scores that stay with an adapter."""

from __future__ import annotations

import pytest

from infra.models.adapter_index import ADAPTER_INDEX, AdapterIndex, IndexedAdapter
from infra.models.scores import AdapterScore, read_scores, write_score
from tests.doubles.memory_share import MemoryShare

SCORE = AdapterScore("heldout.jsonl", 300, "2026-01-02T03:04:05+00:00", "mine", {"exact_match": 0.8125})


def share_with(version: str) -> MemoryShare:
    share = MemoryShare()
    index = AdapterIndex({"mine": IndexedAdapter("models/mine/adapter", version)})
    share.write(ADAPTER_INDEX, index.render())
    return share


def test_a_score_is_read_back() -> None:
    share = share_with("1")
    write_score(share, "mine", SCORE)
    assert read_scores(share) == {"mine": SCORE}
    assert SCORE.to_text() == (
        "exact_match 0.812 on 300 examples of heldout.jsonl, 2026-01-02T03:04:05+00:00"
    )


def test_a_score_does_not_belong_to_other_files_of_the_same_name() -> None:
    share = share_with("1")
    write_score(share, "mine", SCORE)
    share.write(ADAPTER_INDEX, share_with("2").read(ADAPTER_INDEX) or b"")
    assert read_scores(share) == {}


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"version": "1"}', b'{"version": "1", "x": 2}'])
def test_a_damaged_score_is_none(content: bytes) -> None:
    share = share_with("1")
    share.write("models/mine/evaluation.json", content)
    assert read_scores(share) == {}


def test_a_share_without_adapters_has_no_scores() -> None:
    assert read_scores(MemoryShare()) == {}

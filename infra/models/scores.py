"""The scores of adapters on the share: how each did when it was evaluated before it became live.

    models/<name>/<version>/evaluation.json

A score belongs to one version of an adapter's files.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from infra.document import load_json
from infra.models.adapter_index import ADAPTER_INDEX, IndexedAdapter, parse_index

if TYPE_CHECKING:
    from collections.abc import Mapping

    from infra.share.protocol import Share

SCORE_FILE: Final = "evaluation.json"


@dataclass(frozen=True, slots=True)
class AdapterScore:
    """The scores of an adapter.

    Attributes:
        data: The name of the file with the examples.
        examples: The number of examples.
        time: When it was evaluated, in ISO format.
        baseline: What it was compared with.
        scores: The mean of each metric.
    """

    data: str
    examples: int
    time: str
    baseline: str
    scores: Mapping[str, float]

    def to_text(self) -> str:
        """Return the scores as a line."""
        scores = ", ".join(f"{metric} {score:.3f}" for metric, score in self.scores.items())
        return f"{scores} on {self.examples} examples of {self.data}, {self.time}"


def write_score(share: Share, name: str, score: AdapterScore) -> None:
    """Write the score of the version that is live under a name."""
    adapter = _live(share)[name]
    document = {"version": adapter.version, **asdict(score)}
    share.write(_path(adapter), (json.dumps(document, indent=2) + "\n").encode())


def read_scores(share: Share) -> dict[str, AdapterScore]:
    """Return the scores of the adapters that are live, by name."""
    live = _live(share)
    contents = share.read_all([_path(adapter) for adapter in live.values()])
    found = {}
    for (name, adapter), content in zip(live.items(), contents, strict=True):
        try:
            document = load_json(content or b"")
            if document.pop("version") == adapter.version:
                found[name] = AdapterScore(**document)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # there is none, or it is damaged
    return found


def _path(adapter: IndexedAdapter) -> str:
    return f"{adapter.folder.removesuffix('/adapter')}/{SCORE_FILE}"


def _live(share: Share) -> dict[str, IndexedAdapter]:
    index = parse_index(share.read(ADAPTER_INDEX) or b"")
    return {} if index is None else dict(index.adapters)

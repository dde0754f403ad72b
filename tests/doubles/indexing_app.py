"""A container app in memory whose replicas serve what the share's index of adapters lists."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from infra.az.revision import FailedAdapter, NoResponse, Replica, ServedVersion, VersionResponse
from infra.models.adapter_index import ADAPTER_INDEX
from tests.doubles.watching_app import WatchingApp

if TYPE_CHECKING:
    from infra.clock import Clock
    from infra.share.protocol import Share

APPLY_S = 1.0
"""How long a replica takes until it serves an index."""


class IndexingApp(WatchingApp):
    """An app with replicas that answer in turn, and each apply the index a second after it was written.

    Attributes:
        stuck: The replicas that go on serving what they do.
        failures: The versions that a replica cannot serve, by its name.
    """

    def __init__(self, share: Share, clock: Clock, replicas: int = 2) -> None:
        super().__init__(share, clock, replicas)
        self.stuck: set[str] = set()
        self.failures: dict[str, tuple[FailedAdapter, ...]] = {}
        self._applied: dict[str, dict[str, Any]] = {}
        self._seen: dict[str, tuple[str, float]] = {}

    def version(self) -> VersionResponse | NoResponse:
        """Return the answer of the next replica."""
        for replica in self.replicas("app--1"):
            self._apply(replica)
        answer = super().version()
        if isinstance(answer, NoResponse):
            return answer
        index = self._applied.get(answer.replica, {"generation": "", "adapters": {}})
        failed = {each.name: each for each in self.failures.get(answer.replica, ())}
        listed = index["adapters"].items()
        ids = {name: f"{name.partition('@')[0]}@{each['number']}" for name, each in listed}
        served = {name: each for name, each in listed if ids[name] not in failed}
        return replace(
            answer,
            adapters=tuple(served),
            adapter_versions=tuple(
                ServedVersion(name, each["number"], each["version"]) for name, each in served.items()
            ),
            adapter_generation=index["generation"],
            failed_adapters=tuple(each for name, each in failed.items() if name in ids.values()),
        )

    def _apply(self, replica: Replica) -> None:
        content = (self._share.read(ADAPTER_INDEX) or b"").decode()
        now_s = self._clock.elapsed_s()
        if self._seen.setdefault(replica.name, ("", now_s))[0] != content:
            self._seen[replica.name] = (content, now_s)
        is_due = now_s - self._seen[replica.name][1] >= APPLY_S
        if content and is_due and replica.name not in self.stuck:
            self._applied[replica.name] = json.loads(content)

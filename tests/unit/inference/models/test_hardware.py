from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from inference.models import hardware
from inference.models.hardware import Cores, detect_cores

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("limit", "quota"), [("max 100000", None), ("400000 100000", 4), ("50000 100000", 1), ("", None)]
)
def test_the_container_s_limit_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, quota: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(limit, encoding="utf-8")
    monkeypatch.setattr(hardware, "_CGROUP", tmp_path)
    assert detect_cores() == Cores(tuple(sorted(os.sched_getaffinity(0))), quota)

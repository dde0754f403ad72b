from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.generation.continuous_batching import continuous_api

from inference.engines.transformers.batcher import SchedulingManager


@pytest.mark.parametrize(("is_stopping", "logged"), [(True, 0), (False, 1)])
def test_a_loop_that_outlives_the_engine_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, *, is_stopping: bool, logged: int
) -> None:
    errors: list[str] = []
    monkeypatch.setattr(continuous_api.logger, "error", lambda text, **_: errors.append(text))
    ended: list[bool] = []
    steps = ThreadPoolExecutor(1)
    steps.shutdown()
    manager: Any = SchedulingManager.__new__(SchedulingManager)
    manager._steps = steps
    manager.is_stopping = is_stopping
    manager.model = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    manager.background_thread_status = SimpleNamespace(mark_as_stopped=lambda: ended.append(True))
    manager._handle_critical_error = lambda *_: None
    # An exit ends a thread, and Python prints nothing about it.
    with pytest.raises(SystemExit) if is_stopping else nullcontext():
        manager._run_generation_loop()
    assert ended == [True]
    assert len(errors) == logged
    assert all("cannot schedule new futures after shutdown" in error for error in errors)

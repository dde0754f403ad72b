"""Which weights `invoke up` pushes, by what is on the share and what the fine-tuning step left."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from infra.errors import UsageError
from infra.verbs import up as up_module
from tests.doubles.azure_stage import SUBSCRIPTION
from tests.doubles.memory_share import MemoryShare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from infra.session import Session


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch) -> MemoryShare:
    share = MemoryShare()

    @contextmanager
    def opened(_: Session) -> Iterator[MemoryShare]:
        yield share

    monkeypatch.setattr(up_module, "open_share", opened)
    return share


def hand_over(session: Session, group: str) -> None:
    config = {
        "SUBSCRIPTION_ID": SUBSCRIPTION,
        "RESOURCE_GROUP_NAME": group,
        "STORAGE_ACCOUNT_NAME": "acct",
        "FILE_SHARE_NAME": "share",
        "ACA_JOB_NAME": "job",
        "COMMANDS": ["cd /mount"],
    }
    (session.root / "infra/finetuning.config.json").write_text(json.dumps(config))


def test_an_empty_share_gets_the_example(session: Session, share: MemoryShare) -> None:
    assert up_module._needs_example(session)
    hand_over(session, "elsewhere")
    assert up_module._needs_example(session), "the fine-tuning step used another group, such as one on Azure"
    share.files["models/ticket-triage/adapter/adapter_config.json"] = b"{}"
    assert up_module._needs_example(session), "a newer example replaces an older one"


def test_an_adapter_of_the_user_stays_the_one_that_is_served(session: Session, share: MemoryShare) -> None:
    share.files["models/qlora/qlora/gpu_model/adapter/adapter_config.json"] = b"{}"
    assert not up_module._needs_example(session)
    hand_over(session, "MY-RG")
    assert not up_module._needs_example(session)


@pytest.mark.usefixtures("share")
def test_a_fine_tuning_step_that_has_not_ended_is_named(session: Session) -> None:
    hand_over(session, "my-rg")
    with pytest.raises(UsageError) as caught:
        up_module._needs_example(session)
    assert str(caught.value) == (
        "error: the fine-tuning step has left no adapter on the share share\n"
        "hint: run its job first, or add --adapter FOLDER"
    )


def test_an_adapter_that_cannot_be_served_stops_up_before_anything_is_created(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up_module, "provision", lambda *_, **__: pytest.fail("it was provisioned"))
    with pytest.raises(UsageError, match="there is no folder"):
        up_module.up(session, adapter=session.root / "nowhere")
    (session.root / "empty").mkdir()
    with pytest.raises(UsageError, match="is not an adapter that can be served"):
        up_module.up(session, adapter=session.root / "empty")

"""The access to a stage's file share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from infra.az.errors import NotFoundError
from infra.config.endpoint import write_config
from infra.resources.file_share import open_share
from tests.doubles.azure_stage import CONFIG, GONE, SUBSCRIPTION

if TYPE_CHECKING:
    from infra.session import Session
    from tests.doubles.scripted_az import ScriptedAz


def test_the_share_s_key_is_asked_for_once_however_often_the_share_is_opened(
    session: Session, az: ScriptedAz
) -> None:
    ask = "storage account show-connection-string"
    az.answers[ask] = GONE
    with pytest.raises(NotFoundError):
        open_share(session)
    az.answers[ask] = {"connectionString": "FileEndpoint=http://127.0.0.1:9/;AccountKey=c2VjcmV0"}
    for _ in range(2):
        with open_share(session):
            pass
    in_group = f"--resource-group my-rg --subscription {SUBSCRIPTION}"
    assert az.lines == [f"az {ask} --name acct {in_group} --output json"] * 2
    write_config(session.stage.config_path, replace(CONFIG, storage_account_name="other"))
    with open_share(session):
        pass
    assert az.lines[2:] == [f"az {ask} --name other {in_group} --output json"]

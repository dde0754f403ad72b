"""Flags that are kept: what is written to the file of stages, what is taken back, what is never written."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.config.kept import Edit, edited, is_secret_name, kept_flags, without_unset, write_kept
from infra.config.settings import Flags
from infra.config.stage import Stage, load_stage
from infra.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[4]
STAGES = (REPOSITORY / "infra/stages.toml").read_text(encoding="utf-8")
TEXTS = {"gpu", "location", "mountPath", "apiKey"}
SECRETS = {"apiKey"}


def stage(subscription: str | None = None, **overlay: Any) -> Stage:
    return Stage("s", "azure", subscription, None, None, tuple(overlay.items()), Path("c"), Path("d"))


def kept(flags: Flags, of: Stage) -> dict[str, Any]:
    return {edit.name: edit.value for edit in kept_flags(flags, of, TEXTS, SECRETS).edits}


def test_every_flag_of_a_provision_is_kept() -> None:
    flags = Flags("sub", "rg", "norwayeast", ("gpu=t4", "minReplicas=0", "environmentVariables.A=b"))
    assert kept(flags, stage()) == {
        "subscription": "sub",
        "resource_group": "rg",
        "location": "norwayeast",
        "gpu": "t4",
        "minReplicas": 0,
        "environmentVariables.A": "b",
    }


def test_what_is_kept_already_is_no_change() -> None:
    flags = Flags("sub", parameters=("gpu=t4", 'environmentVariables={"A": "b", "C": "d"}'))
    before = stage("sub", gpu="t4", environmentVariables={"A": "b"})
    assert kept(flags, before) == {"environmentVariables.C": "d"}


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "API_KEY",
        "FJARR_ADMIN_KEY",
        "AZURE_STORAGE_CONNECTION_STRING",
    ],
)
def test_a_secret_is_never_kept(name: str) -> None:
    flags = Flags(parameters=("apiKey=x", f"environmentVariables.{name}=x", "minReplicas=0"))
    found = kept_flags(flags, stage(), TEXTS, SECRETS)
    assert [edit.name for edit in found.edits] == ["minReplicas"]
    assert found.not_kept == ("apiKey", f"environmentVariables.{name}")


@pytest.mark.parametrize("name", ["FJARR_MAX_NEW_TOKENS", "FJARR_MAX_PER_KEY", "FJARR_KV_CACHE_TOKENS"])
def test_a_setting_of_the_server_is_no_secret(name: str) -> None:
    assert not is_secret_name(name)


def test_what_is_taken_back() -> None:
    before = stage("sub", gpu="t4", environmentVariables={"A": "b", "C": "d"}, tags={"x": "y"})
    flags = Flags(unset=("gpu", "environmentVariables.A", "subscription", "tags.x"))
    found = kept_flags(flags, before, TEXTS, SECRETS)
    after = without_unset(before, found)
    assert dict(after.overlay) == {"environmentVariables": {"C": "d"}, "tags": None}
    assert after.subscription is None
    whole = kept_flags(Flags(unset=("environmentVariables",)), before, TEXTS, SECRETS)
    assert "environmentVariables" not in dict(without_unset(before, whole).overlay)


def test_a_flag_may_replace_what_it_takes_back() -> None:
    before = stage(environmentVariables={"A": "b"})
    flags = Flags(parameters=("environmentVariables.A=b",), unset=("environmentVariables",))
    edits = kept_flags(flags, before, TEXTS, SECRETS).edits
    text = "[s]\ncloud = 'azure'\n[s.parameters]\nenvironmentVariables = {A = 'b', C = 'd'}\n"
    after = tomllib.loads(edited(text, "s", edits))
    assert after["s"]["parameters"]["environmentVariables"] == {"A": "b"}


def test_what_is_not_kept_cannot_be_taken_back() -> None:
    with pytest.raises(UsageError) as caught:
        kept_flags(Flags(unset=("gpus", "zzz")), stage(gpu="t4"), TEXTS, SECRETS)
    assert str(caught.value) == (
        "error: --unset takes back what stage 's' in infra/stages.toml keeps\n"
        "  gpus: is not kept; did you mean gpu?\n"
        "  zzz: is not kept\n"
        "hint: kept are: gpu"
    )


def test_the_file_keeps_its_comments_and_its_order(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    path = tmp_path / "infra/stages.toml"
    path.write_text(STAGES)
    path.chmod(0o640)
    flags = Flags("sub", parameters=("gpu=t4", "environmentVariables.A=b"))
    write_kept(tmp_path, "azure", kept_flags(flags, load_stage(tmp_path, "azure"), TEXTS, SECRETS))
    written = path.read_text()
    assert written == STAGES.replace(
        '[azure]\ncloud = "azure"\n',
        '[azure]\ncloud = "azure"\nsubscription = "sub"\n\n'
        '[azure.parameters]\ngpu = "t4"\nenvironmentVariables = {A = "b"}\n',
    )
    assert path.stat().st_mode & 0o777 == 0o640
    loaded = load_stage(tmp_path, "azure")
    assert dict(loaded.overlay) == {"gpu": "t4", "environmentVariables": {"A": "b"}}
    taken_back = kept_flags(Flags(unset=("gpu", "environmentVariables.A")), loaded, TEXTS, SECRETS)
    write_kept(tmp_path, "azure", taken_back)
    assert load_stage(tmp_path, "azure").overlay == ()
    assert load_stage(tmp_path, "local") == load_stage(tmp_path, "local")


EDITS = (Edit(("parameters", "environmentVariables", "A"), "x"), Edit(("parameters", "gpu"), "t4"))


@pytest.mark.parametrize(
    "text",
    [
        "s = {cloud='azure'}\n",
        "[s]\ncloud='azure'\n[s.parameters.environmentVariables]\n# why\nX='1'\n[t]\ncloud='local'\n",
        "[s]\ncloud='azure' # why\nparameters.x=1\n[t]\ncloud='local'\n",
        "[t]\ncloud='local'\n[s]\ncloud='azure' # no line end",
        "[s]\r\ncloud='azure'\r\n\r\n[t]\r\ncloud='local'\r\n",
    ],
)
def test_every_form_of_the_file_is_edited_without_another_change(text: str) -> None:
    before, after = tomllib.loads(text), edited(text, "s", EDITS)
    parameters = before["s"].setdefault("parameters", {})
    parameters.setdefault("environmentVariables", {})["A"] = "x"
    parameters["gpu"] = "t4"
    assert tomllib.loads(after) == before
    assert after.count("# why") == text.count("# why")
    assert after.count("\n") == after.count("\r\n") or "\r\n" not in text


def test_a_form_that_cannot_be_edited_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    path = tmp_path / "infra/stages.toml"
    path.write_text("azure.cloud='azure'\nlocal.cloud='local'\n")
    flags = kept_flags(Flags(parameters=("gpu=t4",)), replace(stage(), name="azure"), TEXTS, SECRETS)
    with pytest.raises(UsageError, match=r"write the table of stage 'azure' as \[azure\]"):
        write_kept(tmp_path, "azure", flags)
    assert path.read_text() == "azure.cloud='azure'\nlocal.cloud='local'\n"


def test_an_address_with_a_password_is_not_kept() -> None:
    values = ("DATABASE=postgres://ida:secret@host/db", "PAGE=https://host:8080/a@b", "MAIL=ida@host")
    found = kept_flags(
        Flags(parameters=tuple(f"environmentVariables.{value}" for value in values)), stage(), TEXTS, SECRETS
    )
    assert found.not_kept == ("environmentVariables.DATABASE",)
    assert [edit.name for edit in found.edits] == ["environmentVariables.PAGE", "environmentVariables.MAIL"]


def test_a_byte_order_mark_stays(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    path = tmp_path / "infra/stages.toml"
    path.write_text("\ufeff[s]\ncloud = 'azure'\n", encoding="utf-8")
    write_kept(tmp_path, "s", kept_flags(Flags("sub"), load_stage(tmp_path, "s"), TEXTS, SECRETS))
    assert path.read_text(encoding="utf-8") == "\ufeff[s]\ncloud = 'azure'\nsubscription = \"sub\"\n"

"""Files that are damaged, unreadable or strangely named: each is an error that names it, never a bug."""

from __future__ import annotations

import ast
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from infra.clock import SystemClock
from infra.config.settings import read_handover, read_user_parameters
from infra.config.stage import load_stage
from infra.config.template import is_edited
from infra.document import load_json, load_toml
from infra.errors import UsageError
from infra.models.hash_cache import HashCache
from infra.models.weights import read_adapter
from infra.release.tree import scan_tree
from infra.session import read_cloud
from tests.doubles.azure_stage import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

DEPTH = 100_000
DAMAGED = {
    "Latin-1": 'caf\xe9 = "\xe9"'.encode("latin-1"),
    "binary": bytes(range(256)),
    "deep": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "deep TOML": b"a = " + b"[" * DEPTH + b"]" * DEPTH,
    "empty": b"",
    "a list": b"[]",
    "other keys": b'{"a": 1}',
    "a long number": b'{"a": ' + b"9" * 5000 + b"}",
    "a lone surrogate": b'{"resource_manager": "\\ud800"}',
    "a folder": None,
}
DESCRIPTOR = {
    "resource_manager": "https://localhost:99999999/",
    "ca_bundle": "/x",
    "tenant_id": "t",
    "client_id": "c",
    "client_secret": "s",
    "subscription_id": "s",
    "cloud_name": "Local",
}


@pytest.fixture(params=DAMAGED)
def damage(request: pytest.FixtureRequest) -> bytes | None:
    content: bytes | None = DAMAGED[request.param]
    return content


def write(path: Path, content: bytes | None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    return path


def test_a_damaged_file_of_stages(tmp_path: Path, damage: bytes | None) -> None:
    write(tmp_path / "infra/stages.toml", damage)
    with pytest.raises(UsageError):
        load_stage(tmp_path, "azure")


def test_a_file_of_stages_that_is_not_utf_8_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "infra/stages.toml", DAMAGED["Latin-1"])
    with pytest.raises(UsageError, match=r"infra/stages\.toml is not UTF-8") as caught:
        load_stage(tmp_path, "azure")
    assert caught.value.hint == "save it as UTF-8"


def test_a_damaged_descriptor_is_that_of_no_cloud(tmp_path: Path, damage: bytes | None) -> None:
    write(tmp_path / "cloud.json", damage)
    assert read_cloud(tmp_path) is None


@pytest.mark.parametrize("address", ["https://localhost:99999999/", "no address", "https://[::/"])
def test_a_descriptor_with_a_wrong_address_is_that_of_no_cloud(tmp_path: Path, address: str) -> None:
    (tmp_path / "cloud.json").write_text(json.dumps(DESCRIPTOR | {"resource_manager": address}))
    assert read_cloud(tmp_path) is None


def test_damaged_files_of_parameters(tmp_path: Path, damage: bytes | None) -> None:
    write(tmp_path / "infra/provision/inference.parameters.json", damage)
    with pytest.raises(UsageError):
        read_user_parameters(tmp_path)
    write(tmp_path / "infra/finetuning.config.json", damage)
    with pytest.raises(UsageError):
        read_handover(tmp_path)


def test_a_damaged_digest_is_that_of_no_source(tmp_path: Path, damage: bytes | None) -> None:
    write(tmp_path / "infra/provision/inference.bicep", b"")
    write(tmp_path / "infra/provision/inference.bicep.sha256", damage)
    assert is_edited(tmp_path)


def test_a_damaged_cache_is_empty(tmp_path: Path, damage: bytes | None) -> None:
    cache = HashCache(write(tmp_path / "hashes.json", damage), SystemClock())
    assert cache.entry(write(tmp_path / "file", b"x"), "file").size_bytes == 1


def test_a_damaged_configuration_of_an_adapter(tmp_path: Path, damage: bytes | None) -> None:
    write(tmp_path / "adapter_config.json", damage)
    with pytest.raises(UsageError):
        read_adapter(tmp_path)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    strange = os.fsdecode(b"caf\xe9.py")
    write(tmp_path / "inference" / strange, b"")
    with pytest.raises(UsageError, match="Azure Files cannot hold"):
        scan_tree(tmp_path / "inference")
    shutil.copytree(REPOSITORY / "examples/ticket-triage/adapter", tmp_path / "adapter")
    write(tmp_path / "adapter" / os.fsdecode(b"caf\xe9.json"), b"{}")
    with pytest.raises(UsageError):
        read_adapter(tmp_path / "adapter")


def test_parsers_raise_one_error_for_every_text() -> None:
    for text in ("[" * DEPTH, '{"a":' * DEPTH, "nope", "9" * 5000):
        with pytest.raises(ValueError, match=r".+"):
            load_json(text)
    with pytest.raises(ValueError, match="nested too deeply"):
        load_toml("a = " + "[" * DEPTH + "]" * DEPTH)


def test_the_pipeline_parses_text_in_one_place() -> None:
    wrong = []
    for path in (REPOSITORY / "infra").rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        if names & {"json.loads", "json.load", "tomllib.loads", "tomllib.load"}:
            wrong.append(str(path.relative_to(REPOSITORY)))
    assert wrong == ["infra/document.py"]

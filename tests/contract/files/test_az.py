"""The same service through the real `az storage`, as the pipeline drives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = pytest.mark.az


@pytest.fixture
def az(server: Any, account: str, endpoint: str, tmp_path: Path) -> Callable[..., Any]:
    """Run az with a configuration of its own, and return what it prints as JSON."""
    environment = {
        **os.environ,
        "AZURE_CONFIG_DIR": str(tmp_path / "azure"),
        "REQUESTS_CA_BUNDLE": str(server.ca),
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        "AZURE_CORE_NO_COLOR": "true",
        "AZURE_STORAGE_CONNECTION_STRING": (
            f"DefaultEndpointsProtocol=https;AccountName={account};"
            f"AccountKey={server.accounts[account][0]};FileEndpoint={endpoint}"
        ),
    }
    program = Path(sys.executable).with_name("az")

    def run(*words: str, fails: bool = False) -> Any:
        done = subprocess.run(
            [program, *words, "--output", "json"],
            env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) is fails, done.stderr
        if fails:
            return done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    return run


def test_shares_directories_and_files(az: Callable[..., Any], tmp_path: Path) -> None:
    # Source: `az storage share|directory|file` of azure-cli 2.91.
    assert az("storage", "share", "create", "--name", "models", "--quota", "7") == {"created": True}
    assert [found["name"] for found in az("storage", "share", "list")] == ["models"]
    assert az("storage", "share", "show", "--name", "models")["properties"]["quota"] == 7
    assert az("storage", "directory", "create", "--share-name", "models", "--name", "a") == {"created": True}
    source = tmp_path / "ö ~1.txt"
    source.write_bytes(os.urandom(5 * 1024 * 1024))
    place = ("--share-name", "models", "--path", "a/ö ~1.txt")
    az(
        "storage",
        "file",
        "upload",
        "--share-name",
        "models",
        "--path",
        "a",
        "--source",
        str(source),
        "--no-progress",
    )
    (item,) = az("storage", "file", "list", "--share-name", "models", "--path", "a")
    assert (item["name"], item["properties"]["contentLength"]) == ("ö ~1.txt", 5 * 1024 * 1024)
    assert az("storage", "file", "show", *place)["properties"]["contentLength"] == 5 * 1024 * 1024
    assert az("storage", "file", "exists", *place) == {"exists": True}
    az("storage", "file", "download", *place, "--dest", str(tmp_path / "back"), "--no-progress")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    az("storage", "file", "delete", *place)
    assert az("storage", "file", "exists", *place) == {"exists": False}


@pytest.mark.usefixtures("share")
def test_a_whole_folder_goes_there_and_back(az: Callable[..., Any], tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "inference" / "deep").mkdir(parents=True)
    (tree / "inference" / "server.py").write_text("print('hello')")
    (tree / "inference" / "deep" / "empty").write_bytes(b"")
    az(
        *("storage", "file", "upload-batch", "--destination", "models", "--source", str(tree)),
        *("--destination-path", "releases/1", "--no-progress"),
    )
    (tmp_path / "back").mkdir()
    az(
        *("storage", "file", "download-batch", "--source", "models/releases/1"),
        *("--destination", str(tmp_path / "back"), "--no-progress"),
    )
    found = [path.relative_to(tmp_path / "back") for path in (tmp_path / "back").rglob("*") if path.is_file()]
    assert {(path.parts[-2], path.name) for path in found} == {("inference", "server.py"), ("deep", "empty")}


def test_az_shows_the_refusals_of_the_service(az: Callable[..., Any]) -> None:
    upload = ("storage", "file", "upload", "--share-name", "missing", "--source", __file__, "--no-progress")
    assert "ErrorCode:ShareNotFound" in az(*upload, fails=True)


def test_az_shows_what_a_wrong_key_was_refused_with(
    az: Callable[..., Any], endpoint: str, account: str
) -> None:
    wrong = (
        f"DefaultEndpointsProtocol=https;AccountName={account};AccountKey=d3Jvbmc=;FileEndpoint={endpoint}"
    )
    told = az("storage", "share", "list", "--connection-string", wrong, fails=True)
    assert "Server failed to authenticate the request" in told

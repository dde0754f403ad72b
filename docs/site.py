"""Put the pages of the documentation's site together: those of `docs/`, and some from elsewhere.

Links between pages are those of the repository, so that they work where the repository is read. In the site,
a page of `docs/` has its path in that folder, and any other page has its path in the repository.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ROOT / ".site" / "pages"
DOCS: Final = "docs/"
SOURCES: Final = (
    "docs/**/*.md",
    "docs/assets/*",
    "docs/ci/*",
    "docs/monitoring/*",
    "docs/pictures/*",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/results/*.md",
    "benchmarks/results/*.png",
    "examples/*/README.md",
    "examples/*/data/README.md",
)
LINK: Final = re.compile(r"(?<!`)(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def sources() -> dict[str, Path]:
    """Return the site's files: their paths in the site, and where the repository has them."""
    paths = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern))
    return {path.relative_to(ROOT).as_posix().removeprefix(DOCS): path for path in paths}


def rewrite_links(text: str, source: str) -> str:
    """Return a page with the links of the site instead of the repository's.

    Args:
        text: The page as it is in the repository.
        source: The page's path in the repository.
    """
    folder = posixpath.dirname(source)
    folder_in_site = posixpath.dirname(source.removeprefix(DOCS)) or "."

    def rewrite(found: re.Match[str]) -> str:
        if "://" in found[2] or found[2].startswith("mailto:"):
            return found[0]
        target = posixpath.normpath(posixpath.join(folder, found[2])).removeprefix(DOCS)
        return found[1] + posixpath.relpath(target, folder_in_site) + found[3]

    return LINK.sub(rewrite, text)


def assemble(pages: Path) -> None:
    """Write the site's files into a folder, in place of what is there."""
    shutil.rmtree(pages, ignore_errors=True)
    for name, path in sources().items():
        target = pages / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            text = rewrite_links(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
            target.write_text(text, encoding="utf-8")
        else:
            shutil.copyfile(path, target)


if __name__ == "__main__":
    assemble(PAGES)
    print(f"{len(sources())} files in {PAGES.relative_to(ROOT)}", file=sys.stderr)

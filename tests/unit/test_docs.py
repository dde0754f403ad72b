"""The rules of the documentation's text that no linter checks: the length of its lines, and its links."""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from docs.site import rewrite_links, sources
from inference import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = ("*.md", "docs/**/*.md", "benchmarks/**/*.md", "examples/**/*.md")
MAX_LENGTH: Final = 100
FENCE: Final = "```"
LINK: Final = re.compile(r"(?<!`)\]\(([^)\s]+)\)")
HEADING: Final = re.compile(r"^#+ +(.+)$", re.MULTILINE)
TABLE_QUOTE_OR_IMAGE: Final = ("|", ">", "![", "[![", "<img")


def pages() -> list[str]:
    return sorted({str(path.relative_to(ROOT)) for each in PAGES for path in ROOT.glob(each)})


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Return a page's lines of prose with their numbers: all but code, tables, quotes and images."""
    is_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith(FENCE):
            is_code = not is_code
        elif not is_code and not line.lstrip().startswith(TABLE_QUOTE_OR_IMAGE):
            yield number, line


@pytest.mark.parametrize("page", pages())
def test_lines_of_prose_are_short(page: str) -> None:
    lines = prose((ROOT / page).read_text(encoding="utf-8"))
    assert [f"{page}:{number}" for number, line in lines if len(line) > MAX_LENGTH] == []


def test_every_place_of_pages_is_found() -> None:
    folders = {Path(page).parts[0] for page in pages()}
    assert folders >= {"README.md", "docs", "benchmarks", "examples"}


def test_code_tables_quotes_and_images_may_be_long() -> None:
    wide = "x" * 101
    text = f"{wide}\n| {wide}\n> {wide}\n![{wide}\n  ```sh\n{wide}\n  ```\n- {wide}\n"
    assert list(prose(text)) == [(1, wide), (8, f"- {wide}")]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    outside_code = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    titles = (heading.replace("`", "").lower() for heading in HEADING.findall(outside_code))
    return {re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    """Return the links of a page to files or headings that do not exist; addresses are not followed."""
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    assert broken_links(ROOT / page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `word`, two!\n```\n# no heading\n```\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#one-word-two) [c](https://example.com) [d](#e)\n"
        "[f](missing.md) [g](other.md#no-heading)\n# E\n[h](#i)",
        encoding="utf-8",
    )
    assert broken_links(page) == ["missing.md", "other.md#no-heading", "#i"]


def pages_in(navigation: list[dict[str, Any]]) -> Iterator[str]:
    for entry in navigation:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else pages_in(target)


def test_every_page_of_the_site_can_be_found_in_its_navigation() -> None:
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    pages = [name for name in sources() if name.endswith(".md")]
    assert sorted(pages_in(site["nav"])) == sorted(pages)


@pytest.mark.parametrize(
    ("source", "link", "in_site"),
    [
        ("docs/a/b.md", "../c/d.md#e", "../c/d.md#e"),
        ("docs/a/b.md", "../../benchmarks/README.md", "../benchmarks/README.md"),
        ("CHANGELOG.md", "docs/a/b.md#c", "a/b.md#c"),
        ("examples/x/README.md", "../../docs/a/b.md", "../../a/b.md"),
        ("docs/a/b.md", "https://example.com/docs/a", "https://example.com/docs/a"),
        ("docs/a/b.md", "#c", "#c"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(source: str, link: str, in_site: str) -> None:
    assert rewrite_links(f"see [it]({link}).", source) == f"see [it]({in_site})."


def test_the_page_on_upgrades_names_the_files_that_are_merged_for_the_user() -> None:
    attributes = (ROOT / ".gitattributes").read_text(encoding="utf-8")
    page = (ROOT / "docs/how-to/upgrade.md").read_text(encoding="utf-8")
    marked = re.findall(r"^/(\S+)\s+merge=fjarr-yours$", attributes, re.MULTILINE)
    assert marked
    for name in marked:
        assert (ROOT / name).is_file(), name
        assert f"`{name}`" in page, name


def test_the_versions_of_the_project_and_of_the_server_are_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


def test_links_lead_to_files_that_the_site_has() -> None:
    files = sources()
    missing = []
    for name, path in files.items():
        if name.endswith(".md"):
            text = rewrite_links(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
            targets = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link]
            found = [
                posixpath.normpath(posixpath.join(posixpath.dirname(name), each)) for each in targets if each
            ]
            missing += [f"{name}: {each}" for each in found if each not in files]
    assert missing == []

"""Render an answer's Markdown as HTML in which the answer's own text stays text.

HTML in an answer is shown as it is written, images become links, and formulas become MathML. An answer grows
while it is shown: a block of Markdown that is complete is rendered once.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.token import Token
    from markdown_it.utils import EnvType, OptionsDict

MAX_FORMULA: Final = 2000
"""In characters; a longer formula is shown as its source."""

MATHML_ATTRIBUTES: Final = frozenset({
    "xmlns", "display", "stretchy", "fence", "form", "separator", "accent", "accentunder", "largeop",
    "movablelimits", "symmetric", "minsize", "maxsize", "lspace", "rspace", "mathvariant", "displaystyle",
    "scriptlevel", "linethickness", "columnalign", "rowspacing", "columnspacing", "columnlines", "rowlines",
    "frame", "width", "height", "depth", "voffset", "notation", "mathcolor", "mathbackground", "mathsize",
})  # fmt: skip
"""What a formula may set. A command such as \\href or \\style sets others."""

COLOR: Final = re.compile(r"[A-Za-z]{1,30}|#[0-9A-Fa-f]{3,8}")

REFERENCE: Final = re.compile(r"^ {0,3}\[[^\]\n]+\]:", re.MULTILINE)
"""The definition of a link, which blocks before it may use."""

JSON_START: Final = re.compile(r"\s*(?:\{\s*(?:\"|\}|$)|\[\s*[\[{\"])")
"""The beginning of an answer that is JSON, which models that are tuned for it write without a fence."""

LINES: Final = re.compile(r"[^\n]*\n|[^\n]+")


class AnswerRenderer:
    """The HTML of an answer that grows, as a list of blocks of which only the last ones change."""

    def __init__(self) -> None:
        self._source = ""
        self._done: list[str] = []
        self._done_chars = 0
        self._blocks: list[str] = []

    def render(self, source: str) -> list[str]:
        """Return the blocks of the whole text so far."""
        if source == self._source:
            return self._blocks
        if JSON_START.match(source):
            self._source, self._done, self._done_chars = source, [], 0
            self._blocks = [_code(source, "json")]
            return self._blocks
        if not source.startswith(self._source[: self._done_chars]) or REFERENCE.search(source):
            self._done, self._done_chars = [], 0
        self._source = source
        rest = source[self._done_chars :]
        rendered = _render_blocks(rest)
        self._blocks = [*self._done, *(text for _, text in rendered)]
        if len(rendered) > 1 and not REFERENCE.search(source):
            # A later line can still change the last block; those before it are complete.
            complete = "".join(LINES.findall(rest)[: rendered[-1][0]])
            if not _has_open_formula(complete):
                self._done += [text for _, text in rendered[:-1]]
                self._done_chars += len(complete)
        return self._blocks


def render(source: str) -> list[str]:
    """Return the blocks of a whole text."""
    return AnswerRenderer().render(source)


def render_formula(source: str, *, is_block: bool) -> str:
    """Return a formula in MathML, or its source if it is not understood."""
    display = "block" if is_block else "inline"
    try:
        if len(source) > MAX_FORMULA:
            return _formula_source(source)
        element = convert_to_element(source, display=display)
        _clean(element)
        return ET.tostring(element, encoding="unicode")
    except Exception:  # noqa: BLE001 - what models write as formulas fails in many ways, RecursionError among them
        return _formula_source(source)


def _render_blocks(source: str) -> list[tuple[int, str]]:
    """Return each top-level block's first line and its HTML."""
    tokens = MARKDOWN.parse(source)
    blocks: list[tuple[int, str]] = []
    start = 0
    depth = 0
    for index, token in enumerate(tokens):
        depth += token.nesting
        if depth == 0:
            group = tokens[start : index + 1]
            line = group[0].map[0] if group[0].map else 0
            blocks.append((line, MARKDOWN.renderer.render(group, MARKDOWN.options, {})))
            start = index + 1
    return blocks


def _has_open_formula(source: str) -> bool:
    """Return whether a formula that may have blank lines in it begins here and does not end."""
    return source.count("$$") % 2 == 1 or source.count("\\[") != source.count("\\]")


def _make_markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True})
    markdown.enable(["table", "strikethrough"])
    dollarmath_plugin(markdown, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    texmath_plugin(markdown, delimiters="brackets")
    rules = markdown.renderer.rules  # type: ignore[attr-defined]
    rules |= {
        "image": _image,
        "link_open": _link_open,
        "table_open": lambda *_: '<div class="scroll" role="group" aria-label="Table" tabindex="0"><table>',
        "table_close": lambda *_: "</table></div>",
        "math_inline": _math(is_block=False),
        "math_inline_double": _math(is_block=True),
        "math_block": _math(is_block=True),
        # Below the page's own headings, and without a gap between the levels, whatever a model writes.
        "heading_open": lambda tokens, index, *_: f'<h3 class="{tokens[index].tag}">',
        "heading_close": lambda *_: "</h3>\n",
        "fence": _fence,
        "code_block": _fence,
    }
    return markdown


def _image(
    tokens: Sequence[Token],
    index: int,
    _options: OptionsDict,
    _env: EnvType,
    _renderer: Any = None,  # noqa: ANN401
) -> str:
    """Return a link to the image: to show it would fetch it."""
    token = tokens[index]
    address = str(token.attrGet("src") or "")
    text = token.content or address
    return f'<a href="{html.escape(address)}" {LINK_ATTRIBUTES}>{html.escape(text)}</a>'


LINK_ATTRIBUTES: Final = 'target="_blank" rel="noopener noreferrer nofollow"'


def _link_open(tokens: Sequence[Token], index: int, *_: object) -> str:
    address = str(tokens[index].attrGet("href") or "")
    return f'<a href="{html.escape(address)}" {LINK_ATTRIBUTES}>'


def _fence(tokens: Sequence[Token], index: int, *_: object) -> str:
    token = tokens[index]
    return _code(token.content, token.info.strip().split(maxsplit=1)[0] if token.info.strip() else "")


def _code(source: str, language: str) -> str:
    label = html.escape(language or "text")
    code = _highlight(source, language)
    # JSON is read, not aligned: its lines are broken where the page is narrow.
    kind = "code wraps" if language == "json" else "code"
    return (
        f'<div class="{kind}"><div class="code-head"><span>{label}</span>'
        '<button type="button" class="copy-code">Copy</button></div>'
        f'<pre tabindex="0" role="group" aria-label="Code, {label}"><code>{code}</code></pre></div>'
    )


def _highlight(code: str, language: str) -> str:
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return html.escape(code)
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="hl-")))


def _math(*, is_block: bool) -> Any:  # noqa: ANN401 - a renderer's rule
    def rule(tokens: Sequence[Token], index: int, *_: object) -> str:
        formula = render_formula(tokens[index].content.strip(), is_block=is_block)
        return f'<span class="formula" tabindex="0">{formula}</span>' if is_block else formula

    return rule


def _clean(element: ET.Element) -> None:
    """Undo the converter's character references, and drop the attributes that a formula may not set."""
    for each in element.iter():
        # The converter writes text as if it were markup.
        each.text = html.unescape(each.text) if each.text else each.text
        each.tail = html.unescape(each.tail) if each.tail else each.tail
        for name, value in tuple(each.attrib.items()):
            is_color = name in {"mathcolor", "mathbackground"}
            if name not in MATHML_ATTRIBUTES or (is_color and not COLOR.fullmatch(value)):
                del each.attrib[name]


def _formula_source(source: str) -> str:
    return f"<code>{html.escape(source)}</code>"


MARKDOWN: Final = _make_markdown()

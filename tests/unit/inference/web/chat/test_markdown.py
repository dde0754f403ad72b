from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.web.chat.markdown import AnswerRenderer, render, render_formula

ALLOWED = {
    "p", "br", "strong", "em", "s", "code", "pre", "a", "ul", "ol", "li", "blockquote", "hr", "div", "span",
    "h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "button",
}  # fmt: skip


class Reader(HTMLParser):
    """Collects a page's elements, their attributes and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._depth_of_math = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._depth_of_math += tag == "math"
        if not self._depth_of_math:
            self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        self._depth_of_math -= tag == "math"

    def handle_data(self, data: str) -> None:
        self.text += data


def read(blocks: list[str]) -> Reader:
    reader = Reader()
    reader.feed("".join(blocks))
    reader.close()
    return reader


HOSTILE = [
    "<img src=https://x.example/a.png onerror=alert(1)>",
    "<form action=https://x.example><input name=password><button>Sign in</button></form>",
    "<script>alert(1)</script>",
    "<svg onload=alert(1)>",
    "![a picture](https://x.example/a.png)",
    "[a link](javascript:alert(1))",
    "[a link](data:text/html,x)",
    "<a href='javascript:alert(1)'>x</a>",
    "$\\text{<img src=x onerror=alert(1)>}$",
    "$$\\href{javascript:alert(1)}{x}$$",
    "$\\style{background:url(https://x.example)}{x}$",
    "\\[\\color{red;background:url(x)}{x}\\]",
    "```<img src=x>\n<img src=x>\n```",
    '``` "onmouseover=alert(1)\n```',
    "| <img src=x> |\n|---|\n| <script> |",
    "<math><mtext><img src=x></mtext></math>",
]


def judge(blocks: list[str]) -> Reader:
    found = read(blocks)
    assert set(found.tags) <= ALLOWED
    for name, value in found.attributes:
        assert not name.startswith("on")
        assert name not in {"src", "style", "action", "srcset"}
        assert name != "href" or (value or "").startswith(("http://", "https://", "mailto:", "#", "/"))
    return found


@pytest.mark.parametrize("source", HOSTILE)
def test_html_in_an_answer_stays_text(source: str) -> None:
    judge(render(source))


@given(st.text(alphabet="<>&\"'`$\\[](){}!=/ax:\n#|-*_~", max_size=60))
def test_no_text_becomes_an_element_that_loads_or_sends(source: str) -> None:
    judge(render(source))


def test_html_is_shown_as_it_was_written() -> None:
    assert read(render("<b>bold</b> & <img src=x>")).text.strip() == "<b>bold</b> & <img src=x>"


def test_an_image_is_a_link_to_it() -> None:
    found = judge(render("![a picture](https://x.example/a.png)"))
    assert ("href", "https://x.example/a.png") in found.attributes
    assert ("rel", "noopener noreferrer nofollow") in found.attributes
    assert found.text.strip() == "a picture"


def test_formulas_become_mathml_in_all_notations() -> None:
    for source in (r"$\frac{a}{b}$", r"$$\frac{a}{b}$$", r"\(\frac{a}{b}\)", "\\[\n\\frac{a}{b}\n\\]"):
        assert "<mfrac>" in "".join(render(f"So: {source} is it" if "\n" not in source else source))
    assert 'display="block"' in render_formula("x", is_block=True)


def test_prices_are_not_formulas() -> None:
    assert "<math" not in "".join(render("It costs $5 or $6 there."))


@pytest.mark.parametrize("source", [r"\begin{x", r"\left( x", "x" * 2001, "{" * 1500])
def test_a_formula_that_is_not_understood_is_shown_as_its_source(source: str) -> None:
    assert read([render_formula(source, is_block=False)]).text.startswith(source[:5])


def test_a_table_scrolls_by_itself() -> None:
    html = "".join(render("| a | b |\n|---|--:|\n| 1 | 2 |"))
    assert html.startswith('<div class="scroll"')
    assert "<th>a</th>" in html


def test_code_has_its_language_and_colours() -> None:
    html = "".join(render("```python\nif x: pass\n```"))
    assert "<span>python</span>" in html
    assert '<span class="hl-k">if</span>' in html
    assert read(render("```nonsense\nif x\n```")).text.endswith("if x\n")


def test_an_answer_that_is_json_is_shown_as_code() -> None:
    assert len(render('{"category": "account"}')) == 1
    assert "hl-" in render('{"category": "account"}')[0]
    assert "<code>" not in render("{not json}")[0]


LONG = """# Title

A paragraph with **bold**
and a second line.

- one
- two

  with a paragraph

```python
x = 1

y = 2
```

$$
a +

b
$$

| a | b |
|---|---|
| 1 | 2 |

\\[
c

d
\\]

The end, with [a link] in it.

> quoted

[a link]: https://x.example
"""


@pytest.mark.parametrize("size", [1, 7, 64])
def test_an_answer_that_grows_ends_as_the_whole_one(size: int) -> None:
    renderer = AnswerRenderer()
    blocks: list[str] = []
    for end in range(size, len(LONG) + size, size):
        blocks = renderer.render(LONG[:end])
    assert blocks == render(LONG)


def test_blocks_that_are_complete_are_not_rendered_again() -> None:
    renderer = AnswerRenderer()
    first = renderer.render("one\n\ntwo\n\nthr")
    second = renderer.render("one\n\ntwo\n\nthree")
    assert first[:2] == second[:2]
    assert second[0] is first[0]

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detect import Kind
from pipeline.document import Document
from pipeline.extract import extract, web
from storage.errors import ExtractError


def read(html: str | bytes) -> Document:
    data = html.encode() if isinstance(html, str) else html
    return extract(data, kind=Kind.HTML, name="a.html")


def test_structure_is_kept(sample_data: Path) -> None:
    document = read((sample_data / "demo/varnholm-guide.html").read_bytes())
    assert document.metadata["title"] == "Two days in Varnholm: a short travel guide"
    assert document.metadata["author"] == "Sunniva Brekke"
    assert document.syntax == "markdown"
    assert document.text.startswith("# Two days in Varnholm\n\nBy Sunniva Brekke")
    assert "\n### The rope walk\n" in document.text
    assert "\n| Kari's Kitchen | barley soup, open until midnight | 28 crowns |\n" in document.text
    assert "\n- Tap water tastes of iron but is safe.\n" in document.text
    assert "\n3. Down to Gannet Head" in document.text


def test_menus_scripts_and_footers_are_left_out(sample_data: Path) -> None:
    text = read((sample_data / "demo/varnholm-guide.html").read_bytes()).text
    for noise in ("never indexed", "All islands", "Cookies", "serif", "---\n"):
        assert noise not in text.replace("| --- | --- | --- |\n", "")


CODE = "## Code\n\n```\na\n```"


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ('<p>see <a href="https://x.example/?a=1">the page</a></p>', "see the page"),
        ("<p><b>bold</b> and <i>italic</i> and <mark>marked</mark></p>", "bold and italic and marked"),
        ('<p><img src="data:image/png;base64,AAAA" alt="A map"> here</p>', "A map here"),
        ('<p><a href="/"><img src="logo.png" alt="Home"></a></p>', "Home"),
        ("<h2>Title<a class=headerlink href=#t>¶</a></h2><p>text</p>", "## Title\n\ntext"),
        ("<p>use <code>get_user()</code></p>", "use `get_user()`"),
        ("<pre><code class=language-py>a = 1\n  b</code></pre>", "```py\na = 1\n  b\n```"),
        ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>", "- a\n  - b\n- c"),
        ("<p>hy&shy;phen</p>", "hyphen"),
        ("<p><ruby>漢<rp>(</rp><rt>かん</rt><rp>)</rp>字<rt>じ</rt></ruby></p>", "漢字"),
        ("<table><tr><td><h2>Layout</h2></td><td><p>text</p></td></tr></table>", "## Layout\n\ntext"),
        ("<table><tr><td>one</td></tr><tr><td>two</td></tr></table>", "one\n\ntwo"),
        ("<table><caption>Named</caption><tr><td>one</td></tr></table>", "Named\n\none"),
        (
            "<table><caption>Out</caption><tr><td><table><caption>In</caption><tr><td>a</td></tr></table></td></tr></table>",
            "Out\n\nIn\n\na",
        ),
        (
            "<table><tr><th>A</th><th>B</th></tr><tr><td>1|2</td><td>3</td></tr></table>",
            "| A | B |\n| --- | --- |\n| 1\\|2 | 3 |",
        ),
        ("<title>Named</title><p>text</p>", "# Named\n\ntext"),
        ("<title>Named</title><h1>Own</h1>", "# Own"),
        ("<header><h1>In the header</h1></header>", "# In the header"),
        ("<form><p>all in a form</p><input value=x><button>Go</button></form>", "all in a form"),
        (
            "<h2><button>How do I reset my password?</button></h2><div>Ask the porter.</div>",
            "## How do I reset my password?\n\nAsk the porter.",
        ),
        ("<details><summary><button>Why?</button></summary><p>So.</p></details>", "**Why?**\n\nSo."),
        ("<dl><dt><span><button>Tide</button></span></dt><dd>water</dd></dl>", "Tide\n\nwater"),
        ("<div><button aria-expanded=false>When?</button><div>At noon.</div></div>", "When?\n\nAt noon."),
        ("<div><button aria-controls=c1>Where?</button><div id=c1>Here.</div></div>", "Where?\n\nHere."),
        ("<nav><button aria-controls=m>Menu</button></nav><h2>Code</h2><pre>a</pre><button>Copy</button>", CODE),
        ("<blockquote><p>To be.</p><footer>Hamlet</footer></blockquote>", "> To be.\n>\n> Hamlet"),
        ("<article><div><p>Body.</p><footer>Erratum: 14.</footer></div></article>", "Body.\n\nErratum: 14."),
        ("<section><p>Body.</p><footer>A note.</footer></section><footer>Imprint</footer>", "Body.\n\nA note."),
        ("<article><p>Body.</p></article><div><footer>Imprint</footer></div>", "Body."),
        ("<p>shown</p><p style='display:none'>hidden</p>", "shown"),
        ("only text &amp; no tags", "only text & no tags"),
    ],
)
def test_what_becomes_of(html: str, markdown: str) -> None:
    assert read(html).text == markdown


def test_a_page_of_navigation_alone_is_still_read() -> None:
    assert read("<body><nav><a href=1>First chapter</a><a href=2>Second</a></nav></body>").text == (
        "First chapter\nSecond"
    )


def test_xhtml_may_close_an_empty_title_at_once() -> None:
    html = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/><script src="x"/></head>'
    assert read(html + "<body><p>text</p></body></html>").text == "text"


def test_a_page_without_any_text_says_so() -> None:
    with pytest.raises(ExtractError, match="scripts may fill") as caught:
        read("<html><body><script>draw()</script><div id=app></div></body></html>")
    assert caught.value.code == "no_text"


def test_text_nested_deeper_than_the_converter_goes_is_not_lost() -> None:
    text = read("<p>first</p>" + "<div>" * 1100 + "bottom" + "</div>" * 1100 + "<p>last</p>").text
    assert text == "first\nbottom\nlast"


def test_buttons_and_footers_at_any_depth_are_found_in_one_walk() -> None:
    page = web.LexborHTMLParser("<section>" + "<div>" * 3000 + "<footer>note</footer>" * 3000)
    nodes, parts = page.css("footer"), CountedTags(["section"])
    within = web._Within(parts)
    assert all(within.hold(node) for node in nodes)
    assert parts.asked < 10_000


class CountedTags(frozenset[str]):
    """Tags that count how often they are asked for one."""

    asked = 0

    def __contains__(self, tag: object) -> bool:
        self.asked += 1
        return super().__contains__(tag)


@pytest.mark.parametrize(("more", "between"), [(0, "\n\n"), (1, "\n"), (2000, "\n")])
def test_tables_within_tables_are_unfolded_to_a_bound_and_never_lost(more: int, between: str) -> None:
    depth = web.MAX_TABLES_WITHIN + more
    text = read("<p>first</p>" + "<table><tr><td>x" * depth + "</table>" * depth + "<p>last</p>").text
    assert text == between.join(["first", *"x" * depth, "last"])


def test_the_declared_encoding_is_used() -> None:
    document = read('<meta charset="windows-1251"><p>Привет</p>'.encode("cp1251"))
    assert (document.text, document.metadata["encoding"]) == ("Привет", "cp1251")


TAGS = (
    *("a", "b", "body", "button", "div", "footer", "form", "frameset", "h2", "li", "nav", "p", "pre", "rt", "ruby"),
    *("script", "svg", "table", "td", "th", "title", "tr", "ul"),
)
PIECES = [f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS] + ["<!--", "<h1", "x", "&#0;", "<img alt=y>"]


@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_markup_gives_a_document_or_a_reason(pieces: list[str]) -> None:
    assert outcome("word" + "".join(pieces)) in ("read", "empty", "no_text")


def outcome(html: str) -> str:
    try:
        text = read(html).text
    except ExtractError as error:
        return error.code
    return "read" if text and "\0" not in text else "not clean"


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40))
def test_words_come_through_unchanged(word: str) -> None:
    assert word in read(f"<div><p><b>{word}</b></p></div>").text


@pytest.mark.parametrize("unit", ["<p>", "<p a=1 b=2 c=3 d=4>x</p>", "Nothing but text. "], ids=["tags", "few", "text"])
def test_a_page_that_needs_more_memory_than_there_is_is_too_large(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_MEMORY_BYTES", 1_000_000)
    assert read("".join(["<p>small", unit * 500])).text
    assert outcome(unit * (2_000_000 // len(unit))) == "too_large"


def test_the_first_library_lets_go_of_a_page_before_the_second_one_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Parser(web.LexborHTMLParser):
        pass

    trees: weakref.WeakSet[Parser] = weakref.WeakSet()

    def parse(html: str) -> Parser:
        tree = Parser(html)
        trees.add(tree)
        return tree

    def convert(markup: str, options: object) -> object:
        gc.collect()
        assert not trees
        return whole(markup, options)

    whole = web.convert
    monkeypatch.setattr(web, "LexborHTMLParser", parse)
    monkeypatch.setattr(web, "convert", convert)
    assert read("<nav>menu</nav><table><tr><td><h1>Tides</h1></td></tr></table>").text == "# Tides"

from __future__ import annotations

import socket
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.detect import Kind
from pipeline.document import Document
from pipeline.extract import extract
from pipeline.extract.xml import MAX_DECLARED_ATTRIBUTES, MAX_DEPTH
from storage.errors import ExtractError


def read(xml: str | bytes) -> Document:
    data = xml.encode() if isinstance(xml, str) else xml
    return extract(data, kind=Kind.XML, name="a.xml")


def code_of(xml: str | bytes) -> str:
    with pytest.raises(ExtractError) as caught:
        read(xml)
    return caught.value.code


JATS = """<!DOCTYPE article PUBLIC "-//NLM//DTD JATS v1.2//EN" "JATS-archivearticle1.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>
<title-group><article-title>Bubbles in <italic>glass</italic></article-title></title-group>
<contrib-group><contrib contrib-type="author"><name><surname>Vasquez</surname><given-names>Imog&#233;n</given-names>
</name>
<role>Writing</role><xref ref-type="aff">1</xref></contrib>
<contrib><name><surname>Brekke</surname><given-names>S.</given-names></name></contrib></contrib-group>
<abstract><title>Abstract</title><p>Short &#x02018;summary&#x02019;.</p></abstract></article-meta></front>
<body><sec><label>1.</label><title>Intro</title><p>H<sub>2</sub>O and words<xref ref-type="fn">7</xref>, see
<ext-link xlink:href="https://x.example">the page</ext-link>.<fn><p>A note.</p></fn></p>
<list list-type="order"><list-item><p>first</p><p>more</p></list-item><list-item><p>second</p>
<list list-type="bullet"><list-item><p>inner</p></list-item></list></list-item></list>
<sec><title>Data</title><table-wrap><label>Table 1</label><caption><p>Sizes</p></caption><table><thead><tr><th>Kind</th>
<th>mm</th></tr></thead><tbody><tr><td><p>A|B</p></td><td>3
<list><list-item><p>to 4</p></list-item></list></td></tr></tbody></table></table-wrap>
<fig><label>Figure 2</label><caption><title>A kiln</title><p>From above.</p></caption>
<graphic xlink:href="a.tif"/></fig>
<disp-formula><tex-math>\\documentclass{x}</tex-math><mml:math xmlns:mml="m"><mml:mi>E</mml:mi><mml:mo>=</mml:mo>
<mml:mrow><mml:mi>m</mml:mi></mml:mrow></mml:math></disp-formula></sec></sec></body>
<back><ref-list><title>References</title><ref><label>1</label><element-citation><person-group><name><surname>Doe</surname>
<given-names>J</given-names></name></person-group><article-title>On sand</article-title><year>2019</year>
</element-citation></ref></ref-list></back></article>"""


def test_a_scientific_article() -> None:
    document = read(JATS)
    assert document.syntax == "markdown"
    assert document.metadata == {
        "encoding": "utf-8",
        "title": "Bubbles in glass",
        "author": "Vasquez Imogén, Brekke S.",
    }
    assert document.text == (
        "# Bubbles in glass\n\nVasquez Imogén Writing 1\n\nBrekke S.\n\n## Abstract\n\nShort ‘summary’.\n\n"
        "## 1. Intro\n\nH2O and words 7, see the page. (A note.)\n\n"
        "1. first\n\n  more\n\n2. second\n  - inner\n\n"
        "### Data\n\nTable 1 Sizes\n\n| Kind | mm |\n| --- | --- |\n| A\\|B | 3 to 4 |\n\n"
        "Figure 2 A kiln\n\nFrom above.\n\nE = m\n\n"
        "## References\n\n1 Doe J On sand 2019"
    )


DOCBOOK = """<?xml version="1.0"?><!DOCTYPE book PUBLIC "-//OASIS//DTD DocBook XML V4.5//EN" "docbookx.dtd" [
<!ELEMENT odd (para)><!ATTLIST odd kind CDATA #IMPLIED>]>
<book><bookinfo><title>Guide</title><author><firstname>Ada</firstname><surname>Lo</surname></author></bookinfo>
<chapter><title>Start</title><para>One&nbsp;&mdash;<emphasis>two</emphasis><footnote><para>Aside.</para></footnote>.</para>
<variablelist><varlistentry><term>-v</term><listitem><para>Talk more.</para></listitem></varlistentry></variablelist>
<programlisting>if x:
    y()</programlisting>
<note><para>Mind.</para></note><sect1><title>Deep</title><informaltable><tgroup cols="2"><tbody><row><entry>a</entry>
<entry>b</entry></row></tbody></tgroup></informaltable><mediaobject><textobject alt="A map"/></mediaobject></sect1>
</chapter></book>"""


def test_a_book_with_a_document_type_and_entities_of_its_dtd() -> None:
    document = read(DOCBOOK)
    assert document.metadata["author"] == "Ada Lo"
    assert document.text == (
        "# Guide\n\nAda Lo\n\n## Start\n\nOne —two (Aside.).\n\n- -v Talk more.\n\n```\nif x:\n    y()\n```\n\n"
        "Mind.\n\n### Deep\n\n| a | b |\n| --- | --- |\n\nA map"
    )


def test_tei() -> None:
    xml = """<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><fileDesc><titleStmt><title>Songs</title>
<author>I. Vasquez</author></titleStmt></fileDesc></teiHeader><text><body><div><head>First</head>
<lg><l>one line</l><l>two lines</l></lg><p>See <ref target="x">the <hi>page</hi></ref>, in<note>so</note> all
of <bibl><author>J. Doe</author>, <title>Sand</title></bibl>.</p>
</div></body></text></TEI>"""
    document = read(xml)
    assert document.metadata == {"encoding": "utf-8", "title": "Songs", "author": "I. Vasquez"}
    assert document.text == (
        "# Songs\n\nI. Vasquez\n\n## First\n\none line\ntwo lines\n\nSee the page, in (so) all of J. Doe, Sand."
    )


RSS = """<rss version="2.0" xmlns:dc="d" xmlns:content="c"><channel><title>News</title><link>https://x.example</link>
<image><title>News</title><url>https://x.example/a.png</url></image>
<item><dc:creator>Ada</dc:creator><pubDate>3 May</pubDate><title>Caf&amp;#233; open</title>
<link>https://x.example/1</link><guid>https://x.example/1</guid>
<description>&lt;h2&gt;Soon&lt;/h2&gt;&lt;p&gt;From &lt;b&gt;noon&lt;/b&gt;&lt;/p&gt;
&lt;script&gt;x()&lt;/script&gt;</description>
<category>town</category><comments>https://x.example/1#all</comments></item><item><title>Next</title><content:encoded>
<![CDATA[<p>More</p>]]></content:encoded></item>
</channel></rss>"""


def test_a_feed_has_a_section_for_each_entry_whatever_the_order() -> None:
    document = read(RSS)
    assert document.metadata["title"] == "News"
    assert document.text == (
        "# News\n\n## Café open\n\ncreator: Ada\npubDate: 3 May\n\n#### Soon\n\nFrom noon\n\ncategory: town\n\n"
        "## Next\n\nMore"
    )


def test_a_feed_that_mixes_markup_with_escaped_markup() -> None:
    xml = "<rss><channel><item><description>a &lt;b&gt;b&lt;/b&gt;<br/>c</description></item></channel></rss>"
    assert read(xml).text == "a b\nc"


def test_an_atom_feed_with_xhtml_in_it() -> None:
    xml = """<feed xmlns="http://www.w3.org/2005/Atom"><title>Log</title><entry><author><name>Ada</name></author>
<title>One</title><content type="xhtml"><div xmlns="http://www.w3.org/1999/xhtml"><p>A<i>b</i>c</p><ul><li>d</li></ul>
</div></content></entry></feed>"""
    assert read(xml).text == "# Log\n\n## One\n\nauthor: Ada\n\nAbc\n\n- d"


def test_records_keep_the_names_of_their_values() -> None:
    xml = """<?xml version="1.0"?><!-- Licence --><factbook xmlns="u" xmlns:x="v"><!-- as of 2026 --><!-- <old/> -->
<country iso="CA" x:rank="2"><name>Canada</name><capital since="1857">Ottawa</capital><motto>A <b>mari</b> usque
ad mare</motto></country><country><name>France</name><note><![CDATA[<p>Old &amp; new</p>]]></note><empty/></country>
</factbook>"""
    document = read(xml)
    assert document.syntax == "plain"
    assert document.text == (
        "factbook\n  as of 2026\n\n  country (iso: CA, rank: 2)\n    name: Canada\n    capital (since: 1857): Ottawa\n"
        "    motto:\n      A mari usque\n      ad mare\n\n  country\n    name: France\n    note: Old & new\n    empty"
    )


def test_configuration_in_attributes_alone() -> None:
    xml = (
        '<settings><property name="timeout_s" value="30"/><server port="8080"><tls mode="strict"/></server></settings>'
    )
    assert read(xml).text == (
        "settings\n  property (name: timeout_s, value: 30)\n\n  server (port: 8080)\n    tls (mode: strict)"
    )


def test_encoded_data_is_left_out_and_long_words_are_not() -> None:
    data = "iVBORw0KGgoAAAANSUhEUgAAAAUA" * 40
    assert read(f"<r><image>{data}</image><dna>{'ACGT' * 200}</dna></r>").text == f"r\n  image\n  dna: {'ACGT' * 200}"


@pytest.mark.parametrize("end", ["", "=", "== \n"])
def test_encoded_data_may_be_broken_and_end_in_padding(end: str) -> None:
    data = "\n  ".join(["iVBORw0KGgoAAAANSUhEUgAAAAUAiVBORw0KGgoAAAANSUhEUgAAAAUA"] * 20)
    assert read(f"<r><image>{data}{end}</image><name>a</name></r>").text == "r\n  image\n  name: a"


@pytest.mark.timeout(60)
def test_space_within_what_looks_like_encoded_data_is_read_in_proportion() -> None:
    data = "aB3" * 200 + " " * 200_000 + "!"  # takes under a second; with a quadratic step, minutes
    assert read(f"<r><image>{data}</image></r>").text == f"r\n  image: {'aB3' * 200} !"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<p><b>Bo</b><i>ld</i></p>", "Bold"),
        ("<p><i>H</i><sub>2</sub>O</p>", "H2O"),
        ("<p>one<x>two</x>three</p>", "onetwothree"),
        ("<p><x>one</x><x>two</x></p>", "one two"),
        ("<p>a<br/>b</p><p>c</p>", "a\nb\n\nc"),
        ("a<p>b</p>c", "a\n\nb\n\nc"),
        ("<cite><who><a>A.</a></who></cite><cite><who><a>B.</a></who></cite><p>C</p>", "A.\n\nB.\n\nC"),
        ("<p/><tr><td>a</td></tr><td>b</td>", "a\n\nb"),
        ('<p>see<graphic alt="A map"/>here</p>', "see A map here"),
        ("<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><p>d</p>", "- a\n- b\n  - c\n\nd"),
        ("<table><tr><td>a</td><td>b<p>c</p></td></tr></table><p/>", "| a | b c |\n| --- | --- |"),
        (
            "<table><tr><td>a<table><tr><td>b</td></tr></table></td><td>c</td></tr></table>",
            "| a b | c |\n| --- | --- |",
        ),
    ],
)
def test_inline_and_block_elements(body: str, text: str) -> None:
    assert read(f"<doc>{body}</doc>").text == text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('<?xml version="1.0" encoding="EUC-JP"?><r>日本</r>'.encode("euc_jp"), "r: 日本"),
        ('<?xml version="1.0" encoding="windows-1251"?><r>Привет</r>'.encode("cp1251"), "r: Привет"),
        ('<?xml version="1.0" encoding="UTF-16"?><r>é</r>'.encode("utf-16"), "r: é"),
        (b'\xef\xbb\xbf<?xml version="1.1"?><r>a</r>', "r: a"),
        (b'\n  <?xml version="1.0"?><r>a\x0bb</r>', "r: ab"),
        (b"<r>a\r\nb</r>", "r:\n  a\n  b"),
    ],
)
def test_encodings_and_declarations(data: bytes, text: str) -> None:
    assert read(data).text == text


@pytest.mark.parametrize("xml", ["<r>a & b</r>", "<r><a></r>", "<r>&unknown;</r>", "<r>x</r><r/>", "text", "<r a=1/>"])
def test_what_is_not_well_formed_is_kept_as_it_is(xml: str) -> None:
    document = read(xml)
    assert (document.text, document.syntax) == (xml, "plain")


def test_what_is_cut_off_is_read_up_to_there() -> None:
    document = read(JATS[: JATS.index("<sec><title>Data")])
    assert document.text.endswith("  - inner")
    assert document.metadata["parts_failed"] == ["end of the document"]
    for xml in ("<r><a>b</a><c>last words", "<r><a>b</a><c>last<![CDATA[ words"):
        assert read(xml).text == "r\n  a: b\n  c: last words"
    for twentieth in range(20):
        assert read("x" + JATS[: len(JATS) * twentieth // 20]).text


BOMB = "".join(f'<!ENTITY {name} "{f"&{other};" * 10}">' for other, name in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    "declared",
    [
        f'<!ENTITY a "lol">{BOMB}',
        '<!ENTITY i SYSTEM "file:///etc/hostname">',
        '<!ENTITY i PUBLIC "x" "http://x.example/i">',
        '<!ENTITY i "harmless">',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(declared: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", _no_socket)
    xml = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE r [{declared}]><r>&i;</r>'
    with pytest.raises(ExtractError, match="declares XML entities") as caught:
        read(xml.encode(encoding))
    assert caught.value.code == "corrupt"
    assert "hostname" not in str(caught.value)


def _no_socket(*_: object, **__: object) -> NoReturn:
    pytest.fail("a reader opened a socket")


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE r SYSTEM "http://x.example/r.dtd">',
        '<!DOCTYPE r SYSTEM "r.dtd" [ ]>',
        '<!DOCTYPE r [<!NOTATION TIF SYSTEM "tif"><!ENTITY drawing SYSTEM "a.tif" NDATA TIF>]>',
        '<!DOCTYPE r [<!ENTITY % HTMLlat1 PUBLIC "-//W3C//ENTITIES Latin 1" "http://x.example/lat1.ent"> %HTMLlat1;]>',
        "<!DOCTYPE r [<!ENTITY % x '<!ENTITY y \"z\">'> %x;]>",
        "<!DOCTYPE r [<!ELEMENT r (#PCDATA)>]>",
    ],
)
def test_harmless_document_types_are_read(doctype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", _no_socket)
    assert read(f"{doctype}<r>text</r>").text == "r: text"


def test_attributes_declared_by_the_thousand_are_refused() -> None:
    declared = " ".join(f'a{number} CDATA "x"' for number in range(MAX_DECLARED_ATTRIBUTES + 1))
    assert code_of(f"<!DOCTYPE r [<!ATTLIST r {declared}>]><r/>") == "corrupt"


def test_default_values_do_not_multiply() -> None:
    xml = f'<!DOCTYPE r [<!ATTLIST b c CDATA "{"x" * 10_000}">]><r>{"<b/>" * 1_000}</r>'
    assert len(read(xml).text) < 10_000


@pytest.mark.parametrize("tag", ["p", "a", "list", "sec", "td", "fn", "title"])
def test_deep_nesting_is_read_or_kept_as_it_is(tag: str) -> None:
    for depth in (MAX_DEPTH - 2, 200_000):
        xml = f"<r><p>x</p>{f'<{tag}>' * depth}bottom{f'</{tag}>' * depth}</r>"
        text = read(xml).text
        assert "bottom" in text
        assert len(text) <= 20 * len(xml)


def test_lists_nested_deep_are_indented_in_proportion() -> None:
    xml = f"<r>{'<list><list-item><p>x</p>' * 3_000}{'</list-item></list>' * 3_000}</r>"
    assert len(read(xml).text) < len(xml)


TAGS = (
    *("article", "sec", "title", "p", "list", "list-item", "label", "table", "tr", "td", "fn", "xref", "math", "item"),
    *("channel", "entry", "description", "pre", "author", "x", "b", "br", "tex-math", "ref", "ref-list", "listitem"),
)


def element(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    made = st.tuples(st.sampled_from(TAGS), st.sampled_from(["", ' alt="words"']), st.lists(inner, max_size=4))
    return made.map(lambda node: f"<{node[0]}{node[1]}>{''.join(node[2])}</{node[0]}>")


WORDS = st.sampled_from(["alpha", "beta", " ", "7", "&lt;i&gt;", "\n", "<![CDATA[gamma]]>", "<!-- delta -->"])


NESTED = st.recursive(WORDS, element, max_leaves=40)


@given(NESTED, st.sampled_from(["rss", "p", "r", "feed", "RDF"]))
def test_any_nesting_of_elements_is_read(body: str, root: str) -> None:
    text = read(f"<{root}>start {body} finish</{root}>").text
    assert "start" in text
    assert "finish" in text
    assert "\x01" not in text


@given(NESTED.filter(lambda body: "tex-math" not in body), st.sampled_from(["<p>.</p>", ""]))
def test_no_word_is_lost_or_doubled(body: str, paragraph: str) -> None:
    text = read(f"<doc>{paragraph}{body}</doc>").text
    for word in ("alpha", "beta", "gamma"):
        assert text.count(word) == body.count(word)


@given(st.lists(st.sampled_from(["alpha", "beta", "gamma"]), min_size=1), st.sampled_from(["p", "para", "x"]))
def test_inline_elements_split_no_words_and_others_join_none(words: list[str], block: str) -> None:
    inline = "".join(f"<{block}>{word[:2]}<b>{word[2:]}</b></{block}>" for word in words)
    assert read(f"<doc><p>.</p>{inline}</doc>").text.replace(".", "").split() == words


@given(st.text(st.sampled_from("<>/!?[]-&;\"' =apx\n"), max_size=60))
def test_any_text_gives_a_document_or_a_reason(text: str) -> None:
    try:
        read(f"<r>{text}").text.encode()
    except ExtractError as error:
        assert error.code == "corrupt"

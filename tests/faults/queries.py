"""Questions that people type, and that nobody should: for fuzzing every search."""

from __future__ import annotations

from hypothesis import strategies as st

NASTY = [
    "multi-agent", "node.js", "C++", "C#", "a'b", "don't", "*", "a*", "NOT x", "a AND", "OR", "NEAR(", "NEAR(a b, 3)",
    "", " ", "\t\n", "\0", "a\0b", "body:x", "scope:x", "-body:x", "{heading body}:x", "proj: x", "^x",
    "x) OR proj:(p7",
    '"', 'say "hi', '""', '"a" "', "“a”", "'; DROP TABLE messages; --", "%", "_", "\\", "`", "()", "(((((",
    "a + b", "..",
    "3.14", "1,000,000", "ADR-016", "getUserById", "foo_bar", "http://x.org/?q=a&b=c#d", "a@b.cc", "x:y:z", "-",
    "--help",
    "\ud800", "\udfff\ud800", "a\udc80b", "😀", "👨‍👩‍👧‍👦", "🄰" * 50, "\u202eabc", "\u200b", "\ufeff",
    "\u0301" * 200, "ﷺ", "ß", "İ",
    "שלום עולם", "مرحبا بالعالم", "ยินดีต้อนรับ", "東京", "京", "にほんご", "カタカナ", "한국어", "中文搜索引擎",
    "привет", "हिन्दी",
    "\ue010", "\ue0101", "\ue000\ue001", "\ue020", "\uffff", "\U0010ffff", "\x7f", "\x1b[31m", "NULL", "rowid", "match",
]  # fmt: skip
LONG = [
    "x " * 20_000,
    " ".join(map(str, range(20_000))),
    "a" * 100_000,
    "東" * 20_000,
    '"' * 10_000,
    "(" * 10_000,
    "a-" * 10_000,
    "NOT " * 5_000,
    "e" + "\u0301" * 50_000,
]
WORDS = ["harbour", "ship", "multi-agent", "node.js", "C++", "the", "東京", "港", "한국", "กรุงเทพ", "ship's", "ships"]

ANY = st.text(st.characters(exclude_categories=()), max_size=40)
PIECES = st.lists(st.one_of(st.sampled_from(NASTY + WORDS), ANY), max_size=6)
QUERIES = st.one_of(
    ANY,
    st.sampled_from(NASTY),
    st.builds(str.join, st.sampled_from(["", " ", '"', "-", ":", "*", "(", ") OR ", "\0", "'", "+"]), PIECES),
)
"""Any text, what is known to be nasty, and both together."""

"""Characters that Word names by a font and a code, as `Insert > Symbol` does."""

from __future__ import annotations

import re

_SYMBOL_FONT = dict(
    zip(
        (*range(0x20, 0x7F), *range(0xA0, 0xE6), 0xF1, 0xF2),
        " !∀#∃%&∋()∗+,−./0123456789:;<=>?≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_‾αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼"
        "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…⏐⎯↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈®©™∑〉∫",
        strict=True,
    )
)
"""By code. Source: Adobe Symbol Encoding (unicode.org/Public/MAPPINGS/VENDORS/ADOBE/symbol.txt)."""

_CODE = re.compile(r"[0-9A-Fa-f]{1,4}", re.ASCII)


def symbol(font: str, code: str) -> str:
    """Return the character of a hexadecimal code in a font; empty for the pictures of fonts such as Wingdings."""
    if not _CODE.fullmatch(code):
        return ""
    number = int(code, 16)
    if font.lower() == "symbol":
        return _SYMBOL_FONT.get(number & 0xFF, "")
    of_pictures = font.lower().startswith(("wingdings", "webdings"))
    return "" if of_pictures or not chr(number).isprintable() else chr(number)

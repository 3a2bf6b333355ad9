from __future__ import annotations

import io
import struct
import warnings
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.archive import unpack
from storage.errors import ExtractError


def zipped(entries: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore", UserWarning)  # zipfile warns of names that repeat
        for name, content in entries:
            archive.writestr(name, content)
    return out.getvalue()


def refused(data: bytes) -> ExtractError:
    with pytest.raises(ExtractError) as caught:
        unpack(data, wanted=lambda name: True)
    return caught.value


def patched(data: bytes, name: bytes, field_offset: int, field: bytes) -> bytes:
    """The archive with a field of one entry's record in the central directory replaced."""
    record = data.rindex(b"PK\x01\x02", 0, data.rindex(name))
    at = record + field_offset
    return data[:at] + field + data[at + len(field) :]


def test_only_what_is_wanted_is_unpacked() -> None:
    data = zipped([("a.xml", b"<a/>"), ("folder/", b""), ("b.png", b"\x89PNG")])
    assert unpack(data, wanted=lambda name: name.endswith(".xml")) == {"a.xml": b"<a/>"}


@given(st.dictionaries(st.text("abcdefg/", min_size=1).filter(lambda n: n[0] != "/" and n[-1] != "/"), st.binary()))
def test_what_was_packed_comes_back(files: dict[str, bytes]) -> None:
    assert unpack(zipped(list(files.items())), wanted=lambda name: True) == files


def test_a_part_packed_more_than_100_to_1_is_a_bomb() -> None:
    error = refused(zipped([("a.xml", bytes(2_000_000))]))
    assert error.code == "too_large"
    assert "zip bomb" in error.message


def test_a_blank_picture_that_is_never_unpacked_is_no_bomb() -> None:
    data = zipped([("a.xml", b"<a/>"), ("blank.emf", bytes(2_000_000))])
    assert unpack(data, wanted=lambda name: name.endswith(".xml")) == {"a.xml": b"<a/>"}


def test_more_than_200_mb_in_all_is_refused_before_anything_is_unpacked() -> None:
    data = zipped([("a.bin", b"x"), ("b.xml", b"<b/>")])
    error = refused(patched(data, b"a.bin", 24, struct.pack("<I", 210_000_000)))
    assert error.code == "too_large"
    assert "210 MB" in error.message


def test_more_than_2000_entries_are_refused() -> None:
    assert refused(zipped([(f"{number}.xml", b"") for number in range(2001)])).code == "too_large"


@pytest.mark.parametrize("name", ["../a.xml", "x/../../a.xml", "/a.xml", "C:/a.xml", "..\\a.xml", "\\a.xml"])
def test_names_that_lead_out_of_the_archive_are_refused(name: str) -> None:
    assert refused(zipped([(name, b"x")])).code == "corrupt"


def test_an_entry_without_a_name_costs_no_other_one() -> None:
    """Python's zipfile takes a NUL for the end of a name, and asks for the last letter of what is left."""
    data = zipped([("Xa.xml", b"1"), ("b.xml", b"2"), ("folder/", b"")]).replace(b"Xa.xml", b"\0a.xml")
    assert unpack(data, wanted=lambda name: True)["b.xml"] == b"2"


def test_repeated_names_are_refused() -> None:
    assert refused(zipped([("a.xml", b"1"), ("a.xml", b"2")])).code == "corrupt"


def test_overlapping_entries_are_refused() -> None:
    data = zipped([("a.xml", b"1" * 100), ("b.xml", b"2" * 100)])
    assert "overlap" in refused(patched(data, b"b.xml", 42, struct.pack("<I", 1))).message


def test_a_part_larger_than_its_directory_says_is_not_inflated_further() -> None:
    data = zipped([("a.xml", bytes(900_000))])
    assert refused(patched(data, b"a.xml", 24, struct.pack("<I", 10))).code == "corrupt"


def test_an_encrypted_archive_says_so() -> None:
    data = zipped([("a.xml", b"1")])
    assert refused(patched(data, b"a.xml", 8, b"\x01\x00")).code == "encrypted"


@pytest.mark.parametrize("cut", [0, 10, 60])
def test_no_archive_or_half_of_one_is_corrupt(cut: int) -> None:
    assert refused(zipped([("a.xml", b"1" * 100)])[:cut]).code == "corrupt"

"""The comparison of our readers with others: its measure, and that it gets through any folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.extraction import f1, rtf

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("Herons nest here.", "herons\nNEST | here", 1.0),
        ("a b", "c d", 0.0),
        ("", "", 1.0),
        ("!", "…", 1.0),
        ("a", "", 0.0),
        ("a b c d", "a b", 2 * (2 / 4) * (2 / 2) / (2 / 4 + 2 / 2)),
        ("a a a", "a", 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("Straße_1 ÉTÉ", "straße_1 été", 1.0),
    ],
)
def test_f1_counts_words_as_often_as_they_stand(ours: str, theirs: str, expected: float) -> None:
    assert f1(ours, theirs) == pytest.approx(expected)
    assert f1(theirs, ours) == f1(ours, theirs)


def test_control_words_of_rtf_are_no_text() -> None:
    text = rb"{\rtf1{\fonttbl{\f0 Arial;}}{\*\generator X;}\f0\b caf\'e9\b0  \u8364? 5\par{\i next}\~line\}}"
    assert rtf(text, "a.rtf").split() == ["café", "€", "5", "nextline}"]


def test_any_folder_gives_tables(tmp_path: Path, sample_data: Path) -> None:
    shutil.copytree(sample_data / "demo", tmp_path / "demo")
    shutil.copytree(sample_data / "bad", tmp_path / "bad")
    command = [sys.executable, "-m", "benchmarks.extraction", str(tmp_path), "--format", "pdf", "--format", "docx"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    fates, agreement, outliers = (table.splitlines() for table in done.stdout.strip().split("\n\n"))
    assert fates[0].startswith("| format | files | ready | corrupt | encrypted | no_text | ")
    assert [line.rpartition(" | ")[0].rpartition(" | ")[0] for line in fates[2:]] == [
        "| docx | 4 | 1 | 2 | 1 | –",
        "| pdf | 6 | 3 | 1 | 1 | 1",
    ]
    assert "| pdf | pypdf | 3 | 1.000 | 0 | " in agreement[3]
    assert len(outliers) == 2
    assert str(tmp_path) not in done.stdout

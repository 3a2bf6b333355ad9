"""Whatever is killed, whenever: nothing is lost, doubled or half-written, and nobody is left behind."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from faults import storm

from storage.database import Database
from storage.verify import verify


def written_tree(folder: Path, files: int) -> Path:
    """A tree of our own: small texts, all different, and every tenth a copy of the one before."""
    folder.mkdir()
    for number in range(files):
        twin = number - 1 if number % 10 == 9 else number
        paragraphs = [
            f"Paragraph {part} of note {twin}: the harbour log speaks of ship {twin * part}." for part in range(40)
        ]
        (folder / f"note-{number:04}.md").write_text(f"# Note {twin}\n\n" + "\n\n".join(paragraphs), "utf8")
    return folder


def assert_equal_to_calm(stormy: Path, calm: Path, folder: Path) -> None:
    assert storm.run_calmly(calm, folder) in (0, 1)
    assert storm.run_calmly(stormy, folder) in (0, 1)
    with Database.open(stormy) as db:
        assert verify(db, deep=True) == []
    assert storm.texts(stormy) == storm.texts(calm)


@pytest.mark.xdist_group("faults")
def test_killed_ingestion_resumes_to_the_same_chunks(tmp_path: Path) -> None:
    folder = written_tree(tmp_path / "in", 120)
    done = storm.kill_ingestion(tmp_path / "stormy.db", folder, 4, random.Random(1), span_s=0.6)
    assert done.hits >= 2
    assert_equal_to_calm(tmp_path / "stormy.db", tmp_path / "calm.db", folder)


@pytest.mark.xdist_group("faults")
def test_killed_parsers_cost_nothing_but_time(tmp_path: Path) -> None:
    folder = written_tree(tmp_path / "in", 120)
    done = storm.kill_parsers(tmp_path / "stormy.db", folder, 3, random.Random(2), span_s=0.3)
    assert done.kills >= 1
    assert_equal_to_calm(tmp_path / "stormy.db", tmp_path / "calm.db", folder)


FOLDERS = {
    "ingestion": ("mix-unstructured", "pdf-pypdf-samples", "pdf-pdfminer", "mix-docling", "html-readability"),
    # Much to parse and little to embed, as a parser can be killed only while there is something to parse.
    "parsers": ("pdf-pdfjs", "pdf-pypdf-resources", "pdf-pypdf-samples", "pdf-pdfminer", "pdf-verapdf", "office-poi"),
}


def real_tree(shared_data: Path, folder: Path, names: tuple[str, ...]) -> Path:
    """Real documents, many and small."""
    folder.mkdir()
    for name in names:
        for path in sorted((shared_data / "docs" / name).rglob("*")):
            if path.is_file() and path.stat().st_size < 200_000:
                shutil.copyfile(path, folder / f"{len(os.listdir(folder)):04}-{path.name}")
    return folder


@pytest.mark.soak
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("target", ["ingestion", "parsers"])
def test_fifty_kills_over_real_documents(target: str, tmp_path: Path, shared_data: Path) -> None:
    folder = real_tree(shared_data, tmp_path / "in", FOLDERS[target])
    stormy = tmp_path / "stormy.db"
    rng = random.Random(50)
    kills = hits = 0
    while kills < 50:
        if target == "ingestion":
            done = storm.kill_ingestion(stormy, folder, 50 - kills, rng, span_s=2.0)
        else:
            done = storm.kill_parsers(stormy, folder, 50 - kills, rng, span_s=0.3)
        kills, hits = kills + done.kills, hits + done.hits
        if kills < 50:  # all was done before fifty kills: begin again with an empty database
            assert_equal_to_calm(stormy, tmp_path / "calm.db", folder)
            for path in tmp_path.glob("stormy.db*"):
                path.unlink()
    print(f"\n{target}: {kills} kills, {hits} hit work in progress")
    assert hits >= 30
    assert_equal_to_calm(stormy, tmp_path / "calm.db", folder)

"""What the comparison with other toolkits rests on: the sample, the counts, the clocks' frame. It tells no speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from reportlab.pdfgen import canvas

from benchmarks import ingestion, samples
from benchmarks.peers import __main__ as peers
from benchmarks.processes import run, stored_bytes

ROOT = Path(__file__).parent.parent.parent
RUN = peers.Run("Knowlex fp32", 2.0, 4.0, 300.0, 0.5, 0.5, 3, 30, 30, 8000, 0, 10**6)

TOOLKIT = """
import measured
from sentence_transformers import SentenceTransformer

def load(model):
    loaded = SentenceTransformer(model, device="cpu")
    loaded.encode("word")
    return loaded

def ingest(model, folder, store, batch):
    texts = [file.read_text("utf-8") for file in sorted(folder.iterdir())]
    model.encode(texts, batch_size=batch)
    (store / "done").write_text("\\n".join(["a.txt"] * len(texts)))

measured.main(load, ingest, lambda model, store: (store / "done").read_text().split("\\n"))
"""


def test_a_sample_is_the_same_at_every_run_and_of_texts_that_everybody_can_read(tmp_path: Path) -> None:
    for name, content in {
        "a.md": b"heron " * 10,
        "in/b.txt": b"reed " * 10,
        "in/large.txt": b"x" * 300,
        "latin.txt": "Brücke".encode("cp1252"),
        "blank.txt": b" \n",
        "no.pdf": b"%PDF-1.4 nothing",
        "c.csv": b"1,2",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    files = samples.found(tmp_path, samples.TEXT)
    assert files == samples.found(tmp_path, samples.TEXT)
    assert {file.name for file in files} == {"a.md", "b.txt", "large.txt", "latin.txt", "blank.txt"}
    assert {file.name for file in samples.up_to(1000, files)} == {"a.md", "b.txt"}
    assert len(samples.up_to(250, [tmp_path / "a.md"] * 9)) == 4
    assert samples.up_to(1000, samples.found(tmp_path, samples.PDF)) == []
    place = samples.lay(samples.up_to(1000, files), tmp_path, tmp_path / "copy")
    assert (place / "in" / "b.txt").read_bytes() == b"reed " * 10


def test_a_pdf_is_taken_when_all_of_it_can_be_read(tmp_path: Path) -> None:
    for name, second in {"sound.pdf": "Reeds.", "broken.pdf": None}.items():
        page = canvas.Canvas(str(tmp_path / name))
        page.drawString(50, 700, "Herons.")
        page.showPage()
        page.drawString(50, 700, second) if second else page._code.append("BT [628 FR 13674]N)Tj ET")
        page.showPage()
        page.save()
    assert samples.up_to(100_000, samples.found(tmp_path, samples.PDF)) == [tmp_path / "sound.pdf"]


def test_a_folder_without_such_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no files of \.pdf"):
        samples.found(tmp_path, samples.PDF)


def test_memory_and_cpu_time_are_of_all_processes() -> None:
    child = "held = bytearray(150 * 2**20); sum(range(3 * 10**7)); import time; time.sleep(1); print(len(held))"
    parent = f"import subprocess, sys; held = bytearray(150 * 2**20); subprocess.run([sys.executable, '-c', {child!r}])"
    cost = run(sys.executable, "-c", parent)
    assert cost.output == f"{150 * 2**20}\n"
    assert cost.peak_mb > 300
    assert cost.cpu_s > 0.1


def test_memory_is_not_that_of_the_program_that_measures() -> None:
    measuring = (
        "held = bytearray(400 * 2**20)\n"
        "from benchmarks.processes import run\nimport sys\n"
        "print(run(sys.executable, '-c', 'import time; time.sleep(0.5)').peak_mb)"
    )
    root = Path(samples.__file__).parent.parent
    assert 1 < float(run(sys.executable, "-c", measuring, folder=root, PYTHONPATH=str(root)).output) < 100


def test_memory_that_was_given_back_counts() -> None:
    child = "import time; held = bytearray(200 * 2**20); del held; time.sleep(1)"
    assert run(sys.executable, "-c", child).peak_mb > 200


def test_a_command_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="exit 3"):
        run(sys.executable, "-c", "raise SystemExit(3)")
    assert run(sys.executable, "-c", "raise SystemExit(3)", fine=(3,)).output == ""


def test_what_is_stored_is_a_database_with_its_log_or_a_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"1" * 10)
    (tmp_path / "a.db-wal").write_bytes(b"1" * 5)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "other").write_bytes(b"1")
    assert stored_bytes(tmp_path / "a.db") == 15
    assert stored_bytes(tmp_path) == 16


def test_the_tokens_counted_at_the_model_are_the_tokenizers(tmp_path: Path) -> None:
    texts = [
        "Herons nest in reeds.",
        "Herons nest in reeds.",
        "word " * 700,
        "A longer one, which is padded beside it.",
    ]
    (tmp_path / "in").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "in" / f"{number}.txt").write_text(text, "utf-8")
    (tmp_path / "with_test.py").write_text(TOOLKIT, "utf-8")
    told = (str(ingestion.model_folder()), str(tmp_path / "in"), str(tmp_path / "store"), "2", "4")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "with_test.py"), *told],
        env=os.environ | peers.QUIET | {"PYTHONPATH": str(ROOT / "benchmarks" / "peers")},
        capture_output=True,
        text=True,
        check=True,
    )
    for each, batch in zip(json.loads(done.stdout.splitlines()[-1]), (2, 4), strict=True):
        assert (each["batch"], each["files"], each["chunks"], each["inputs"]) == (batch, 1, 4, 4)
        assert each["tokens"] == ingestion.tokens_of(texts)


def test_knowlex_is_measured_as_it_is_used(tmp_path: Path, sample_data: Path) -> None:
    one = peers.knowlex("fp32")(sample_data / "demo", tmp_path)
    assert one.files == 10
    assert one.chunks >= one.inputs > 0
    assert one.tokens > one.inputs
    assert one.tokens_again == 0


def test_everybody_takes_every_turn() -> None:
    orders = peers.turns(5, 5)
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert {order[0] for order in orders} == set(range(5))


def test_the_table_holds_each_precision_to_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    rivals = [replace(RUN, name="slow 32", wall_s=8.0), replace(RUN, name="fast 8", wall_s=5.0)]
    peers.tell([replace(RUN, name="Knowlex bf16", wall_s=1.0), RUN, *rivals], bars=True)
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == [
        "Knowlex bf16: 5.00 times fast 8 (bar 4: met)",
        "Knowlex fp32: 2.50 times fast 8 (bar 2: met)",
    ]
    peers.tell([replace(RUN, wall_s=3.0), *rivals], bars=True)
    assert capsys.readouterr().out.endswith("Knowlex fp32: 1.67 times fast 8 (bar 2: missed)\n")


def test_a_median_is_taken_of_each_figure() -> None:
    middle = peers.typical([replace(RUN, wall_s=wall_s, cpu_s=9 - wall_s) for wall_s in (1.0, 4.0, 2.0)])
    assert (middle.name, middle.wall_s, middle.cpu_s) == ("Knowlex fp32", 2.0, 7.0)


def test_a_tree_is_held_to_its_bars(sample_data: Path) -> None:
    few = ("--precision", "fp32", "--files", "3", "--workers", "1")
    command = [sys.executable, "-m", "benchmarks.tree", str(sample_data / "demo"), *few]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("3 files: ")
    assert "fp32: 3 files, " in done.stdout
    assert [line.partition("  ")[0] for line in done.stdout.splitlines() if "   bar " in line] == [
        "CPU-seconds over the model's alone (text formats)",
        "seconds of an unchanged run, with start",
        "peak memory in MB",
        "peak memory over that of 1,000 files",
    ]

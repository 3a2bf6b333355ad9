"""Nothing that strangers send is run as code, and none of them chooses a model; nothing planted gets out."""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import quote

import pytest
from canaries import Canaries
from faults.table import Figure

from knowlex import ForbiddenError, remote
from knowlex.config import load_settings
from knowlex.remote import OF_THE_OWNER, OWNERS_CALLS, require_settable
from pipeline.extract.pdf_text import locked

ROOT = Path(__file__).parents[2]
PACKAGES = ("knowlex", "workers", "pipeline", "storage")
DOORS = ("knowlex/server", "knowlex/mcp_server")
"""Where requests of strangers come in."""

UNPICKLE = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "dbm", "jsonpickle"}
"""Modules whose reading runs what was written."""

LOADS = {"torch.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "pandas.read_pickle", "pd.read_pickle"}


@cache
def trees(folder: str) -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text("utf8"))) for path in sorted((ROOT / folder).rglob("*.py"))]


def running(tree: ast.Module) -> Iterator[str]:
    """Yield what in a module may run what it reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (f"import {each.name}" for each in names if each.name.partition(".")[0] in UNPICKLE)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in UNPICKLE:
                yield f"from {module}"
            case ast.Call(func=function, keywords=keywords):
                called = ast.unparse(function)
                if called in LOADS | {"eval", "exec", "compile", "__import__"}:
                    yield called
                yield from (f"{called}({each.arg}=…)" for each in keywords if _trusts(each))
            case _:
                pass


def _trusts(keyword: ast.keyword) -> bool:
    """Whether an argument allows code or pickles: it may be there only to forbid them."""
    forbidding = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    return keyword.arg in ("trust_remote_code", "allow_pickle") and not forbidding


@pytest.mark.row(27)
@pytest.mark.proof
def test_nothing_in_the_packages_runs_what_it_reads(figure: Figure) -> None:
    modules = [module for package in PACKAGES for module in trees(package)]
    found = [f"{path.relative_to(ROOT)}: {what}" for path, tree in modules for what in running(tree)]
    figure(27, f"{len(modules)} modules: {len(found)} run what they read{found or ''}", not found)
    assert len(modules) > 100


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from marshal import loads", "import shelve as s", "import joblib.numpy_pickle",
        "torch.load(f)", "yaml.load(text)", "eval(text)", "exec(text)", "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=asked)",
        "SentenceTransformer(name, trust_remote_code=True)", "AutoModel.from_pretrained(n, trust_remote_code=trusted)",
    ],
)  # fmt: skip
@pytest.mark.row(27)
def test_what_would_is_found(line: str) -> None:
    assert list(running(ast.parse(line)))


@pytest.mark.row(27)
def test_who_loads_a_model_says_that_its_code_is_not_to_be_run() -> None:
    """Left out, the libraries' own default would decide."""
    for path, tree in trees("pipeline"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "SentenceTransformer",
                "CrossEncoder",
            ):
                assert "trust_remote_code" in {keyword.arg for keyword in node.keywords}, f"{path.name}:{node.lineno}"


def chosen(tree: ast.Module) -> Iterator[str]:
    """Yield what requests name that is the owner's: in bodies, as parameters of routes and tools, by calls."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(body=body):
                yield from _owners([field for each in body for field in _fields(each)])
            case (
                ast.FunctionDef(decorator_list=[_, *_], args=arguments)
                | ast.AsyncFunctionDef(decorator_list=[_, *_], args=arguments)
            ):
                yield from _owners([(each.arg, each.annotation) for each in (*arguments.args, *arguments.kwonlyargs)])
            case ast.Attribute(value=ast.Name(id="kb"), attr=name) if name in OWNERS_CALLS:
                yield f"kb.{name}"
            case _:
                pass


def _fields(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, node.annotation


def _owners(named: list[tuple[str, ast.expr | None]]) -> Iterator[str]:
    for name, kind in named:
        if name in OF_THE_OWNER | {"syntax"} or (name == "rerank" and "str" in ast.unparse(kind or ast.Constant(None))):
            yield name


@pytest.mark.row(27)
def test_no_request_chooses_a_model_or_a_setting_of_the_owner() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {what}" for door in DOORS for path, tree in trees(door) for what in chosen(tree)
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "class Search(BaseModel):\n    model: str",
        "class Search(BaseModel):\n    rerank: bool | str = False",
        "class Search(BaseModel):\n    syntax: str = 'plain'",
        "@router.post('/')\ndef search(rerank_model: str): ...",
        "@tool\nasync def search(cache_dir: str): ...",
        "kb.reembed(body.name)",
        "kb.restore(path)",
    ],
)
@pytest.mark.row(27)
def test_a_request_that_would_is_found(source: str) -> None:
    assert list(chosen(ast.parse(source)))


@pytest.mark.row(27)
def test_what_decides_on_models_places_and_the_machine_is_the_owners() -> None:
    for key in (
        "model",
        "rerank_model",
        "backend",
        "device",
        "cache_dir",
        "ingest_roots",
        "parse_memory_mb",
        "workers",
    ):
        assert key in OF_THE_OWNER
    settings = load_settings({"max_file_mb": 50})
    for named in ({"settings": {"ingest": {"model": "x"}}}, {"set": {"parse_memory_mb": 5}}):
        with pytest.raises(
            ForbiddenError, match="is for the server's owner to set; a project may have include, exclude"
        ):
            require_settable(settings, **named)
    for named in ({"settings": {"ingest": {"max_file_mb": 51}}}, {"set": {"max_file_mb": 50.5}}):
        with pytest.raises(ForbiddenError, match="is more than the server's owner allows; give at most 50"):
            require_settable(settings, **named)
    require_settable(settings, {"ingest": {"max_file_mb": 50}, "model": "a value of one's own"}, {"hidden": True})
    require_settable(settings, {"ingest": "no object, which whoever keeps it refuses"}, {"max_file_mb": "none"})


# --- canaries ------------------------------------------------------------------------------------------------------


def test_a_word_that_got_out_is_found_however_it_is_written() -> None:
    canaries = Canaries()
    word, path = canaries.new("text"), canaries.note("home", "/home/a b/ü")
    for said in (
        f"a {word.upper()}.",
        json.dumps({"x": f"{word}"}),
        base64.b64encode(f"..{word}..".encode()),
        word.encode().hex(),
    ):
        assert canaries.found("nothing", said) == ["text"]
    for said in (quote(path), json.dumps(path), path.encode(), quote(path, safe="")):
        assert canaries.found(said) == ["home"]
    assert canaries.found("nothing", word[:-1], "/home/a") == []
    assert canaries.found(word, path) == ["home", "text"]


def test_nobody_elsewhere_is_told_to_give_an_option_of_the_command_line() -> None:
    told = remote.why(locked(()).message)
    assert told == f"encrypted: a password is needed: {remote.ELSEWHERE}"
    assert remote.why(told) == told
    assert remote.why(None) is None

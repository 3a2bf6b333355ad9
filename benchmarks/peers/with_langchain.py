"""LangChain: DirectoryLoader, RecursiveCharacterTextSplitter as in its tutorials (1,000 characters, 200 shared),
HuggingFaceEmbeddings, Chroma on disk, and `index` with a record manager in SQLite. The batch is that of `index`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import measured
from langchain_chroma import Chroma
from langchain_classic.indexes import SQLRecordManager, index
from langchain_community.document_loaders import BSHTMLLoader, DirectoryLoader, PyPDFLoader, TextLoader
from langchain_core.documents import Document
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_text_splitters import RecursiveCharacterTextSplitter

LOADERS = (
    (["*.md", "*.rst", "*.txt"], TextLoader, {"encoding": "utf-8"}),
    (["*.htm", "*.html"], BSHTMLLoader, {"open_encoding": "utf-8"}),
    (["*.pdf"], PyPDFLoader, {}),
)


def load(model: str) -> HuggingFaceEmbeddings:
    embeddings = HuggingFaceEmbeddings(model_name=model, model_kwargs={"device": "cpu"})
    embeddings.embed_query("word")
    return embeddings


def ingest(embeddings: HuggingFaceEmbeddings, folder: Path, store: Path, batch: int) -> None:
    vectors = opened(embeddings, store)
    records = SQLRecordManager("chroma/bench", db_url=f"sqlite:///{store / 'records.db'}")
    records.create_schema()
    splitter = RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200)
    chunks = splitter.split_documents(documents(folder))
    index(chunks, records, vectors, batch_size=batch, cleanup="full", source_id_key="source", key_encoder="sha256")


def contents(embeddings: HuggingFaceEmbeddings, store: Path) -> list[str]:
    return [metadata["source"] for metadata in opened(embeddings, store).get(include=["metadatas"])["metadatas"]]


def opened(embeddings: HuggingFaceEmbeddings, store: Path) -> Chroma:
    return Chroma("bench", embeddings, persist_directory=str(store / "chroma"))


def documents(folder: Path) -> Iterator[Document]:
    for patterns, loader, options in LOADERS:
        yield from DirectoryLoader(
            str(folder), glob=patterns, recursive=True, loader_cls=loader, loader_kwargs=options
        ).lazy_load()


if __name__ == "__main__":
    measured.main(load, ingest, contents)

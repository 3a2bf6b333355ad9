"""LlamaIndex: SimpleDirectoryReader, SentenceSplitter cut to what the model takes, HuggingFaceEmbedding, Chroma on
disk, and IngestionPipeline with a docstore, which knows what has changed.

The batch is the embedding's. HTML is read by the reader for it, not with its tags as by default; the pipeline's cache,
which would hold all a second time and save nothing beside the docstore, is off.
"""

from __future__ import annotations

from pathlib import Path

import chromadb
import measured
from llama_index.core import SimpleDirectoryReader
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.readers.file import HTMLTagReader
from llama_index.vector_stores.chroma import ChromaVectorStore

HTML = HTMLTagReader(tag="body")


def load(model: str) -> HuggingFaceEmbedding:
    embedding = HuggingFaceEmbedding(model, device="cpu")
    embedding.get_text_embedding("word")
    return embedding


def ingest(embedding: HuggingFaceEmbedding, folder: Path, store: Path, batch: int) -> None:
    embedding.embed_batch_size = batch
    documents = SimpleDirectoryReader(
        folder, recursive=True, filename_as_id=True, file_extractor={".htm": HTML, ".html": HTML}
    ).load_data()
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=256, chunk_overlap=20), embedding],
        vector_store=ChromaVectorStore(chroma_collection=opened(store)),
        docstore=SimpleDocumentStore(),
        disable_cache=True,
    )
    kept = store / "pipeline"
    if kept.is_dir():
        pipeline.load(str(kept))
    pipeline.run(documents=documents)
    pipeline.persist(str(kept))


def contents(embedding: HuggingFaceEmbedding, store: Path) -> list[str]:
    return [str(metadata["file_path"]) for metadata in opened(store).get(include=["metadatas"])["metadatas"] or []]


def opened(store: Path) -> chromadb.Collection:
    return chromadb.PersistentClient(str(store / "chroma")).get_or_create_collection("bench")


if __name__ == "__main__":
    measured.main(load, ingest, contents)

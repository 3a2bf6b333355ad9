"""LlamaIndex: a vector and a BM25 retriever, fused by relative scores, without a language model for more questions.

Runs in LlamaIndex' own environment, without Knowlex: see `asked`.
"""

from __future__ import annotations

import asked
from llama_index.core import VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import TextNode
from llama_index.embeddings.huggingface import HuggingFaceEmbedding
from llama_index.retrievers.bm25 import BM25Retriever


def open_index(model: str, documents: list[tuple[str, str]]) -> asked.Search:
    """Index documents and return what searches them."""
    nodes = [TextNode(id_=id, text=text) for id, text in documents]
    depth = min(asked.DEPTH, len(nodes))
    index = VectorStoreIndex(nodes, embed_model=HuggingFaceEmbedding(model, device="cpu"))
    fusion = QueryFusionRetriever(
        [
            index.as_retriever(similarity_top_k=depth),
            BM25Retriever.from_defaults(nodes=nodes, similarity_top_k=depth),
        ],
        llm=MockLLM(),
        mode=FUSION_MODES.RELATIVE_SCORE,
        similarity_top_k=depth,
        num_queries=1,
        use_async=False,
    )
    return lambda query, k: [found.node.node_id for found in fusion.retrieve(query)][:k]


if __name__ == "__main__":
    asked.main(open_index)

"""Text to token shards: sources, tokenizer, held-out split, duplicates. Reading a built corpus needs numpy only."""

from planner.corpus.store import Corpus

__all__ = ["Corpus"]

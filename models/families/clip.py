"""How much of a prompt a CLIP text encoder reads. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from models.family import read_config
from models.text import TextLimit


def clip_limit(folder: Path, name: str) -> TextLimit:
    """The limit of its tokenizer, at most the encoder's positions."""
    tokenizer = read_config(folder, "tokenizer")
    positions = int(read_config(folder, "text_encoder").get("max_position_embeddings", 77))
    tokens = min(int(tokenizer.get("model_max_length", positions)), positions)
    return TextLimit(folder / "tokenizer", name, tokens)

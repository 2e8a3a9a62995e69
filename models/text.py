"""Finds the words of a prompt that a text encoder drops, because it takes a fixed number of tokens.

    foundation.text_limit.unread("a red square ... in a green forest")      # "in a green forest", or ""

Imports tokenizers only for a prompt that may exceed the limit, transformers only without a tokenizer.json.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TextLimit:
    """How much of a prompt one foundation reads."""

    folder: Path = field(compare=False)  # the tokenizer's folder
    name: str  # the foundation's name
    tokens: int  # including the start and end tokens
    special_tokens: int = 2  # number of start and end tokens

    @property
    def safe_bytes(self) -> int:
        """ASCII texts up to this length are read whole, because every token has at least one character."""
        # beside the first and last tokens, and the space that SentencePiece puts before a text
        return self.tokens - 3

    def unread(self, text: str) -> str:
        """The end of a text that is dropped, in whole words, or "". A word read in part counts as dropped."""
        if text.isascii() and len(text) <= self.safe_bytes:
            return ""
        words = text.split()
        if self.count(text) <= self.tokens:
            return ""
        fits = partial(self._tokens_of, words)
        read = bisect_right(range(len(words) + 1), self.tokens, key=fits) - 1
        return " ".join(words[max(read, 0) :])

    def count(self, text: str) -> int:
        """The number of tokens of a text, including the start and end tokens."""
        found = self._tokenizer(" ".join(text.split()))
        return len(getattr(found, "ids", None) or found.input_ids)

    def _tokens_of(self, words: list[str], number: int) -> int:
        return self.count(" ".join(words[:number]))

    def warning(self, text: str, what: str = "caption") -> str | None:
        """A sentence about the words that are dropped, or None."""
        words = self.unread(text)
        if not words:
            return None
        return f"{self.name} reads only the first {self.tokens - self.special_tokens} tokens of the {what}; ignored: {words!r}"

    @cached_property
    def _tokenizer(self) -> Callable[[str], Any]:
        """A tokenizer without truncation or padding; from transformers only if there is no tokenizer.json."""
        file = self.folder / "tokenizer.json"
        if file.is_file():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(file))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            return tokenizer.encode
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

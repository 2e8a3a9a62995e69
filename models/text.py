"""Which words of a prompt a text encoder never reads: it takes a fixed number of tokens and drops the rest.

    foundation.text_limit.unread("a red square ... in a green forest")      # "in a green forest", or ""

Imports neither torch nor transformers unless a prompt is long and its tokenizer has no tokenizer.json.
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

    folder: Path = field(compare=False)  # of the tokenizer
    name: str  # of the foundation
    tokens: int  # with those that begin and end a prompt
    marks: int = 2  # of these

    @property
    def safe_bytes(self) -> int:
        """An ASCII text of at most so many characters is read whole: no token is shorter than one."""
        # no more than so many tokens beside the first, the last, and the space that SentencePiece puts before a text
        return self.tokens - 3

    def unread(self, text: str) -> str:
        """The end of a text that is not read, in whole words; "" when all is. A word read in part counts."""
        if text.isascii() and len(text) <= self.safe_bytes:
            return ""
        words = text.split()
        if self.count(text) <= self.tokens:
            return ""
        fits = partial(self._tokens_of, words)
        read = bisect_right(range(len(words) + 1), self.tokens, key=fits) - 1
        return " ".join(words[max(read, 0) :])

    def count(self, text: str) -> int:
        """The tokens of a text, with those that begin and end it."""
        found = self._tokenizer(" ".join(text.split()))
        return len(getattr(found, "ids", None) or found.input_ids)

    def _tokens_of(self, words: list[str], number: int) -> int:
        return self.count(" ".join(words[:number]))

    def warning(self, text: str, what: str = "caption") -> str | None:
        """A sentence about what is not read; None when all is."""
        words = self.unread(text)
        if not words:
            return None
        return f"{self.name} reads only the first {self.tokens - self.marks} tokens of the {what}; lost: {words!r}"

    @cached_property
    def _tokenizer(self) -> Callable[[str], Any]:
        """Tokenizes without cutting or filling up; of transformers only where there is no tokenizer.json."""
        file = self.folder / "tokenizer.json"
        if file.is_file():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(file))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            return tokenizer.encode
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

"""A CLIP tokenizer for the sprite grammar: one token per known word, single letters for every other word.

CLIP's vocabulary has 49,408 entries, whose embeddings would have more weights than the whole denoiser;
this one has about a thousand. It can encode any text: all bytes, also in their word-end form, are in
the vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from datasets.sprites.captions import vocabulary

MAX_LENGTH = 32  # tokens, including start and end; the longest caption of the grammar has 21
START, END = "<|startoftext|>", "<|endoftext|>"
# Words of ordinary prompts outside the grammar: untrained, but one token each, so they do not fill the
# prompt.
OTHER_WORDS = [
    "the",
    "is",
    "in",
    "of",
    "with",
    "around",
    "from",
    "towards",
    "then",
    "very",
    "forth",
    "back",
    "flying",
    "running",
    "dancing",
    "person",
    "dog",
    "cat",
    "car",
]


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write vocab.json, merges.txt and the tokenizer's configuration to `folder`; returns the loaded tokenizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted({*vocabulary(), *OTHER_WORDS})
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
    )
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator([" ".join(words)], trainer)
    learned = json.loads(learner.to_str())["model"]
    entries = sorted({*learned["vocab"], *alphabet, *(a + "</w>" for a in alphabet)} - {START, END})
    vocab = {entry: i for i, entry in enumerate([*entries, START, END])}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split()) for m in learned["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer.save_pretrained(folder)
    return tokenizer

"""Tiny tokenizers and text encoders, which several families share."""

from __future__ import annotations

from typing import Any

from transformers import CLIPTokenizer, PreTrainedTokenizerFast


def byte_clip_tokenizer(model_max_length: int = 32) -> CLIPTokenizer:
    """A CLIP tokenizer without merges whose vocabulary is the 256 bytes (with and without end-of-word)."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    symbols = [chr(byte) for byte in printable]
    symbols += [chr(256 + index) for index in range(256 - len(printable))]
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        model_max_length=model_max_length,
    )


def templated_tokenizer(template: dict[str, Any]) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes that gives a pipeline's template as many tokens as the pipeline takes it to have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: number for number, one in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    before, after = template["template"].split("{}")
    # Each character is a token up to the last one, which is the rest.
    tokenizer.add_tokens([before[template["crop_start"] - 1 :], after, "<pad>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")

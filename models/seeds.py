"""Seeds derived from names, so that randomness does not depend on order, process or machine."""

from __future__ import annotations

import hashlib

import torch


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts; the same on every machine and in every process."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A new generator seeded by `stable_seed(*parts)`."""
    return torch.Generator(device).manual_seed(stable_seed(*parts))

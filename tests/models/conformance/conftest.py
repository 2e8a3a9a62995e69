"""Every checkpoint of models/tiny.py passes or fails each test of this folder: a new family adds nothing here.

docs/adding-a-foundation.md says what a family must do, and which test holds it to that.
"""

import functools

import pytest
import torch

from models.load import load_foundation
from models.tiny import RECIPES


@functools.cache
def loaded(name):
    return load_foundation(f"tiny-random:{name}", device="cpu", dtype=torch.float32)


@pytest.fixture(params=sorted(RECIPES))
def foundation(request):
    """A tiny random foundation of each kind, in float32 on the CPU; without a bank, before and after the test."""
    found = loaded(request.param)
    yield found
    if found.bank is not None:
        found.bank.remove()
        found._bank = None
